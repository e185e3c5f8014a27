"""The daemon's log of uevents: numbered from 1, bounded, and read by many who do not wait for each other.

A reader keeps only the number of what it has seen. One that is too slow finds that uevents are gone, is told how
many, and can begin again with `EventLog.snapshot`. Numbers mean nothing to another daemon: each log has a name.
"""

from collections.abc import Sequence
from threading import Condition
from time import monotonic, sleep, time
from uuid import uuid4
from weakref import WeakSet

from mdev_user.daemon.views import SnapshotView, UeventLine
from mdev_user.errors import InvalidValue, NoDevice
from mdev_user.mdev.events import Event
from mdev_user.sysfs.present import Present
from mdev_user.sysfs.uevents import Uevent, uevents_of

KEPT = 1 << 14
"""Uevents that are kept for readers; a create has four, as has a remove. Some 500 bytes each."""

MOST_LINES = 256
"""That a reader is given at once."""

ATTENTION = 0.15
"""Seconds that listeners are given to learn of a new mdev, see `EventLog.attend`."""


class EventLog:
    """All methods may be called from any thread; none but `attend` waits for a reader."""

    def __init__(self, kept: int = KEPT) -> None:
        self.name = uuid4().hex
        """Of this start of the daemon."""
        self._changed = Condition()
        self._kept = kept
        self._ring: list[UeventLine] = []
        """Number N is at ``(N - 1) % kept``."""
        self._last = 0
        self._present = Present()
        self._ended = False
        self._attended: WeakSet[EventReader] = WeakSet()
        """Those for whom a create waits; one that nobody reads with any more is gone from here by itself."""
        self._told_at = 0.0
        """When they were last told something, as of `monotonic`."""

    def on_event(self, event: Event) -> None:
        """The listener for `Bus.subscribe`; subscribe it after the tree's, so that what is told of can be seen."""
        uevents = uevents_of(event)
        if uevents:
            self.tell(uevents)

    def tell(self, uevents: Sequence[Uevent]) -> None:
        """What has come or gone; readers see all of it at once."""
        with self._changed:
            for uevent in uevents:
                self._append(uevent)
                self._present.apply(self._last, uevent)
            if self._attended:
                self._told_at = monotonic()
            self._changed.notify_all()

    def attend(self) -> None:
        """Give listeners of libudev's, if somebody tells them, the time to learn of what has just come.

        For a ``create`` in sysfs, before it returns. libvirt looks for the mdev as soon as mdevctl has ended, and
        where it was not told by then looks again after 5 s; between the two nothing else would take its time.
        """
        left = self._told_at + ATTENTION - monotonic()
        if left > 0:
            sleep(left)

    def announce(self, uevent: Uevent) -> None:
        """A uevent that somebody asked for in sysfs: it changes nothing of what is there."""
        with self._changed:
            self._append(uevent)
            self._changed.notify_all()

    def end(self) -> None:
        """Whoever has read all is told that no more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def snapshot(self) -> SnapshotView:
        """What is there, and the number of the last uevent that led to it."""
        with self._changed:
            number, entries = self._last, self._present.entries()
        now = time()
        lines = [_line(added, uevent, now) for added, uevent in entries]
        return SnapshotView(daemon=self.name, number=number, uevents=lines)

    def attended(self, reader: "EventReader") -> "EventReader":
        """Let creates in sysfs wait a moment for who reads with this one, for as long as somebody does."""
        with self._changed:
            self._attended.add(reader)
        return reader

    def reader(self, after: int | None, name: str | None = None) -> "EventReader":
        """From the uevent after number ``after`` on, or from the oldest one that is kept.

        ``name`` is that of the log in which the number was read; for another one everything counts as lost.
        InvalidValue for a number that is still to come.
        """
        with self._changed:
            last, oldest = self._last, self._last - len(self._ring)
        begin = UeventLine(kind="begin", number=last, time=time(), daemon=self.name)
        if name is not None and name != self.name:
            lost = UeventLine(kind="lost", number=last, time=time(), text="the daemon was started anew")
            return EventReader(self, last, [begin, lost])
        if after is not None and after > last:
            raise InvalidValue(f"expected after to be a uevent's number, up to {last} so far, given {after}")
        return EventReader(self, oldest if after is None else after, [begin])

    def read(self, after: int, seconds: float) -> list[UeventLine]:
        """Up to `MOST_LINES`, as soon as there are some; none after ``seconds`` without.

        The first line is of the kind ``lost`` when not all after number ``after`` are kept. NoDevice when the log
        has ended and nothing is left to read.
        """
        with self._changed:
            if self._last == after and not self._ended:
                self._changed.wait(seconds)
            oldest = self._last - len(self._ring)
            if after < oldest:
                lost = UeventLine(kind="lost", number=oldest, time=time(), count=oldest - after)
                return [lost, *self._lines(oldest)]
            if self._last == after and self._ended:
                raise NoDevice("the daemon has ended")
            return self._lines(after)

    def _lines(self, after: int) -> list[UeventLine]:
        end = min(self._last, after + MOST_LINES)
        return [self._ring[number % self._kept] for number in range(after, end)]

    def _append(self, uevent: Uevent) -> None:
        line = _line(self._last + 1, uevent, time())
        if len(self._ring) < self._kept:
            self._ring.append(line)
        else:
            self._ring[self._last % self._kept] = line
        self._last += 1


class EventReader:
    """Where one reader stands in a log. For one thread at a time."""

    def __init__(self, log: EventLog, after: int, first: list[UeventLine]) -> None:
        self._log = log
        self._after = after
        self._first = first

    def read(self, seconds: float) -> list[UeventLine]:
        """What came since; see `EventLog.read`. The first line of all is of the kind ``begin``."""
        if self._first:
            lines, self._first = self._first, []
            return lines
        lines = self._log.read(self._after, seconds)
        if lines:
            self._after = lines[-1].number
        return lines


def _line(number: int, uevent: Uevent, when: float) -> UeventLine:
    return UeventLine(
        kind="uevent",
        number=number,
        time=when,
        action=uevent.action,
        devpath=uevent.devpath,
        subsystem=uevent.subsystem,
        properties=uevent.properties,
    )
