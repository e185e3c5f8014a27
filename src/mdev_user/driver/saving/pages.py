# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Memory of the device, saved as the runs of its pages that are not zero.

Bytes are compared where they lie: a `bytearray` on the left compares itself with any buffer as fast as the processor
reads; a memoryview would go item by item. Reading a page that nobody touched would give it room, so what was never
touched is not read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from mdev_user.driver.saving.naming import meant, prefix_of
from mdev_user.errors import StateError
from mdev_user.units import PAGE, KiB

if TYPE_CHECKING:
    from mdev_user.driver.device import Device

RUN = Struct("<QQ")
CHUNK = 16 * KiB
"""Bytes that are compared at once: less costs calls, more costs copies of what did not change."""
LONGEST = 1 << 30
"""Bytes of a stretch, where nobody waits for its end. A multiple of a chunk, as every such number is."""
_ZEROS = bytearray(CHUNK)
_ZERO_PAGE = bytearray(PAGE)

Extents = Sequence[tuple[int, int]]
"""Where something can be, as pairs of offsets (first, behind the last), in order; elsewhere there are zeros."""
Run = tuple[int, int]
"""The first page, and how many."""


@dataclass(frozen=True, slots=True)
class Place:
    """One `Memory` of an open device."""

    name: str
    view: memoryview
    touched: Callable[[], Extents]
    """Where somebody has written, or read, since the device was opened."""

    @property
    def pages(self) -> int:
        return len(self.view) // PAGE


def places_of(device: "Device") -> list[Place]:
    found = []
    for (region, offset), (unit, memory) in device._memories.items():
        view = unit._state[memory._name]
        touched = _touched(device, region, offset, len(view))
        found.append(Place(prefix_of(unit._name) + memory._name, view, touched))
    return found


def _touched(device: "Device", region: int, offset: int, size: int) -> Callable[[], Extents]:
    """Where something can be in a memory; asked each time, since a guest goes on, until that is everywhere."""
    vfio, last = device._runner(), [(0, 0)]

    def extents() -> Extents:
        nonlocal last
        if last != [(0, size)]:
            found = vfio.extents(region, device._sizes[region])
            ends = [(max(begin - offset, 0), min(end - offset, size)) for begin, end in found]
            last = [(begin, end) for begin, end in ends if begin < end]
        return last

    return extents


def memory_of(places: Iterable[Place]) -> dict[str, tuple[bytes, bytes]]:
    """The pages that are not zero."""
    found = {}
    for place in places:
        runs = runs_of(occupied(place))
        if runs:
            pages = b"".join(part_of(place, run) for run in runs)
            found[place.name] = b"".join(RUN.pack(*run) for run in runs), pages
    return found


def memory_bytes(places: Iterable[Place]) -> int:
    """How many bytes a saved state of the memory can have."""
    return sum(len(each.view) + each.pages * RUN.size for each in places)


def checked_memory(places: Sequence[Place], saved: Mapping[str, tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The runs and pages of every place, as they were saved; StateError for those that it cannot have."""
    names = [each.name for each in places]
    for name in saved:
        if name not in names:
            raise StateError(f"saved state: there is no memory {name!r:.80}{meant(name, names)}")
    found = [saved.get(name, (b"", b"")) for name in names]
    for place, (runs, pages) in zip(places, found, strict=True):
        checked_runs(place.name, place.pages, runs, len(pages))
    return found


def checked_runs(name: str, size: int, packed: bytes | memoryview, given: int) -> list[Run]:
    """Ascending, without an overlap, within ``size`` pages, and together as large as the ``given`` bytes of pages."""
    if len(packed) % RUN.size:
        raise StateError(f"{name:.80}: expected pairs of 64-bit numbers, given {len(packed)} bytes")
    runs, end = list(RUN.iter_unpack(packed)), 0
    for first, count in runs:
        if not (end <= first and count and first + count <= size):
            raise StateError(f"{name:.80}: pages {first} to {first + count}: expected some from {end} to {size}")
        end = first + count
    if sum(count for _first, count in runs) * PAGE != given:
        raise StateError(f"{name:.80}: expected {sum(count for _first, count in runs)} pages, given {given} bytes")
    return runs


def part_of(place: Place, run: Run) -> memoryview:
    first, count = run
    return place.view[first * PAGE : (first + count) * PAGE]


def clear(place: Place, run: Run) -> None:
    """Only what was not zero: memory that nobody touched takes no room."""
    part_of(place, run)[:] = bytes(run[1] * PAGE)


def occupied(place: Place) -> Iterator[int]:
    """The pages that are not zero."""
    view = place.view
    for begin, end in stretches_of(place, LONGEST):
        for start in range(begin, end, CHUNK):
            chunk = view[start : start + CHUNK]
            if zeros_of(len(chunk)) != chunk:
                pages = range(start, start + len(chunk), PAGE)
                yield from (at // PAGE for at in pages if view[at : at + PAGE] != _ZERO_PAGE)


def stretches_of(place: Place, most: int) -> Iterator[tuple[int, int]]:
    """Where something can be, in stretches of whole chunks, ``most`` bytes at a time; the last chunk may be short."""
    done = 0
    for first, last in place.touched():
        start, stop = max(first - first % CHUNK, done), min(last + -last % CHUNK, len(place.view))
        for begin in range(start, stop, most):
            yield begin, min(begin + most, stop)
        done = max(done, stop)


def zeros_of(size: int) -> bytearray:
    """Of a chunk, or of one at the end of a memory."""
    return _ZEROS if size == CHUNK else bytearray(size)


def runs_of(pages: Iterable[int]) -> list[Run]:
    """Ascending pages, put together where they are neighbours."""
    runs: list[Run] = []
    for page in pages:
        if runs and sum(runs[-1]) == page:
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((page, 1))
    return runs
