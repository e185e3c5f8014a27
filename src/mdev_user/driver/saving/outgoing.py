# ruff: noqa: SLF001 - a device and its units are the framework's own
"""Outgoing: an open device as a stream, in pieces, while its guest goes on and after it has stopped.

While it runs, memory is sent in passes. The first gives all that is not zero, each later one what has changed since;
every one ends with nothing to read, so that whoever reads can say when it is enough. When the device has stopped comes
one more pass, then all that is not memory, and the end.
"""

from collections.abc import Generator, Iterator
from struct import Struct
from typing import TYPE_CHECKING

from mdev_user.driver.saving.header import header_of
from mdev_user.driver.saving.kinds import encoded
from mdev_user.driver.saving.pages import RUN, places_of
from mdev_user.driver.saving.records import Kind, Writer
from mdev_user.driver.saving.shadow import Budget, Changed, Shadow
from mdev_user.driver.saving.snapshot import body_of
from mdev_user.driver.saving.transfer import stream_of
from mdev_user.errors import Unmigratable
from mdev_user.units import KiB, MiB
from mdev_user.vfio.migration import Precopy

if TYPE_CHECKING:
    from mdev_user.driver.device import Device

PAGES = Struct("<II")
"""What a record of pages begins with: the number of the memory, and of the runs."""
RUNNING = Budget(MiB, 128 * KiB)
"""Of one read of a running device: well below the millisecond that a guest should wait for a step."""
STOPPED = Budget(MiB, 768 * KiB)
"""Of one record of a stopped device; with a head for each page it still fits in a record."""
OTHERS = 16 * KiB
"""About how many bytes a state has that are not memory."""


def check_migratable(device: "Device") -> None:
    """EOPNOTSUPP, and the driver's reason, when the device cannot be saved at the moment."""
    if (reason := device.unmigratable()) is not None:
        raise Unmigratable(f"{device.uuid} cannot be saved now: {reason}")


class DeviceOutgoing:
    """The stream of a declared device."""

    def __init__(self, device: "Device", *, precopy: bool) -> None:
        check_migratable(device)
        places = places_of(device)
        self._header = header_of(type(device.function), device.function.profile, places)
        self._shadows = [Shadow(number, each, kept=precopy) for number, each in enumerate(places)]
        self._device, self._stopped = device, not precopy
        self._writer, self._records = Writer(), self._stream()
        self._rest = memoryview(b"")
        """Of a record that did not fit in the last read."""
        self._passes = self._found = self._last = 0
        """Passes that are over, bytes that this one has found, and those that the last one did."""
        self._others = OTHERS
        self._copies = int(precopy)
        device.copies += self._copies

    def read(self, most: int) -> bytes:
        self._device._runner()  # it was closed, or its driver was replaced: what follows would be another's
        if self._rest:
            return self._cut(bytes(self._rest), most)
        return self._cut(next(self._records, b""), most)

    def stop(self) -> None:
        """What a running pass has yet to look at is looked at in the last one."""
        check_migratable(self._device)
        self._stopped = True
        for each in self._shadows:
            each.kept = False

    def precopy(self) -> Precopy:
        left = len(self._rest) + self._memory_left()
        return Precopy(0, left) if self._passes else Precopy(left, 0)

    def size(self) -> int:
        return len(self._rest) + self._memory_left() + self._others

    def close(self) -> None:
        self._device.copies -= self._copies
        self._copies = 0
        self._shadows.clear()
        self._records.close()
        self._rest = memoryview(b"")

    def _memory_left(self) -> int:
        """What was touched, until a pass is over; then as much as the last pass found."""
        if not self._passes:
            return max(sum(each.touched() for each in self._shadows) - self._found, 0)
        return max(self._last - self._found, 0) if self._stopped else max(self._last, self._found)

    def _cut(self, data: bytes, most: int) -> bytes:
        self._rest = memoryview(data)[most:]
        return data[:most]

    def _stream(self) -> Generator[bytes, None, None]:
        yield self._writer.begin() + self._writer.record(Kind.HEADER, encoded(self._header))
        while not self._stopped:
            yield from self._pass(RUNNING)
            # One may have been taken for a pause by whoever asks for much at once.
            ends = 1 if self._last else 2
            for _end in range(ends):
                if not self._stopped:
                    yield b""
        yield from self._pass(STOPPED)
        self._last = 0
        yield self._writer.record(Kind.STATE, body_of(stream_of(self._device, {})))
        self._others = 0
        yield self._writer.record(Kind.END)

    def _pass(self, budget: Budget) -> Iterator[bytes]:
        """Until it is over, or a running device is stopped."""
        stopped = self._stopped
        for shadow in self._shadows:
            for changed in shadow.changed(budget):
                if changed is not None:
                    self._found += changed.size
                    yield self._pages(changed)
                elif not stopped:
                    yield self._writer.record(Kind.NOTHING)
                if self._stopped is not stopped:
                    return
        self._passes, self._last, self._found = self._passes + 1, self._found, 0

    def _pages(self, changed: Changed) -> bytes:
        runs = b"".join(RUN.pack(*run) for run in changed.runs)
        return self._writer.record(Kind.PAGES, PAGES.pack(changed.number, len(changed.runs)), runs, *changed.pages)
