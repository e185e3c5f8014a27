"""Resources: the pictures that a guest keeps in its graphics memory, and where each of them lies."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from mdev_user.driver import AB24, AR24, BA24, BX24, PAGE, RA24, RX24, XB24, XR24, MiB, Rect

BYTES = 4
"""Of a pixel, in all formats."""
LARGEST, LARGEST_POINTER = 16384, 256
"""Pixels of a resource, and of a pointer, each way."""
MOST_SHOWN = 64 * MiB
"""Bytes from the first pixel on a head to behind its last: nobody can look at more (`Picture`)."""
STRETCH, MOST_LINES = MiB, 1024
"""Bytes, and lines, that are copied until others have their turn. No line is longer."""

FORMATS: Mapping[int, int] = {
    1: AR24, 2: XR24, 3: BA24, 4: BX24, 67: AB24, 68: RX24, 121: RA24, 134: XB24,
}  # fmt: skip
"""The formats by their number in virtio-gpu (section 5.7.6.8), as DRM calls them."""
POINTER_FORMATS: Mapping[int, int] = {1: AR24, 2: AR24, 3: BA24, 4: BA24, 67: AB24, 68: RA24, 121: RA24, 134: AB24}
"""Those of a pointer's image. Linux makes its resource without alpha and has it there all the same, as QEMU does."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A picture of so many pixels; its lines follow each other without a gap."""

    format: int
    width: int
    height: int
    at: int
    """Where it begins in the graphics memory, in bytes; a multiple of a page."""

    @property
    def stride(self) -> int:
        return self.width * BYTES

    @property
    def charged(self) -> int:
        return charge(self.width, self.height)

    def holds(self, rect: Rect) -> bool:
        """Whether a rectangle, that is not empty, lies within the picture."""
        if rect.x < 0 or rect.y < 0:  # of a state that comes from anywhere
            return False
        within = rect.x + rect.width <= self.width and rect.y + rect.height <= self.height
        return within and rect.width > 0 and rect.height > 0

    def span(self, rect: Rect) -> int:
        """Bytes from the first pixel of a part to behind its last."""
        return self.stride * (rect.height - 1) + BYTES * rect.width

    def first(self, rect: Rect) -> int:
        """Where the first pixel of a part of the picture lies in it, in bytes."""
        return self.stride * rect.y + BYTES * rect.x


@dataclass(frozen=True, slots=True)
class Shown:
    """The part of a resource that is on a head."""

    resource: int
    x: int
    y: int
    width: int
    height: int

    @property
    def rect(self) -> Rect:
        return Rect(self.x, self.y, self.width, self.height)


@dataclass(frozen=True, slots=True)
class Image:
    """The pointer of a head, as the resource was when it became that, and the place of its upper left corner."""

    format: int
    width: int
    height: int
    pixels: bytes
    hot_x: int
    hot_y: int
    x: int
    y: int

    @property
    def rect(self) -> Rect:
        return Rect(self.x, self.y, self.width, self.height)

    @property
    def is_sound(self) -> bool:
        """Whether it is one that a guest can have made."""
        fits = 0 < self.width <= LARGEST_POINTER and 0 < self.height <= LARGEST_POINTER
        return fits and self.format in POINTER_FORMATS and len(self.pixels) == BYTES * self.width * self.height


def charge(width: int, height: int) -> int:
    """The graphics memory that a picture takes, in bytes: whole pages."""
    return -(-width * height * BYTES // PAGE) * PAGE


def is_sound(each: Resource, size: int) -> bool:
    """Whether it is one that a guest of so much graphics memory can have."""
    fits = 0 < each.width <= LARGEST and 0 < each.height <= LARGEST and each.format in FORMATS
    return fits and each.at % PAGE == 0 and 0 <= each.at <= size - each.charged


class Places:
    """Where pictures lie. It is kept beside them, or whoever makes one would have to look at all."""

    def __init__(self) -> None:
        self.used = 0
        """Bytes of all of them."""
        self._taken: list[tuple[int, int]] = []
        """Where each begins, and its size, in this order."""

    def add(self, each: Resource) -> None:
        insort(self._taken, (each.at, each.charged))
        self.used += each.charged

    def drop(self, each: Resource) -> None:
        """It must be there."""
        del self._taken[bisect_left(self._taken, (each.at, each.charged))]
        self.used -= each.charged

    def hole(self, needed: int, size: int) -> int | None:
        """The first in which ``needed`` bytes fit; None where there is none in ``size`` bytes of memory."""
        end = 0
        for at, taken in self._taken:
            if at - end >= needed:
                return end
            end = at + taken
        return end if size - end >= needed else None


def closed_up(resources: Mapping[int, Resource]) -> Iterator[tuple[int, Resource, Resource]]:
    """The moves that leave no hole, in their order: the number of a resource, as it is, and as it will be."""
    end = 0
    for number, each in sorted(resources.items(), key=lambda item: item[1].at):
        if each.at != end:
            yield number, each, replace(each, at=end)
        end += each.charged


def bands(resource: Resource, rect: Rect) -> Iterator[Rect]:
    """A part of a picture in parts that follow each other downwards, each at most a `STRETCH` from end to end."""
    lines = min(STRETCH // resource.stride, MOST_LINES)
    for y in range(rect.y, rect.y + rect.height, lines):
        yield Rect(rect.x, y, rect.width, min(lines, rect.y + rect.height - y))


def overlap(one: Rect, other: Rect) -> Rect:
    """What both have; of no size where they have nothing."""
    x, y = max(one.x, other.x), max(one.y, other.y)
    right = min(one.x + one.width, other.x + other.width)
    bottom = min(one.y + one.height, other.y + other.height)
    return Rect(x, y, max(0, right - x), max(0, bottom - y))
