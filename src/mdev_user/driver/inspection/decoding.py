# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Accesses of a declared device by name: which registers one touches, their fields, and what it changed.

While an access is looked at, numbers are copied and nothing else: everything that takes time is done when it is told.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from mdev_user.driver.inspection.live import LiveBar, field_values, live_bars
from mdev_user.regs.layout import Cover, selected
from mdev_user.regs.slots import Slot
from mdev_user.vfio.inspection import Change, Decoded, FieldValue, TouchedRegister

if TYPE_CHECKING:
    from mdev_user.driver.device import Device

MOST_DECODED = 64
"""Bytes, from the start of an access."""
MOST_CHANGES = 16
"""Registers that one access changed."""
_SMALL = 1024
"""Registers of a bar of which all are compared; of a larger one, those that the access touched."""


@dataclass(frozen=True, slots=True)
class _Page:
    """Mapped memory, or the MSI-X table, in a bar."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes of an access that are one register's, one page's, or nobody's."""

    start: int
    end: int
    what: Slot | _Page | None


_Difference = tuple[str, Slot, int, int]
"""The name of the bar; a register of it, its old value and its new one."""


class DeviceDecoder:
    """The `Decoder` of one device."""

    def __init__(self, device: "Device") -> None:
        self._bars = {bar.region: bar for bar in live_bars(device)}
        self._pages = _pages(device)
        self._small = [bar for bar in self._bars.values() if len(bar.values) <= _SMALL]
        self.last = self.now()
        """After the last access."""

    def look(self, region: int, offset: int, count: int, *, written: bool) -> "AccessSighting":
        bar = self._bars.get(region)
        access = range(offset, offset + min(count, MOST_DECODED))
        pieces = list(_pieces(self._pages.get(region, ()), bar, access, written=written))
        return AccessSighting(self, bar, pieces, offset, left_out=count > MOST_DECODED)

    def now(self) -> list[list[int]]:
        """The values of all registers, those of large bars excepted."""
        return [list(bar.values) for bar in self._small]

    def differences(self, before: list[list[int]], after: list[list[int]]) -> Iterator[_Difference]:
        if before == after:
            return
        for bar, old_values, new_values in zip(self._small, before, after, strict=True):
            slots = bar.layout.slots
            for slot, old, new in zip(slots, old_values, new_values, strict=True):
                if old != new:
                    yield bar.name, slot, old, new

    def is_large(self, bar: LiveBar) -> bool:
        """Whether only those of its registers are compared that an access touches."""
        return len(bar.values) > _SMALL


class AccessSighting:
    """The `Sighting` of one access."""

    __slots__ = ("_before", "_begin", "_changes", "_decoder", "_left_out", "_meanwhile", "_name", "_pieces", "_touched")

    def __init__(
        self, decoder: DeviceDecoder, bar: LiveBar | None, pieces: list[_Piece], begin: int, *, left_out: bool
    ) -> None:
        """``begin`` is the offset of the access; ``left_out`` whether ``pieces`` are not all of it."""
        self._decoder, self._pieces, self._begin, self._left_out = decoder, pieces, begin, left_out
        self._name = bar.name if bar else ""
        self._before = decoder.now()
        self._meanwhile = self._bounded(decoder.differences(decoder.last, self._before))
        self._changes: list[_Difference] = []
        self._touched: list[tuple[LiveBar, Slot, int]] = []
        if bar is not None and decoder.is_large(bar):
            slots = [piece.what for piece in pieces if isinstance(piece.what, Slot)]
            self._touched = [(bar, slot, bar.values[slot.index]) for slot in slots]

    def end(self) -> None:
        self._decoder.last = after = self._decoder.now()
        changes = self._decoder.differences(self._before, after)
        large = ((bar.name, slot, old, bar.values[slot.index]) for bar, slot, old in self._touched)
        self._changes = self._bounded(chain(changes, (each for each in large if each[2] != each[3])))
        self._before, self._touched = [], []

    def tell(self, data: bytes) -> Decoded:
        touched = [
            _touched(self._name, piece, data[piece.start - self._begin : piece.end - self._begin])
            for piece in self._pieces
            if piece.what is not None
        ]
        return Decoded(
            registers=tuple(touched),
            changes=_told(self._changes),
            meanwhile=_told(self._meanwhile),
            unmodelled=any(piece.what is None for piece in self._pieces),
            left_out=self._left_out,
        )

    def _bounded(self, differences: Iterable[_Difference]) -> list[_Difference]:
        found = list(islice(differences, MOST_CHANGES + 1))
        self._left_out |= len(found) > MOST_CHANGES
        return found[:MOST_CHANGES]


def _pages(device: "Device") -> dict[int, list[_Page]]:
    """By region, ascending."""
    found: dict[int, list[_Page]] = {}
    for (region, offset), (unit, memory) in device._memories.items():
        name = f"{unit._name}.{memory._name}" if unit._name else memory._name
        found.setdefault(region, []).append(_Page(name, offset, offset + memory._bytes(unit.profile)))
    for window in device._pci.interrupts.windows():
        page = _Page("vectors", window.offset, window.offset + window.size)
        found.setdefault(window.bar, []).append(page)
    return {region: sorted(pages, key=lambda page: page.start) for region, pages in found.items()}


def _pieces(pages: Sequence[_Page], bar: LiveBar | None, access: range, *, written: bool) -> Iterator[_Piece]:
    """The access in pieces, as the device splits it; of a region without registers and pages, none."""
    at = access.start
    for page in pages:
        start, end = max(at, page.start), min(access.stop, page.end)
        if start < end:
            yield from _of_registers(bar, at, start, written=written)
            yield _Piece(start, end, page)
            at = end
    yield from _of_registers(bar, at, access.stop, written=written)


def _of_registers(bar: LiveBar | None, at: int, end: int, *, written: bool) -> Iterator[_Piece]:
    if bar is None or at >= end or end > bar.layout.size:
        return
    cover: Cover = bar.layout.writes if written else bar.layout.reads
    current: Slot | None = None
    for start, candidates in cover.pieces(at, end):
        slot = selected(candidates, bar.values)
        if start == at:
            current = slot
        elif slot is not current:
            yield _Piece(at, start, current)
            at, current = start, slot
    yield _Piece(at, end, current)


def _touched(bar: str, piece: _Piece, data: bytes) -> TouchedRegister:
    value, size = int.from_bytes(data, "little"), piece.end - piece.start
    if not isinstance(piece.what, Slot):
        page = piece.what
        name = f"{page.name}[{piece.start - page.start:#x}]" if page else ""
        return TouchedRegister(name, value, size)
    slot = piece.what
    skipped = piece.start - slot.offset
    known = ((1 << 8 * size) - 1) << 8 * skipped
    fields = tuple(each for each in field_values(slot, value << 8 * skipped, known) if each.value is not None)
    return TouchedRegister(f"{bar}.{slot.name}", value, size, skipped, fields)


def _told(differences: Iterable[_Difference]) -> tuple[Change, ...]:
    return tuple(change for each in differences for change in _changes(*each))


def _changes(bar: str, slot: Slot, old: int, new: int) -> Iterator[Change]:
    """By field where only fields changed, else the register."""
    name, full = f"{bar}.{slot.name}", slot.full
    before, after = (list(field_values(slot, value, full)) for value in (old, new))
    named = sum(((1 << bits.width) - 1) << bits.lsb for bits in slot.fields if bits.name)
    if (old ^ new) & ~named:
        yield Change(name, f"{old:#x}", f"{new:#x}")
        return
    for one, other in zip(before, after, strict=True):
        if one != other:
            yield Change(f"{name}.{one.name}", _shown(one), _shown(other))


def _shown(field: FieldValue) -> str:
    return field.member or _shown_bits(field.value or 0)


def _shown_bits(value: int) -> str:
    """A bit is 0 or 1, anything larger hexadecimal."""
    return str(value) if value < 2 else hex(value)
