# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Memory of the device, saved as the runs of its pages that are not zero."""

from collections.abc import Iterator, Mapping
from struct import Struct

from mdev_user.driver.saving.naming import Units, meant, prefixed
from mdev_user.errors import StateError
from mdev_user.units import PAGE, KiB

_RUN = Struct("<QQ")
_CHUNK = 256 * KiB
_ZEROS = bytes(_CHUNK)


def memory_of(units: Units) -> dict[str, tuple[bytes, bytes]]:
    """The pages that are not zero."""
    found = {}
    for prefix, unit in prefixed(units):
        for memory in unit._plan.memories:
            runs, pages = _runs(unit._state[memory._name])
            if pages:
                found[prefix + memory._name] = b"".join(_RUN.pack(*run) for run in runs), pages
    return found


def memory_bytes(units: Units) -> int:
    """How many bytes a saved state of the memory can have."""
    sizes = [memory._bytes(unit.profile) for unit in units.values() for memory in unit._plan.memories]
    return sum(size + size // PAGE * _RUN.size for size in sizes)


def checked_memory(
    units: Units, saved: Mapping[str, tuple[bytes, bytes]]
) -> Iterator[tuple[memoryview, list[tuple[int, int]], bytes]]:
    views = {
        prefix + memory._name: unit._state[memory._name]
        for prefix, unit in prefixed(units)
        for memory in unit._plan.memories
    }
    for name in saved:
        if name not in views:
            raise StateError(f"saved state: there is no memory {name!r:.80}{meant(name, views)}")
    for name, view in views.items():
        packed, pages = saved.get(name, (b"", b""))
        yield view, _checked_runs(name, len(view) // PAGE, packed, len(pages)), pages


def _checked_runs(name: str, size: int, packed: bytes, given: int) -> list[tuple[int, int]]:
    """Ascending, without an overlap, within ``size`` pages, and together as large as what was given."""
    if len(packed) % _RUN.size:
        raise StateError(f"{name}: expected pairs of 64-bit numbers, given {len(packed)} bytes")
    runs, end = list(_RUN.iter_unpack(packed)), 0
    for first, count in runs:
        if not (end <= first and count and first + count <= size):
            raise StateError(f"{name}: pages {first} to {first + count}: expected some from {end} to {size}")
        end = first + count
    if sum(count for _first, count in runs) * PAGE != given:
        raise StateError(f"{name}: expected {sum(count for _first, count in runs)} pages, given {given} bytes")
    return runs


def fill(view: memoryview, runs: list[tuple[int, int]], pages: bytes) -> None:
    """Write only where something is to be, or was: memory that nobody touched takes no room."""
    for first, count in _runs(view)[0]:
        view[first * PAGE : (first + count) * PAGE] = bytes(count * PAGE)
    at = 0
    for first, count in runs:
        view[first * PAGE : (first + count) * PAGE] = pages[at : at + count * PAGE]
        at += count * PAGE


def _runs(view: memoryview) -> tuple[list[tuple[int, int]], bytes]:
    runs: list[tuple[int, int]] = []
    pages: list[bytes] = []
    for start in range(0, len(view), _CHUNK):
        chunk = bytes(view[start : start + _CHUNK])
        if chunk == _ZEROS[: len(chunk)]:
            continue
        for at in range(0, len(chunk), PAGE):
            page = chunk[at : at + PAGE]
            if page != _ZEROS[:PAGE]:
                _extend(runs, (start + at) // PAGE)
                pages.append(page)
    return runs, b"".join(pages)


def _extend(runs: list[tuple[int, int]], page: int) -> None:
    if runs and sum(runs[-1]) == page:
        runs[-1] = runs[-1][0], runs[-1][1] + 1
    else:
        runs.append((page, 1))
