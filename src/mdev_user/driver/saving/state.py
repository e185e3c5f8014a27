# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""The values of a device's units by name, and what hostile values become before any of them is believed."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from mdev_user.driver.attributes import Attribute
from mdev_user.driver.plan import Plan
from mdev_user.driver.saving.kinds import decoded, encoded
from mdev_user.driver.saving.naming import Units, meant, prefixed
from mdev_user.driver.shares import Share
from mdev_user.driver.state import Kept, Session
from mdev_user.driver.unit import AnyUnit
from mdev_user.errors import DriverError, StateError
from mdev_user.regs.bar import Bar
from mdev_user.regs.kinds import RSVD, UNIMPL
from mdev_user.regs.slots import Slot, Values, new_values

_Own: TypeAlias = Attribute[Any] | Share  # Any: of all types


def values_of(units: Units) -> dict[str, msgspec.Raw]:
    """All that differs from a device that was just reset, but for memory and jobs. Changes nothing."""
    found: dict[str, msgspec.Raw] = {}
    for prefix, unit in prefixed(units):
        for name, bar, values in _bars(unit):
            busy = _busy_bits(unit._plan, bar._number)
            for slot in bar._layout.slots:
                value = (values[slot.index] ^ slot.reset) & ~busy.get(slot.index, 0)
                if value:
                    found[f"{prefix}{name}.{slot.name}"] = msgspec.Raw(encoded(_checked_own(name, slot, value)))
        for member, value in _members(unit):
            if (data := member._save(value)) is not None:
                found[prefix + member._name] = msgspec.Raw(data)
    return found


def _checked_own(bar: str, slot: Slot, changed: int) -> int:
    if changed & reserved_bits(slot):
        raise DriverError(f"{bar}.{slot.name}: reserved bits {changed & reserved_bits(slot):#x} were set: declare them")
    return changed ^ slot.reset


@dataclass
class Incoming:
    """A state that was checked from its first to its last byte. `take_over` cannot fail."""

    registers: list[tuple[Values, Values]] = field(default_factory=list)
    """The values of each bar, and what they are to be."""
    # Any: values of all declared types, by the name of the member.
    members: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)  # Any: as above

    def check(self, units: Units) -> None:
        """StateError for what a unit says that it cannot be."""
        states = {id(before): loaded for before, loaded in self.members}
        for unit in units.values():
            unit._check_state(states[id(unit._state)])

    def take_over(self) -> None:
        for values, loaded in self.registers:
            values[:] = loaded
        for state, members in self.members:
            state.update(members)


def checked(units: Units, values: Mapping[str, msgspec.Raw]) -> Incoming:
    """What hostile values mean, memory and jobs apart; StateError for those that the device cannot have."""
    incoming, known = Incoming(), _Known()
    for prefix, unit in prefixed(units):
        for name, bar, current in _bars(unit):
            loaded = new_values(bar._layout.resets)
            incoming.registers.append((current, loaded))
            for slot in bar._layout.slots:
                known.add_register(f"{prefix}{name}.{slot.name}", slot, loaded)
            known.drop_busy(loaded, bar._layout.resets, _busy_bits(unit._plan, bar._number))
        state = {member._name: member._fresh() for member in unit._plan.state}
        settings = {member._name: member._initial for member in own_attributes(unit._plan)}
        incoming.members += [(unit._state, state), (unit._settings, settings)]
        known.add_members(prefix, (each for each in unit._plan.state if not isinstance(each, Session)), state)
        known.add_members(prefix, own_attributes(unit._plan), settings)
    known.load(values)
    return incoming


class _Known:
    """Everything that has a name, with what takes its value."""

    def __init__(self) -> None:
        self._takers: dict[str, Callable[[msgspec.Raw], None]] = {}
        self._busy: list[tuple[Values, list[int], dict[int, int]]] = []

    def add_register(self, name: str, slot: Slot, loaded: Values) -> None:
        def take(data: msgspec.Raw) -> None:
            loaded[slot.index] = _register(name, slot, decoded(data))

        self._takers[name] = take

    # Any: members and values of all types
    def add_members(self, prefix: str, members: Iterable[Any], loaded: dict[str, Any]) -> None:  # Any: as above
        for member in members:
            self._takers[prefix + member._name] = _taker(member, loaded)

    def drop_busy(self, loaded: Values, resets: list[int], busy: dict[int, int]) -> None:
        """Busy bits follow from the jobs, and from nothing else."""
        self._busy.append((loaded, resets, busy))

    def load(self, values: Mapping[str, msgspec.Raw]) -> None:
        for name, data in values.items():
            if name not in self._takers:
                raise StateError(f"saved state: there is no {name!r:.80}{meant(name, self._takers)}")
            self._takers[name](data)
        for loaded, resets, busy in self._busy:
            for index, mask in busy.items():
                loaded[index] = loaded[index] & ~mask | resets[index] & mask


def _taker(member: Kept | _Own, loaded: dict[str, Any]) -> Callable[[msgspec.Raw], None]:  # Any: as above
    def take(data: msgspec.Raw) -> None:
        loaded[member._name] = member._load(data)

    return take


def _register(name: str, slot: Slot, value: object) -> int:
    if type(value) is not int or not 0 <= value <= slot.full:
        raise StateError(f"{name}: expected a number of {8 * slot.size} bits, given {value!r:.80}")
    if reserved := (value ^ slot.reset) & reserved_bits(slot):
        raise StateError(f"{name}: expected the reserved bits {reserved:#x} as after a reset, given {value:#x}")
    for bits in slot.fields:
        number = value >> bits.lsb & ((1 << bits.width) - 1)
        try:
            bits.codec.decode(number)
        except ValueError as error:
            raise StateError(f"{name}.{bits.name}: {error}") from error
    return value


def reserved_bits(slot: Slot) -> int:
    """The bits that neither a guest nor a driver changes."""
    free = [bits for bits in slot.fields if bits.access not in {RSVD, UNIMPL}]
    return slot.full & ~sum(((1 << bits.width) - 1) << bits.lsb for bits in free)


def bars_of(plan: Plan) -> Iterator[tuple[str, Bar]]:
    return ((bar._name, bar) for bar in plan.bars.values())


def _bars(unit: AnyUnit) -> Iterator[tuple[str, Bar, Values]]:
    return ((bar._name, bar, unit._bars[index]._values) for index, bar in unit._plan.bars.items())


def _members(unit: AnyUnit) -> Iterator[tuple[Any, Any]]:  # Any: members and values of all types
    for kept in unit._plan.state:
        yield kept, unit._state[kept._name]
    for attribute in own_attributes(unit._plan):
        yield attribute, unit._settings[attribute._name]


def own_attributes(plan: Plan) -> list[_Own]:
    """Those that only the driver sets, and the accounts of shares."""
    return [*(each for each in plan.of_kind(Attribute) if not each._writable), *plan.shares]


def _busy_bits(plan: Plan, bar: int) -> dict[int, int]:
    """By the index of the register."""
    found: dict[int, int] = {}
    for index, bit in plan.busy.values():
        if index == bar:
            found[bit.index] = found.get(bit.index, 0) | bit.mask
    return found
