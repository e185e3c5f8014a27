"""Landing: where the pages of a migration stream go as they come.

Into the device's memory itself: while a stream comes nothing else reads or writes it, and copying it once more at the
end would be time in which a guest stands still. What is overwritten is kept until it is known that the device takes
the stream. Pages of an older version of the driver's state are for its upgrades, and are collected beside the device.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from mdev_user.driver.saving.pages import RUN, Place, Run, checked_runs, clear, occupied, part_of, runs_of
from mdev_user.errors import StateError
from mdev_user.units import PAGE

_ZEROS = bytes(PAGE)


class Landing(Protocol):
    """The memory of a stream."""

    def put(self, number: int, runs: memoryview, pages: memoryview) -> None:
        """Some pages of the memory of this number. StateError, and nothing is put, for what is not there."""
        ...

    def collected(self) -> Mapping[str, tuple[bytes, bytes]]:
        """What was put and is not in the device's memory, as `Snapshot.memory` has it."""
        ...

    def finish(self) -> None:
        """The device takes the stream: what it did not say is zero."""
        ...

    def undo(self) -> None:
        """The device does not: its memory is as it was."""
        ...


class InPlace:
    """In the device's memory."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = [_Landed(each) for each in places]

    def put(self, number: int, runs: memoryview, pages: memoryview) -> None:
        if number >= len(self._places):
            raise StateError(f"migration stream: memory {number}: expected less than {len(self._places)}")
        landed = self._places[number]
        landed.put(checked_runs(landed.place.name, landed.place.pages, runs, len(pages)), pages)

    def collected(self) -> Mapping[str, tuple[bytes, bytes]]:
        return {}

    def finish(self) -> None:
        for each in self._places:
            each.finish()

    def undo(self) -> None:
        for each in self._places:
            each.undo()


class _Landed:
    """One memory."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._written = bytearray(place.pages)
        """A byte for each page: 1 where the stream wrote."""
        self._before: dict[int, bytes | None] = dict.fromkeys(occupied(place))
        """The pages that were not zero, and what was in those that were overwritten."""

    def put(self, runs: list[Run], pages: memoryview) -> None:
        at = 0
        for first, count in runs:
            if self._before:
                self._keep(first, count)
            self._written[first : first + count] = b"\1" * count
            size = count * PAGE
            part_of(self.place, (first, count))[:] = pages[at : at + size]
            at += size

    def _keep(self, first: int, count: int) -> None:
        for page in range(first, first + count):
            if page in self._before and not self._written[page]:
                self._before[page] = bytes(part_of(self.place, (page, 1)))

    def finish(self) -> None:
        for run in runs_of(page for page in self._before if not self._written[page]):
            clear(self.place, run)

    def undo(self) -> None:
        for run in runs_of(page for page in range(self.place.pages) if self._written[page]):
            clear(self.place, run)
        for page, before in self._before.items():
            if before is not None:
                part_of(self.place, (page, 1))[:] = before


class Collected:
    """Beside the device, for the upgrades of an older state."""

    def __init__(self, memories: Iterable[tuple[str, int]], most: int) -> None:
        """``memories`` are the names and sizes in pages that the stream gives; ``most`` bytes are kept in all."""
        self._memories = list(memories)
        self._pages: list[dict[int, bytes]] = [{} for _ in self._memories]
        self._left = most

    def put(self, number: int, runs: memoryview, pages: memoryview) -> None:
        if number >= len(self._memories):
            raise StateError(f"migration stream: memory {number}: expected less than {len(self._memories)}")
        at, found = 0, self._pages[number]
        for first, count in checked_runs(*self._memories[number], runs, len(pages)):
            for page in range(first, first + count):
                if page not in found:
                    self._take_room()
                found[page] = bytes(pages[at : at + PAGE])
                at += PAGE

    def _take_room(self) -> None:
        self._left -= PAGE
        if self._left < 0:
            raise StateError("migration stream: it has more memory than this mdev: it is of another type")

    def collected(self) -> Mapping[str, tuple[bytes, bytes]]:
        found = {}
        for (name, _size), pages in zip(self._memories, self._pages, strict=True):
            taken = {page: pages[page] for page in sorted(pages) if pages[page] != _ZEROS}
            if taken:
                found[name] = b"".join(RUN.pack(*run) for run in runs_of(taken)), b"".join(taken.values())
        return found

    def finish(self) -> None:
        """What becomes of it is in the upgraded state."""

    def undo(self) -> None:
        """It was beside the device."""
