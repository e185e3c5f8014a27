"""The trace of one mdev: what its user does, while somebody reads along.

A watch stands between the user and the driver's operations only while there are readers, so an mdev that nobody traces
pays nothing. Each thing that happens goes into the queue of every reader; what it means is worked out when it is read,
in that thread. Queues are bounded: who reads too slowly loses the oldest lines, and the guest loses no time.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic, sleep, time

from mdev_user.errors import Busy, NoDevice
from mdev_user.host.steps import step_within
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.inspection import Decoder, Sighting, TraceLine
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.requests import Reply, Request, Reset
from mdev_user.vfio.step_lock import StepLock

_log = logging.getLogger(__name__)

MOST_READERS = 8
"""Of one mdev at a time."""
MOST_WAITING = 4096
"""Lines that a reader may be behind."""
_SHOWN_DATA = 16
"""Bytes of an access."""
_KEPT_DATA = 64
"""Bytes of an access, for its decoder."""

_ABANDONED = 600.0
"""Seconds after which a reader that does not come back is taken for dead."""
_PAUSE = 0.02
"""Seconds between two looks of a reader that waits. Being woken would cost the guest's step more than looking costs."""
_LONGEST_TEXT = 500


@dataclass(slots=True)
class _Event:
    """One thing that happened; the fields are those of `TraceLine`."""

    kind: str
    region: int = -1
    offset: int = 0
    size: int = 0
    data: bytes = b""
    sighting: Sighting | None = None
    count: int = 0
    interrupts: int = 0
    text: str = ""
    number: int = 0
    time: float = field(default_factory=time)


@dataclass(slots=True)
class _Reader:
    next: int
    """The number of the first event that it has not been given."""
    waiting: deque[_Event] = field(default_factory=lambda: deque(maxlen=MOST_WAITING))
    seen: float = field(default_factory=monotonic)
    """When it was last there."""


class Tracer:
    """The readers of one mdev. Methods are called by any thread, without the step lock."""

    def __init__(self, device: VfioDevice, lock: StepLock, user: Callable[[], str]) -> None:
        """``lock`` is the step lock; ``user`` names who has the device open."""
        self._device = device
        self._lock = lock
        self._guard = Lock()
        self._readers: dict[int, _Reader] = {}
        """Replaced, never changed: steps go through it while others come and go."""
        self._user = user
        self._number = 0

    def begin(self, reader: int) -> None:
        """Let ``reader``, a number of the caller's, read what happens from now on. EBUSY with too many of them."""
        with step_within(self._lock, self._device.counters, "begin trace"):
            with self._guard:
                if len(self._readers) >= MOST_READERS:
                    raise Busy(f"{self._device.uuid} is traced {MOST_READERS} times, which is the most")
                self._readers = {**self._readers, reader: _Reader(self._number)}
            if len(self._readers) == 1:  # a new one each time: it must keep no driver alive that was replaced
                self._device.watch(_Watch(self._device, self._user, self._put))

    def end(self, reader: int) -> None:
        """``reader`` is gone. A stuck driver is not waited for: its next step sees that nobody reads."""
        self._forget(reader)
        if not self._readers and self._lock.acquire(timeout=_PAUSE):
            try:
                self._unwatch_unless_read()
            finally:
                self._lock.release()

    def read(self, reader: int, seconds: float, most: int) -> list[TraceLine]:
        """Up to ``most`` lines, none when nothing happens for ``seconds``. ENODEV for one that did not begin."""
        if reader not in self._readers:
            raise NoDevice(f"{self._device.uuid}: this trace has ended, or was not read for {_ABANDONED:.0f} s")
        each = self._readers[reader]
        deadline = monotonic() + seconds
        while not each.waiting and monotonic() < deadline:
            sleep(_PAUSE)
        each.seen = monotonic()
        lines: list[TraceLine] = []
        while each.waiting and len(lines) < most:
            event = each.waiting.popleft()
            if event.number > each.next:
                lines.append(TraceLine(kind="lost", time=event.time, count=event.number - each.next))
            each.next = event.number + 1
            lines.append(_line(event))
        return lines

    def _forget(self, reader: int) -> None:
        with self._guard:
            self._readers = {number: each for number, each in self._readers.items() if number != reader}

    def _put(self, event: _Event) -> None:
        """A part of a step."""
        event.number, self._number = self._number, self._number + 1
        now = monotonic()
        for number, reader in self._readers.items():
            if now - reader.seen < _ABANDONED:
                reader.waiting.append(event)
            else:
                self._forget(number)
        self._unwatch_unless_read()

    def _unwatch_unless_read(self) -> None:
        if not self._readers:
            self._device.watch(None)


class _Watch:
    """What the device calls instead of the driver. Everything here is a part of a step."""

    def __init__(self, device: VfioDevice, user: Callable[[], str], put: Callable[[_Event], None]) -> None:
        self._device = device
        self._counters = device.counters
        self._user = user
        self._put_now = put
        self._during: list[_Event] | None = None
        """What happened in the access that is under way, which is told first."""
        self._interrupts = device.counters.interrupts
        self._ops: DeviceOps = device.ops
        self._decoder = self._new_decoder()

    def read(self, region: int, offset: int, count: int) -> bytes:
        event = self._look("read", region, offset, count)
        try:
            data = self._ops.read(region, offset, count)
        except BaseException as error:
            self._refused(event, error)
            raise
        event.data = data[:_KEPT_DATA]
        self._performed(event)
        return data

    def write(self, region: int, offset: int, data: bytes) -> None:
        event = self._look("write", region, offset, len(data))
        event.data = data[:_KEPT_DATA]
        try:
            self._ops.write(region, offset, data)
        except BaseException as error:
            self._refused(event, error)
            raise
        self._performed(event)

    def ioctl(self, request: Request) -> Reply:
        reply = self._ops.ioctl(request)
        if isinstance(request, Reset):
            self._decoder = self._new_decoder()  # what it reset is no news
            self._put(_Event("reset"))
        return reply

    def opened(self) -> None:
        self._decoder = self._new_decoder()  # what happened before is no news
        self._put(_Event("opened", text=self._user()))

    def closed(self) -> None:
        self._put(_Event("closed", text=self._user()))

    def replaced(self) -> None:
        self._ops = self._device.ops
        self._decoder = self._new_decoder()
        self._put(_Event("reloaded"))

    def spawned(self, name: str) -> None:
        self._put(_Event("job", text=name))

    def _look(self, kind: str, region: int, offset: int, size: int) -> _Event:
        if since := self._new_interrupts():  # by a job, or an attribute's store
            self._put(_Event("interrupt", count=since))
        event = _Event(kind, region, offset, size)
        self._during = []
        if self._decoder is not None:
            try:
                event.sighting = self._decoder.look(region, offset, size, written=kind == "write")
            except Exception:  # noqa: BLE001 - as in _new_decoder
                self._go_on_without_names()
        return event

    def _new_decoder(self) -> Decoder | None:
        try:
            return self._ops.decoder()
        except Exception:  # noqa: BLE001 - a mistake in what only looks must not become the guest's trouble
            self._go_on_without_names()
            return None

    def _go_on_without_names(self) -> None:
        _log.exception("%s: the trace goes on without names", self._device.uuid)
        self._decoder = None

    def _performed(self, event: _Event) -> None:
        if event.sighting is not None:
            try:
                event.sighting.end()
            except Exception:  # noqa: BLE001 - as in _new_decoder
                self._go_on_without_names()
                event.sighting = None
        self._told(event)

    def _refused(self, event: _Event, error: BaseException) -> None:
        event.sighting, event.text = None, str(error) or type(error).__name__
        self._told(event)

    def _told(self, event: _Event) -> None:
        event.interrupts = self._new_interrupts()
        during, self._during = self._during or (), None
        for each in (event, *during):
            self._put_now(each)

    def _put(self, event: _Event) -> None:
        if self._during is None:
            self._put_now(event)
        else:
            self._during.append(event)

    def _new_interrupts(self) -> int:
        count = self._counters.interrupts - self._interrupts
        self._interrupts += count
        return count


def _line(event: _Event) -> TraceLine:
    return TraceLine(
        kind=event.kind,
        time=event.time,
        region=event.region,
        offset=event.offset,
        size=event.size,
        data=event.data[:_SHOWN_DATA].hex(),
        decoded=event.sighting.tell(event.data) if event.sighting is not None else None,
        count=event.count,
        interrupts=event.interrupts,
        text=event.text[:_LONGEST_TEXT],
    )
