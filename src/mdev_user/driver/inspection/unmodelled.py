"""What guests access and nobody declared, as registers that an author could declare.

Accesses are merged: of those that overlap, the largest tells the size of the register. Where an access is of no
register's size, is not aligned to it, or also touches a register that is declared, the other bytes of it are cut into
registers as large as their alignment allows.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from mdev_user.driver.inspection.live import live_bars
from mdev_user.regs.layout import Layout
from mdev_user.vfio.inspection import MissingRegisters, Suggestion, Unmodelled

if TYPE_CHECKING:
    from mdev_user.driver.device import Device

MOST_SUGGESTED = 128
"""Registers of one bar class: a single access may be of a whole bar."""
_SIZES = (8, 4, 2, 1)
_WIDEST_CUT = 4
"""Bytes."""

Key = tuple[int, int, int, bool]
"""An access as a device counts it: region, offset, size, and whether it wrote."""

Span = tuple[int, int]
"""The first byte, and the one behind the last."""


@dataclass(frozen=True, slots=True)
class Access:
    """All accesses of one kind to one place."""

    offset: int
    size: int
    written: bool
    count: int

    @property
    def span(self) -> Span:
        return self.offset, self.offset + self.size


def unmodelled(device: "Device", counted: Mapping[Key, int], most: int) -> Unmodelled:
    """What is lacking. ``counted`` is a copy of the device's own count, which has up to ``most`` different accesses."""
    layouts = {bar.region: bar.layout for bar in live_bars(device)}
    by_layout: dict[Layout, list[Access]] = {}  # several parts have bars of one class
    for (region, offset, size, written), count in counted.items():
        by_layout.setdefault(layouts[region], []).append(Access(offset, size, written, count))
    return Unmodelled(
        bars=[_missing(layout, accesses) for layout, accesses in by_layout.items()],
        accesses=sum(counted.values()),
        forgotten=len(counted) >= most,
    )


def suggestions(layout: Layout, accesses: Iterable[Access]) -> Iterator[Suggestion]:
    """The registers that ``layout`` lacks, ascending; lazily, since one access may be of a whole bar."""
    told = list(accesses)
    declared = _merged((slot.offset, slot.end) for slot in layout.slots if slot.selected is None)
    whole = _whole(told, declared)
    rest = _between(_merged(each.span for each in told), _merged([*declared, *whole]))
    taken = {slot.path for slot in layout.slots}
    for start, end in sorted([*whole, *rest]):
        for offset, size in [(start, end - start)] if (start, end) in whole else _cut(start, end):
            yield _suggestion(offset, size, told, taken)


def _missing(layout: Layout, accesses: Iterable[Access]) -> MissingRegisters:
    found = list(islice(suggestions(layout, accesses), MOST_SUGGESTED + 1))
    return MissingRegisters(layout.bar, found[:MOST_SUGGESTED], left_out=len(found) > MOST_SUGGESTED)


def _suggestion(offset: int, size: int, accesses: Iterable[Access], taken: Iterable[str]) -> Suggestion:
    counts = {False: 0, True: 0}
    for each in accesses:
        if each.offset < offset + size and offset < each.offset + each.size:
            counts[each.written] += each.count
    name = f"unknown_{offset:#x}"
    while name in taken:
        name += "_"
    return Suggestion(name, offset, size, counts[False], counts[True])


def _whole(accesses: Iterable[Access], declared: Sequence[Span]) -> set[Span]:
    """The accesses that are a register of their own. Those that are aligned lie within each other or apart."""
    found: set[Span] = set()
    for each in sorted(accesses, key=lambda each: -each.size):
        aligned = each.size in _SIZES and each.offset % each.size == 0
        taken = any(start < each.span[1] and each.offset < end for start, end in found)
        if aligned and not taken and list(_between([each.span], declared)) == [each.span]:
            found.add(each.span)
    return found


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The same bytes in spans that are apart, ascending."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _between(spans: Iterable[Span], taken: Sequence[Span]) -> Iterator[Span]:
    """What of ``spans`` is not ``taken``; both apart and ascending."""
    for start, end in spans:
        at = start
        for number in range(bisect_right(taken, start, key=lambda span: span[1]), len(taken)):
            first, last = taken[number]
            if first >= end:
                break
            if first > at:
                yield at, first
            at = last
        if at < end:
            yield at, end


def _cut(start: int, end: int) -> Iterator[Span]:
    """Registers that fill ``start`` to ``end``: offset and size."""
    while start < end:
        size = next(each for each in _SIZES if each <= _WIDEST_CUT and start % each == 0 and start + each <= end)
        yield start, size
        start += size
