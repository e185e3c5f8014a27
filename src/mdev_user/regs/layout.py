"""The layout of a bar: all its registers at their places, checked, and which of them an access reaches.

At each byte a read and a write have their list of *candidates*: overlays first, in declaration order, then what lies
below them. The first one whose bank is selected answers. Where a register for reading and one for writing share a
place, each is first in its own list.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from mdev_user.errors import DriverError
from mdev_user.regs.mistakes import likeliest
from mdev_user.regs.slots import Condition, Slot

Candidates: TypeAlias = tuple[Slot, ...]


class Cover:
    """The candidates of one direction, by range of bytes."""

    __slots__ = ("bounds", "candidates")

    def __init__(self, pieces: Iterable[tuple[int, Candidates]]) -> None:
        """``pieces`` begin at byte 0, in order; the last one is the empty rest of the bar."""
        self.bounds: list[int] = []
        self.candidates: list[Candidates] = []
        for start, candidates in pieces:
            if not self.bounds or candidates != self.candidates[-1]:
                self.bounds.append(start)
                self.candidates.append(candidates)

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, Candidates]]:
        """What bytes ``start`` to ``end`` are: where each piece starts, ascending, and its candidates."""
        bounds, candidates = self.bounds, self.candidates
        at = bisect_right(bounds, start) - 1
        yield start, candidates[at]
        at += 1
        while at < len(bounds) and bounds[at] < end:
            yield bounds[at], candidates[at]
            at += 1


class Layout:
    """The compiled registers of a bar class. ``bar`` is its name, for messages."""

    def __init__(self, bar: str, size: int, slots: Iterable[Slot], sources: dict[int, str]) -> None:
        """``sources`` names the registers that an unplaced reference can mean, by the id of what it has as source."""
        self.bar = bar
        self.size = size
        declared = tuple(slots)
        self._sources = sources
        self._by_path = _by_path(declared)
        self.slots = tuple(replace(slot, selected=self._selected_by(slot)) for slot in declared)
        self._by_path = _by_path(self.slots)
        _check_ends(bar, size, self.slots)
        self.resets = [slot.reset for slot in self.slots]
        banks = dict.fromkeys(slot.selected for slot in self.slots if slot.selected)
        self._order = {condition: at for at, condition in enumerate([*banks, None])}
        pieces = list(_pieces(self.slots))
        for _start, covering in pieces:
            _check_sharing(bar, covering)
        self.reads = Cover((start, self._ordered(covering, reading=True)) for start, covering in pieces)
        self.writes = Cover((start, self._ordered(covering, reading=False)) for start, covering in pieces)

    def find(self, path: str) -> tuple[Slot, ...]:
        """The registers of this name: one, or one of each element. DriverError for one that is not there."""
        if path not in self._by_path:
            raise DriverError(f"{self.bar} has no register {path}{likeliest(path, self._by_path)}")
        return tuple(self._by_path[path])

    def _selected_by(self, slot: Slot) -> Condition | None:
        ref = slot.bank
        if ref is None:
            return None
        path = self._sources.get(id(ref.source), "")
        if not path:
            raise DriverError(
                f"{self.bar}.{slot.path}: bank={ref}: expected a bit of a register that is placed, once, in {self.bar} "
                f"and not in an array; name it by the class of the register, such as Lcr.dlab"
            )
        found = self.find(path)[0]
        return Condition(found.index, ref.mask, None if ref.wanted is None else ref.wanted << ref.lsb)

    def _ordered(self, covering: Sequence[Slot], *, reading: bool) -> Candidates:
        def rank(slot: Slot) -> tuple[int, bool, int]:
            concerned = slot.masks.reads if reading else slot.masks.writes
            return self._order[slot.selected], not concerned, slot.index

        candidates: list[Slot] = []
        for slot in sorted(covering, key=rank):
            if (
                not candidates or candidates[-1].selected != slot.selected
            ):  # of two that share, only the first is concerned
                candidates.append(slot)
        return tuple(candidates)


def selected(candidates: Candidates, values: Sequence[int]) -> Slot | None:
    """The candidate that answers now."""
    for slot in candidates:
        if slot.selected is None or slot.selected.holds(values):
            return slot
    return None


def _by_path(slots: Iterable[Slot]) -> dict[str, list[Slot]]:
    found: dict[str, list[Slot]] = {}
    for slot in slots:
        found.setdefault(slot.path, []).append(slot)
    return found


def _pieces(slots: Iterable[Slot]) -> Iterator[tuple[int, list[Slot]]]:
    """Where the set of registers at a byte changes, and what it is from there on."""
    waiting = sorted(slots, key=lambda slot: (slot.offset, slot.index), reverse=True)
    covering: list[Slot] = []
    for start in sorted({0, *(slot.offset for slot in waiting), *(slot.end for slot in waiting)}):
        covering = [slot for slot in covering if slot.end > start]
        while waiting and waiting[-1].offset == start:
            covering.append(waiting.pop())
        yield start, covering


def _check_ends(bar: str, size: int, slots: Iterable[Slot]) -> None:
    for slot in slots:
        if slot.end > size:
            raise DriverError(
                f"{bar}.{slot.name} ends at {slot.end:#x}, past the bar's {size:#x} bytes; "
                f"expected an offset of at most {size - slot.size:#x}, given {slot.offset:#x}"
            )


def _check_sharing(bar: str, covering: Sequence[Slot]) -> None:
    for at, upper in enumerate(covering):
        for lower in covering[:at]:
            if upper.selected == lower.selected and not _may_share(upper, lower):
                raise DriverError(
                    f"{bar}.{upper.name} at {upper.offset:#x} overlaps {lower.name} at {lower.offset:#x} "
                    f"({lower.size} bytes); expected places of their own, a read-only and a write-only register, or a "
                    f"bank= that tells which of them is seen"
                )


def _may_share(one: Slot, other: Slot) -> bool:
    kinds = {(slot.masks.reads, slot.masks.writes) for slot in (one, other)}
    return kinds == {(True, False), (False, True)}
