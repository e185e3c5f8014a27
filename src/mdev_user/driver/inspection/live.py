# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""The registers of a declared device in use, as tools see them: by bar, with names and values, and without effects."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from mdev_user.driver.inspection.banks import bank_of
from mdev_user.driver.unit import AnyUnit
from mdev_user.regs.bar import Bar
from mdev_user.regs.dispatch import Dispatch
from mdev_user.regs.layout import Cover, Layout, selected
from mdev_user.regs.slots import Bits, Slot
from mdev_user.regs.space import RegisterSpace
from mdev_user.vfio.inspection import FieldValue, NamedValue

if TYPE_CHECKING:
    from mdev_user.driver.device import Device


@dataclass(frozen=True, slots=True)
class LiveBar:
    """One bar in use. ``values`` are those of its registers, by the index of the slot."""

    name: str
    """``regs``; of a part ``ports[1].regs``."""
    region: int
    kind: type[Bar]
    dispatch: Dispatch
    values: Sequence[int]

    @property
    def layout(self) -> Layout:
        return self.dispatch.layout

    def computed(self, slot: Slot) -> int:
        """The bits that methods of the driver compute when the guest reads them."""
        mask = 0
        for hook in self.dispatch.read_hooks.get(slot.index, ()):
            mask |= hook.mask
        return mask

    def is_seen(self, slot: Slot) -> bool:
        """Whether the guest reaches it at its place, now."""
        return any(_at(cover, slot.offset, self.values) is slot for cover in (self.layout.reads, self.layout.writes))


def live_bars(device: "Device") -> list[LiveBar]:
    """The bars that have registers. Their values are the device's own, and change."""
    return [_live_bar(region, space) for region, space in sorted(device._spaces.items())]


def named_values(device: "Device") -> Iterator[NamedValue]:
    """All registers as they are at the moment of the call; names and fields are found when it is asked for them."""
    bars = [replace(bar, values=list(bar.values)) for bar in live_bars(device)]
    return (_named(bar, slot) for bar in bars for slot in sorted(bar.layout.slots, key=_place_of))


def field_values(slot: Slot, value: int, known: int) -> Iterator[FieldValue]:
    """The fields of a register that holds ``value``; ``known`` are the bits that mean something."""
    for bits in slot.fields:
        if bits.name:
            mask = (1 << bits.width) - 1
            number = value >> bits.lsb & mask if known >> bits.lsb & mask == mask else None
            yield FieldValue(bits.name, number, _member(bits, number))


def _live_bar(region: int, space: RegisterSpace) -> LiveBar:
    unit: AnyUnit = space._owner  # type: ignore[assignment]  # a declared device's spaces are its units'
    values = space.values
    index, bar = next((index, bar) for index, bar in unit._plan.bars.items() if unit._bars[index]._values is values)
    name = f"{unit._name}.{bar._name}" if unit._name else bar._name
    return LiveBar(name, region, type(bar), unit._plan.dispatches[index], values)


def _at(cover: Cover, offset: int, values: Sequence[int]) -> Slot | None:
    _start, candidates = next(cover.pieces(offset, offset + 1))
    return selected(candidates, values)


def _place_of(slot: Slot) -> tuple[int, int]:
    return slot.offset, slot.index


def _named(bar: LiveBar, slot: Slot) -> NamedValue:
    value, computed = bar.values[slot.index], bar.computed(slot)
    return NamedValue(
        name=f"{bar.name}.{slot.name}",
        value=None if computed == slot.full else value & ~computed,
        size=slot.size,
        region=bar.region,
        offset=slot.offset,
        bank=bank_of(bar.kind, slot) or "",
        hidden=not bar.is_seen(slot),
        computed=computed,
        fields=tuple(field_values(slot, value, slot.full & ~computed)),
    )


def _member(bits: Bits, value: int | None) -> str:
    kind = bits.codec.decode
    if value is None or not (isinstance(kind, type) and issubclass(kind, Enum)):
        return ""
    try:
        return str(kind(value).name)
    except ValueError:  # an RO field may have values that its enumeration does not name
        return ""
