"""What has changed on a device's heads since a watcher last looked: a bounded set of rectangles for each.

Everything here is a part of a step: a watcher that takes the damage and the picture in one step misses nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

MOST_RECTANGLES = 64
"""That a watcher is given; were there more, it is given the one around all of them."""


@dataclass(frozen=True, slots=True)
class Rect:
    """Pixels of a head: ``width`` by ``height`` of them, from x, y on. It may reach beyond the picture."""

    x: int
    y: int
    width: int
    height: int

    def covers(self, other: "Rect") -> bool:
        """Whether every pixel of the other is one of this."""
        return (
            self.x <= other.x
            and self.y <= other.y
            and other.x + other.width <= self.x + self.width
            and other.y + other.height <= self.y + self.height
        )

    def around(self, other: "Rect") -> "Rect":
        """The smallest one that covers both."""
        x, y = min(self.x, other.x), min(self.y, other.y)
        right = max(self.x + self.width, other.x + other.width)
        bottom = max(self.y + self.height, other.y + other.height)
        return Rect(x, y, right - x, bottom - y)

    def continues(self, other: "Rect") -> bool:
        """Whether both together are a rectangle: two pieces of the same columns, or of the same lines."""
        if self.x == other.x and self.width == other.width:
            return self.y <= other.y + other.height and other.y <= self.y + self.height
        same_lines = self.y == other.y and self.height == other.height
        return same_lines and self.x <= other.x + other.width and other.x <= self.x + self.width


class Damage:
    """What has changed on one head since its watcher took it last."""

    __slots__ = ("_feeds", "_rects", "_tells", "_wake", "head")

    def __init__(self, feeds: "DamageFeeds", head: int, wake: Callable[[], None], tells: Callable[[], bool]) -> None:
        self._feeds, self.head, self._wake, self._tells = feeds, head, wake, tells
        self._rects: list[Rect] | None = None
        """None: all of it."""

    def take(self) -> tuple[Rect, ...] | None:
        """The rectangles, which are forgotten; none when nothing has changed, and None when anything may have.

        None at first, and whenever the device was opened, reset, loaded or closed, or has another mode. It is always
        None where a guest draws into mapped memory, so that nobody knows: look at the picture as often as it matters.
        """
        taken, self._rects = self._rects, []
        return tuple(taken) if taken is not None and self._tells() else None

    def close(self) -> None:
        """Nobody takes it any more."""
        self._feeds.watched = tuple(each for each in self._feeds.watched if each is not self)

    def add(self, rect: Rect | None) -> None:
        # The watcher is woken when there was nothing to take.
        rects = self._rects
        if rects is None or (rect is not None and (rect.width <= 0 or rect.height <= 0)):
            return
        was_empty = not rects
        if rect is None:
            self._rects = None
        else:
            _put(rects, rect)
        if was_empty:
            self._wake()


class DamageFeeds:
    """The watchers of one device, whoever uses it."""

    __slots__ = ("watched",)

    def __init__(self) -> None:
        self.watched: tuple[Damage, ...] = ()
        """Empty while nobody watches: whoever tells of damage looks here first."""

    def watch(self, head: int, wake: Callable[[], None], tells: Callable[[], bool]) -> Damage:
        """``wake`` is called in a step, by whatever thread, and never waits. ``tells`` says whether damage is told."""
        damage = Damage(self, head, wake, tells)
        self.watched = (*self.watched, damage)
        return damage

    def add(self, head: int, rect: Rect | None) -> None:
        """Something has changed on a head; None: all of it."""
        for each in self.watched:
            if each.head == head:
                each.add(rect)

    def add_all(self) -> None:
        """All may have changed on every head."""
        for each in self.watched:
            each.add(None)


def _put(rects: list[Rect], new: Rect) -> None:
    """Add one to a list in which none covers another, and no two make a rectangle."""
    if any(each.covers(new) for each in rects):
        return
    while (joined := next((each for each in rects if each.continues(new)), None)) is not None:
        rects.remove(joined)
        new = new.around(joined)
    rects[:] = [each for each in rects if not new.covers(each)]
    if len(rects) == MOST_RECTANGLES:
        for each in rects:
            new = new.around(each)
        rects.clear()
    rects.append(new)
