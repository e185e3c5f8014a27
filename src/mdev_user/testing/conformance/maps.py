# ruff: noqa: SLF001 - declarations know each other's underscored names
"""What there is to try in a device of one type: its registers, the values worth writing, its attributes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from mdev_user.driver.attributes import Attribute
from mdev_user.driver.hooks import marks_of
from mdev_user.driver.members import declarations
from mdev_user.driver.parent import Parent
from mdev_user.regs.bar import Bar
from mdev_user.regs.slots import Slot
from mdev_user.testing.conformance.accounts import Ledger
from mdev_user.testing.conformance.operations import Setting
from mdev_user.testing.conformance.player import Player
from mdev_user.testing.guest import RAM
from mdev_user.vfio.requests import Irq, Region

_AnyParent: TypeAlias = type[Parent[Any, Any]]  # Any: of whatever profile

ADDRESSES = (0x1000, 0x2000, 0x1004, 0x100, 0x8000, RAM - 8, RAM)
COUNTS = (1, 4, 16, 64, 100, 4096)


@dataclass(frozen=True)
class Target:
    """A register."""

    region: int
    offset: int
    size: int
    values: tuple[int, ...]
    """Worth writing."""


@dataclass
class Map:
    """What can be done to one type of device."""

    setting: Setting
    targets: list[Target] = field(default_factory=list, repr=False)
    commands: list[Target] = field(default_factory=list, repr=False)
    """The registers that have a method for their writes."""
    sizes: dict[int, int] = field(default_factory=dict, repr=False)
    """Of the regions."""
    attributes: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    """What to store in those that can be written."""
    memories: list[tuple[int, int, int]] = field(default_factory=list, repr=False)
    """Region, offset and size of each that the guest can map."""
    kinds: list[int] = field(default_factory=lambda: [int(Irq.INTX)], repr=False)
    """Of interrupts."""


def maps(parent: _AnyParent, options: Mapping[str, str]) -> list[Map]:
    """One for each type of mdev that the parent, as its options make it, has room for; NoSpace when there is none."""
    ledger = Ledger(parent, options)
    names = [name for name in parent.types if ledger.available(name)] or parent.types
    return [_map(parent, Setting(name, dict(options))) for name in names]


def _map(parent: _AnyParent, setting: Setting) -> Map:
    player = Player(parent, setting)
    made = Map(setting)
    for place, bar in player.bars():
        told = _told(place.kind, type(bar))
        targets = [
            (Target(place.bar + bar._number, each.offset, each.size, _values(each)), each) for each in _slots(bar)
        ]
        made.targets += [target for target, _slot in targets]
        made.commands += [target for target, slot in targets if slot.path in told]
    regions = {region: player.guest.region_size(region) for region in _regions(player)}
    made.sizes = {region: size for region, size in regions.items() if size}
    for name, each in declarations(parent.function).items():
        if isinstance(each, Attribute) and each._writable:
            made.attributes[f"{each._group}/{name}".removeprefix("/")] = _texts(each)
    made.memories = list(player.memories())
    made.kinds += [int(kind) for kind in (Irq.MSI, Irq.MSIX) if player.guest.vectors(kind)]
    return made


def _regions(player: Player) -> list[int]:
    """The indexes of those that a user may have."""
    function = player.guest.device.function
    return [*range(6), int(Region.CONFIG), *function._plan.device_regions(function.profile)]


def _slots(bar: Bar) -> Sequence[Slot]:
    return type(bar)._layout.slots


def _told(unit: type, bar: type) -> set[str]:
    """The registers with a method for their writes, by path."""
    marks = [mark for member in declarations(unit).values() if callable(member) for mark in marks_of(member)]
    return {
        mark.place.place.path for mark in marks if mark.decorator.startswith("on_write") and mark.place.place.bar is bar
    }


def _values(slot: Slot) -> tuple[int, ...]:
    fields = [part for part in slot.fields if part.name]
    parts = [value << part.lsb for part in fields for value in (1, (1 << part.width) - 1)]
    plain = () if fields else (2, 3, *COUNTS, *ADDRESSES)
    high = 1 << 8 * slot.size - 1
    found = (1, 0, *parts, *plain, slot.full, slot.full >> 1, high, high >> 1)
    return tuple(dict.fromkeys(value for value in found if value <= slot.full))


def _texts(attribute: Attribute[Any]) -> tuple[str, ...]:  # Any: of all types
    initial = attribute._initial
    if isinstance(initial, Enum):
        return tuple(member.name.lower() for member in type(initial))
    if isinstance(initial, bool):
        return ("0", "1", "x")
    if isinstance(initial, int):
        least, most = attribute._range or (0, 1 << 31)
        return tuple(str(value) for value in dict.fromkeys((least, most, initial, (least + most) // 2, -1, most + 1)))
    return ("", "text", "x" * 100)
