# ruff: noqa: SLF001 - what a guest accesses lies in the declarations' underscored names; all others are the author's
"""Registers by their declared names, as a guest accesses them: the references that a driver's declarations use too."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, TypeVar, overload

from mdev_user.errors import DriverError
from mdev_user.regs.bar import Bar
from mdev_user.regs.kinds import RW
from mdev_user.regs.mistakes import likeliest
from mdev_user.regs.refs import Ref
from mdev_user.regs.registers import Register
from mdev_user.regs.slots import Slot

T = TypeVar("T")
R = TypeVar("R", bound=Register)


class NamedRegisters(ABC):
    """Reads and writes by name; where the bytes of a region are is its subclass's."""

    @abstractmethod
    def read_bytes(self, region: int, offset: int, count: int) -> bytes:
        """One read access of any size and alignment."""

    @abstractmethod
    def write_bytes(self, region: int, offset: int, data: bytes) -> None:
        """One write access of any size and alignment."""

    @abstractmethod
    def _bars(self) -> Iterable[tuple[type[Bar], int]]:
        """The classes of the bars that can be named here, and their regions."""

    @overload
    def read(self, place: Ref[T], element: int | None = None) -> T: ...
    @overload
    def read(self, place: type[R], element: int | None = None) -> R: ...
    def read(self, place: Ref[T] | type[R], element: int | None = None) -> T | R:
        """Read the register and answer what was named: ``read(Regs.status.done)`` is a bool.

        Of a whole register with fields, ``read(Regs.status)``, it is the register as it was read. ``element`` is the
        number of the element for a register of an array: ``read(Regs.queue.tail, 3)``.
        """
        region, slot = self._locate(place, element)
        value = self._read_slot(region, slot)
        if isinstance(place, Ref):
            return place.decode((value & place.mask) >> place.lsb)
        return place._on([value], 0)

    @overload
    def write(self, place: Ref[T], value: T, element: int | None = None) -> None: ...
    @overload
    def write(self, place: type[R], value: int | R, element: int | None = None) -> None: ...
    # Any: as the overloads say
    def write(self, place: Ref[Any] | type[R], value: object, element: int | None = None) -> None:
        """Write a register, or a field of it: ``write(Regs.doorbell, 1)``, ``write(Regs.control.on, True)``.

        For a field the register is read first if it has other bits that a write stores; bits that are cleared or set
        by a 1 are written as zero, unless they are those that were named. ValueError for a value that does not fit.
        """
        region, slot = self._locate(place, element)
        if isinstance(place, Ref):
            bits = _fitting(str(place), place.encode(value), place.width) << place.lsb
            others = _stored(slot) & ~place.mask
            bits |= self._read_slot(region, slot) & others if others else 0
        else:
            bits = _fitting(str(place._place.path), int(value), 8 * slot.size)  # type: ignore[call-overload]  # int | R
        self.write_bytes(region, slot.offset, bits.to_bytes(slot.size, "little"))

    def _read_slot(self, region: int, slot: Slot) -> int:
        return int.from_bytes(self.read_bytes(region, slot.offset, slot.size), "little")

    def _locate(self, named: Ref[Any] | type[Register], element: int | None) -> tuple[int, Slot]:  # Any: of any type
        if not isinstance(named, Ref) and not (isinstance(named, type) and issubclass(named, Register)):
            raise DriverError(f"expected a register of a bar, such as Regs.doorbell, given {named!r}")
        place = named.place if isinstance(named, Ref) else named._place
        bars = dict(self._bars())
        if place.bar not in bars:
            given = place.bar.__name__ if place.bar else "a register that is not placed"
            names = [bar.__name__ for bar in bars]
            raise DriverError(
                f"{place.path}: expected a register of {', '.join(names)}, given {given}{likeliest(given, names)}"
            )
        slots = place.bar._layout.find(place.path)
        return bars[place.bar], _element(place.path, slots, place.repeated, element)


def _element(path: str, slots: tuple[Slot, ...], repeated: bool, element: int | None) -> Slot:  # noqa: FBT001 - as declared
    if not repeated and element is not None:
        raise DriverError(f"{path} is in no array, given element {element}")
    if repeated and element is None:
        raise DriverError(f"{path} is in an array: say which element, 0 to {len(slots) - 1}")
    at = element or 0
    if not 0 <= at < len(slots):
        raise DriverError(f"{path}: expected an element from 0 to {len(slots) - 1}, given {element}")
    return slots[at]


def _stored(slot: Slot) -> int:
    """The bits that a guest reads and writes back when it changes others."""
    return sum(((1 << each.width) - 1) << each.lsb for each in slot.fields if each.access is RW)


def _fitting(what: str, bits: int, width: int) -> int:
    if not 0 <= bits < 1 << width:
        raise ValueError(f"{what}: expected a number of {width} bits, given {bits:#x}")
    return bits
