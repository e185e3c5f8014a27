# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""The fields of a register."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from typing_extensions import override

from mdev_user.errors import DriverError
from mdev_user.regs.kinds import GUEST_CHOSEN, RW, Access
from mdev_user.regs.mistakes import number
from mdev_user.regs.refs import Codec, Ref, codec_of

if TYPE_CHECKING:
    from mdev_user.regs.registers import Register

T = TypeVar("T")

WIDEST_ENUM = 12
"""Bits. An enumeration that a guest writes must name every value, and so be listed by a person."""


class Field(Generic[T]):
    """Some bits of a Register class: ``Field(4, 2)`` is an int, ``Field(4, 2, Parity)`` a Parity.

    On a register in use it is a value of that type; what does not fit in its bits is cut off, as by hardware. An
    enumeration must name every value that a guest can write, so that reading the field can never fail.
    """

    @overload
    def __init__(self: "Field[int]", lsb: int, width: int, kind: Access = RW) -> None: ...
    @overload
    def __init__(self, lsb: int, width: int, kind: type[T], access: Access = RW) -> None: ...
    def __init__(self, lsb: int, width: int, kind: "type[T] | Access" = RW, access: Access = RW) -> None:
        """``lsb`` is the lowest bit, ``width`` counts bits."""
        if isinstance(kind, Access):
            kind, access = int, kind  # type: ignore[assignment]  # by the first overload T is int
        if not isinstance(kind, type) or not isinstance(access, Access):
            raise DriverError(f"Field: expected a type and an access kind (RW, RO, ...), given {kind!r}, {access!r}")
        self._name = ""
        self._lsb = number("a field's lowest bit", lsb, 0, 63)
        self._width = number("a field's width in bits", width, 1, 64)
        self._mask = ((1 << width) - 1) << lsb
        self._access = access
        self._kind: type = kind
        self._codec: Codec[T] = codec_of(kind)
        self._decode, self._encode = self._codec.decode, self._codec.encode

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = self._name or name

    @overload
    def __get__(self, obj: None, owner: "type[Register]") -> Ref[T]: ...
    @overload
    def __get__(self, obj: "Register", owner: "type[Register]") -> T: ...
    def __get__(self, obj: "Register | None", owner: "type[Register]") -> Ref[T] | T:
        if obj is None:
            return self._reference(owner)
        return self._decode((obj._values[obj._index] & self._mask) >> self._lsb)

    def __set__(self, obj: "Register", value: T) -> None:
        values, index, mask = obj._values, obj._index, self._mask
        values[index] = values[index] & ~mask | self._encode(value) << self._lsb & mask

    def _reference(self, owner: "type[Register]") -> Ref[T]:
        place = owner._place
        source = None if place.bar else owner
        return Ref(place, self._lsb, self._width, self._codec, self._name, source=source)

    def _check(self, register: "type[Register]", reset: int) -> None:
        """DriverError when a value that can be in these bits has no meaning."""
        if self._kind in {int, bool}:
            return
        name = f"{register.__name__}.{self._name}"
        values = [(reset & self._mask) >> self._lsb]
        if self._access in GUEST_CHOSEN:
            if self._width > WIDEST_ENUM:
                raise DriverError(
                    f"{name}: an enumeration has at most {WIDEST_ENUM} bits, given {self._width}: use int"
                )
            values = list(range(1 << self._width))
        for value in values:
            if _meaningless(self._codec.decode, value):
                raise DriverError(
                    f"{name}: {self._kind.__name__} has no member for {value}, which can be in these bits; "
                    f"add one (RESERVED_{value} = {value})"
                )


class Flag(Field[bool]):
    """One bit of a Register class."""

    def __init__(self, bit: int, access: Access = RW) -> None:
        super().__init__(bit, 1, bool, access)

    # As those of a field, with nothing to look up: drivers read and set bits most of all.

    @overload
    def __get__(self, obj: None, owner: "type[Register]") -> Ref[bool]: ...
    @overload
    def __get__(self, obj: "Register", owner: "type[Register]") -> bool: ...
    @override
    def __get__(self, obj: "Register | None", owner: "type[Register]") -> Ref[bool] | bool:
        if obj is None:
            return self._reference(owner)
        return obj._values[obj._index] & self._mask != 0

    @override
    def __set__(self, obj: "Register", value: bool) -> None:
        values, index = obj._values, obj._index
        values[index] = values[index] | self._mask if value else values[index] & ~self._mask


def _meaningless(decode: Callable[[int], object], value: int) -> bool:
    try:
        decode(value)
    except ValueError:
        return True
    return False
