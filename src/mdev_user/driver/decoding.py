# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Accesses of a declared device by name: which registers one touches, their fields, and what it changed.

While an access is looked at, numbers are copied and nothing else: everything that takes time is done when it is told.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdev_user.driver.live import LiveBar, field_values, live_bars
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


class _Compared:
    """The registers of a bar that are compared before and after an access."""

    __slots__ = ("_bar", "_indexes")

    def __init__(self, bar: LiveBar, touched: list[int]) -> None:
        self._bar = bar
        self._indexes = None if len(bar.values) <= _SMALL else touched

    def now(self) -> list[int]:
        values, indexes = self._bar.values, self._indexes
        return list(values) if indexes is None else [values[index] for index in indexes]

    def differences(self, before: list[int], after: list[int]) -> Iterator[_Difference]:
        indexes = range(len(before)) if self._indexes is None else self._indexes
        for index, old, new in zip(indexes, before, after, strict=True):
            if old != new:
                yield self._bar.name, self._bar.layout.slots[index], old, new


class DeviceDecoder:
    """The `Decoder` of one device."""

    def __init__(self, device: "Device") -> None:
        self._bars = {bar.region: bar for bar in live_bars(device)}
        self._pages = _pages(device)

    def look(self, region: int, offset: int, count: int, *, written: bool) -> "AccessSighting":
        bar = self._bars.get(region)
        shown = min(count, MOST_DECODED)
        pieces = list(_pieces(self._pages.get(region, ()), bar, range(offset, offset + shown), written=written))
        touched = [piece.what.index for piece in pieces if isinstance(piece.what, Slot)]
        compared = [_Compared(each, touched if each is bar else []) for each in self._bars.values()]
        return AccessSighting(bar.name if bar else "", pieces, shown < count, compared)


class AccessSighting:
    """The `Sighting` of one access."""

    __slots__ = ("_before", "_differences", "_left_out", "_name", "_pieces")

    def __init__(
        self,
        name: str,
        pieces: list[_Piece],
        left_out: bool,  # noqa: FBT001 - a fact, not a switch
        compared: list[_Compared],
    ) -> None:
        """``name`` is the bar's; ``compared`` are registers that the access may change."""
        self._name, self._pieces, self._left_out = name, pieces, left_out
        self._before = [(each, each.now()) for each in compared]
        self._differences: list[_Difference] = []

    def end(self) -> None:
        for compared, before in self._before:
            after = compared.now()
            if after != before:
                self._differences += compared.differences(before, after)
        self._before = []
        self._left_out |= len(self._differences) > MOST_CHANGES
        del self._differences[MOST_CHANGES:]

    def tell(self, data: bytes) -> Decoded:
        begin = self._pieces[0].start if self._pieces else 0
        touched = [
            _touched(self._name, piece, data[piece.start - begin : piece.end - begin])
            for piece in self._pieces
            if piece.what is not None
        ]
        return Decoded(
            registers=tuple(touched),
            changes=tuple(change for each in self._differences for change in _changes(*each)),
            unmodelled=any(piece.what is None for piece in self._pieces),
            left_out=self._left_out,
        )


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
    return field.member or f"{field.value or 0:#x}"
