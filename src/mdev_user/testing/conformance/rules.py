# ruff: noqa: SLF001 - declarations know each other's underscored names
"""The access rules of declared registers, bit by bit: slow, and written without a look at how a device does it.

A bar's registers, with no driver behind them, are accessed through the engine and through this; both must agree.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from mdev_user.driver.members import declarations
from mdev_user.driver.parent import Parent
from mdev_user.driver.parts import Parts
from mdev_user.errors import GuestError, OutOfRange
from mdev_user.regs.bar import Bar
from mdev_user.regs.dispatch import Dispatch
from mdev_user.regs.kinds import RC, RO, RSVD, RW, RW1C, RW1S, UNIMPL, WO, Access
from mdev_user.regs.slots import Condition, Slot
from mdev_user.regs.space import RegisterSpace

_AnyParent: TypeAlias = type[Parent[Any, Any]]  # Any: of whatever profile

READABLE, WRITABLE = {RW, RO, RW1C, RW1S, RC}, {RW, WO, RW1C, RW1S}


class RuleAccess(msgspec.Struct, frozen=True):
    """A read of ``count`` bytes; a write of ``data``.

    Or the device sets register number ``offset`` as a whole (device), or field number ``count`` of it (field).
    """

    kind: str
    offset: int
    count: int = 0
    data: bytes = b""


def bar_classes(parent: _AnyParent) -> dict[tuple[str, str], type[Bar]]:
    """The bars of a function and its parts, by the name of the class and of the member."""
    members = declarations(parent.function)
    units = [parent.function, *(each._kind for each in members.values() if isinstance(each, Parts))]
    return {
        (unit.__name__, name): type(bar)
        for unit in units
        for name, bar in declarations(unit).items()
        if isinstance(bar, Bar)
    }


class Bits:
    """Registers as bits, each with its kind."""

    def __init__(self, bar: type[Bar]) -> None:
        self.bar, self.size = bar, bar._size
        self.slots: Sequence[Slot] = bar._layout.slots
        self.values = [slot.reset for slot in self.slots]
        self.counted = 0
        self._kinds = [_kinds(slot) for slot in self.slots]
        conditions = list(dict.fromkeys(slot.selected for slot in self.slots if slot.selected))
        self._banks: list[Condition | None] = [*conditions, None]

    def read(self, offset: int, count: int) -> bytes:
        """Every register's turn comes in ascending order."""
        data = bytearray(count)
        at = offset
        while at < offset + count:
            number, stop = self._turn(at, offset + count, READABLE)
            if number is None:
                self.counted += 1
            else:
                kinds, slot = self._kinds[number], self.slots[number]
                self.counted += all(kind is UNIMPL for kind in kinds)
                for byte in range(at, stop):
                    data[byte - offset] = self._read_byte(number, byte - slot.offset)
            at = stop
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        at = offset
        while at < offset + len(data):
            number, stop = self._turn(at, offset + len(data), WRITABLE)
            if number is None:
                self.counted += 1
            else:
                for byte in range(at, stop):
                    self._write_byte(number, byte - self.slots[number].offset, data[byte - offset])
            at = stop

    def set_bits(self, number: int, lsb: int, width: int, value: int) -> None:
        """What the device does: it is the hardware, and may set every bit."""
        mask = ((1 << width) - 1) << lsb
        self.values[number] = self.values[number] & ~mask | value << lsb & mask

    def _turn(self, at: int, end: int, concerned: set[Access]) -> tuple[int | None, int]:
        """Which register's turn it is at a byte, and where it ends."""
        number = self._answering(at, concerned)
        stop = at + 1
        while stop < end and self._answering(stop, concerned) == number:
            stop += 1
        return number, stop

    def _answering(self, byte: int, concerned: set[Access]) -> int | None:
        for bank in self._banks:
            if bank is not None and not self._holds(bank):
                continue
            found = [
                at
                for at, slot in enumerate(self.slots)
                if slot.selected == bank and slot.offset <= byte < slot.offset + slot.size
            ]
            found.sort(key=lambda at: (not concerned & set(self._kinds[at]), at))
            if found:
                return found[0]
        return None

    def _holds(self, bank: Condition) -> bool:
        (value,) = (self.values[at] for at, slot in enumerate(self.slots) if slot.index == bank.index)
        return bool(value & bank.mask) if bank.wanted is None else value & bank.mask == bank.wanted

    def _read_byte(self, number: int, byte: int) -> int:
        seen = 0
        for bit in range(8 * byte, 8 * byte + 8):
            kind, is_set = self._kinds[number][bit], self.values[number] >> bit & 1
            if is_set and kind is not WO:
                seen |= 1 << bit - 8 * byte
            if kind is RC:
                self.values[number] &= ~(1 << bit)
        return seen

    def _write_byte(self, number: int, byte: int, data: int) -> None:
        for bit in range(8 * byte, 8 * byte + 8):
            given, mask = data >> bit - 8 * byte & 1, 1 << bit
            kind = self._kinds[number][bit]
            self.counted += bool(given and kind is UNIMPL)
            to_set = given and kind in {RW, WO, RW1S}
            to_clear = (not given and kind in {RW, WO}) or (given and kind is RW1C)
            if to_set:
                self.values[number] |= mask
            elif to_clear:
                self.values[number] &= ~mask


class _Listener:
    """Whom a register space tells, with no driver behind it."""

    def __init__(self) -> None:
        self.counted = 0

    def settle(self) -> None:
        """There are no interrupts."""

    def refuse(self, error: GuestError) -> None:
        raise AssertionError(f"registers without methods refuse {error}")

    def count_unmodelled(self, _offset: int, _count: int, *, written: bool) -> None:  # noqa: ARG002 - a protocol's
        self.counted += 1


def run_rules(parent: _AnyParent, unit: str, name: str, accesses: Sequence[RuleAccess]) -> str:
    """Where the engine does not follow the rules; empty when nowhere."""
    bar = bar_classes(parent)[unit, name]
    listener, expected = _Listener(), Bits(bar)
    values = list(bar._layout.resets)
    space = RegisterSpace(Dispatch(bar._layout), values, None, listener)
    if values != expected.values:
        return f"{bar.__name__}: registers after a reset: {_different(expected, values)}"
    for at, access in enumerate(accesses):
        wrong = _compare(space, expected, access) or _different(expected, values)
        if not wrong and bool(listener.counted) != bool(expected.counted):
            wrong = f"what nobody declared was {'' if listener.counted else 'not '}counted"
        if wrong:
            return f"{bar.__name__}: {wrong}, after: " + "; ".join(shown(bar, each) for each in accesses[: at + 1])
        listener.counted = expected.counted = 0
    return ""


def _compare(space: RegisterSpace, expected: Bits, access: RuleAccess) -> str:
    if access.kind in _DEVICE:
        _DEVICE[access.kind](space, expected, access.offset % len(expected.slots), access)
        return ""
    count = access.count if access.kind == "read" else len(access.data)
    if access.offset + count > expected.size:
        return _compare_outside(space, access)
    if access.kind == "write":
        space.write(access.offset, access.data)
        expected.write(access.offset, access.data)
        return ""
    given, wanted = space.read(access.offset, count), expected.read(access.offset, count)
    return (
        ""
        if given == wanted
        else f"a read of {count} bytes at {access.offset:#x} gives {given.hex()}: expected {wanted.hex()}"
    )


def _set_register(space: RegisterSpace, expected: Bits, number: int, access: RuleAccess) -> None:
    value = int.from_bytes(access.data, "little") & expected.slots[number].full
    space.values[number] = value
    expected.set_bits(number, 0, 8 * expected.slots[number].size, value)


def _set_field(space: RegisterSpace, expected: Bits, number: int, access: RuleAccess) -> None:
    """By its name, as a driver does."""
    slot = expected.slots[number]
    field = slot.fields[access.count % len(slot.fields)] if slot.fields else None
    if field is None:
        return
    bits = int.from_bytes(access.data, "little") & ((1 << field.width) - 1)
    try:
        value = field.codec.decode(bits)
    except ValueError:  # an enumeration of what only the device sets need not have them all
        return
    holder, name = _named(expected.bar._on(space.values, 0), slot)
    if field.name:
        holder, name = getattr(holder, name) if name else holder, field.name
    setattr(holder, name, value)
    expected.set_bits(number, field.lsb, field.width, bits)


def _named(view: object, slot: Slot) -> tuple[Any, str]:  # Any: views of all classes
    """What has the register, and by which name; an element of an array of registers has no name."""
    *path, name = slot.path.split(".")
    for each in path:
        view = getattr(view, each)
        view = view if slot.element is None else view[slot.element]  # type: ignore[index]  # an array's elements
    if slot.element is not None and not path:
        return getattr(view, name)[slot.element], ""
    return view, name


_DEVICE = {"device": _set_register, "field": _set_field}


def _compare_outside(space: RegisterSpace, access: RuleAccess) -> str:
    try:
        if access.kind == "write":
            space.write(access.offset, access.data)
        else:
            space.read(access.offset, access.count)
    except OutOfRange:
        return ""
    return f"an access beyond the bar's end, at {access.offset:#x}, is done: expected OutOfRange"


def _different(expected: Bits, values: Sequence[int]) -> str:
    for slot, wanted, given in zip(expected.slots, expected.values, values, strict=True):
        if given != wanted:
            return f"{slot.name} is {given:#x}: expected {wanted:#x}"
    return ""


def shown(bar: type[Bar], access: RuleAccess) -> str:
    """For people."""
    match access.kind:
        case "device":
            slot = bar._layout.slots[access.offset % len(bar._layout.slots)]
            value = int.from_bytes(access.data, "little") & slot.full
            return f"the device sets {slot.name} to {value:#x}"
        case "field":
            slot = bar._layout.slots[access.offset % len(bar._layout.slots)]
            names = [field.name for field in slot.fields] or [""]
            value = int.from_bytes(access.data, "little")
            return f"the device sets {slot.name}.{names[access.count % len(names)]} to the low bits of {value:#x}"
        case "read":
            return f"read {access.count} bytes at {access.offset:#x}"
        case _:
            return f"write {access.data.hex()} at {access.offset:#x}"


def _kinds(slot: Slot) -> list[Access]:
    """The kind of each bit; one of no field is reserved."""
    kinds = [RSVD] * (8 * slot.size)
    for field in slot.fields:
        for bit in range(field.lsb, field.lsb + field.width):
            kinds[bit] = field.access
    return kinds
