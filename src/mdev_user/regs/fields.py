# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Fields and the registers that are made of them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, overload

from typing_extensions import Self, override

from mdev_user.errors import DriverError
from mdev_user.regs.kinds import GUEST_CHOSEN, RO, RW, Access
from mdev_user.regs.mistakes import likeliest, number
from mdev_user.regs.refs import BIT, Codec, Place, Ref, codec_of

if TYPE_CHECKING:
    from mdev_user.regs.placed import Placed

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

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, obj: None, owner: "type[Register]") -> Ref[T]: ...
    @overload
    def __get__(self, obj: "Register", owner: "type[Register]") -> T: ...
    def __get__(self, obj: "Register | None", owner: "type[Register]") -> Ref[T] | T:
        if obj is None:
            place = owner._place
            source = None if place.bar else owner
            return Ref(place, self._lsb, self._width, self._codec, self._name, source=source)
        return self._codec.decode((obj._values[obj._index] & self._mask) >> self._lsb)

    def __set__(self, obj: "Register", value: T) -> None:
        values, index = obj._values, obj._index
        bits = self._codec.encode(value) << self._lsb
        values[index] = values[index] & ~self._mask | bits & self._mask

    def _check(self, register: "type[Register]", reset: int) -> None:
        """DriverError when a value that can be in these bits has no meaning."""
        if self._kind in {int, bool}:
            return
        name = f"{register.__name__}.{self._name}"
        values = [(reset & self._mask) >> self._lsb]
        if self._access in GUEST_CHOSEN:
            if self._width > WIDEST_ENUM:
                raise DriverError(f"{name}: an enumeration has at most {WIDEST_ENUM} bits, given {self._width}: use int")
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
        self._codec = BIT


def _meaningless(decode: Callable[[int], object], value: int) -> bool:
    try:
        decode(value)
    except ValueError:
        return True
    return False


class Register:
    """A register with named fields: subclass it, declare Flags and Fields, place it in a bar with ``at``.

    ``size`` is in bytes: 1, 2, 4 (the default) or 8. Bits without a field keep their reset value. On a register in
    use, ``int(register)`` is the whole of it.
    """

    __slots__ = ("_index", "_values")

    _size: ClassVar[int] = 4
    _place: ClassVar[Place] = Place(None)
    _fields: ClassVar[Mapping[str, Field[object]]] = {}
    _setters: ClassVar[Mapping[str, Callable[["Register", object], None]]] = {}

    _values: list[int]
    _index: int

    def __init_subclass__(cls, *, size: int | None = None) -> None:
        if "_place" in vars(cls):  # ours: the class of a register that was placed
            return
        if size is not None:
            cls._size = size
        if cls._size not in {1, 2, 4, 8}:
            raise DriverError(f"{cls.__name__}: size is 1, 2, 4 or 8 bytes, given {cls._size!r}")
        cls._fields = {**cls._fields, **{name: each for name, each in vars(cls).items() if isinstance(each, Field)}}
        cls._setters = {name: each.__set__ for name, each in cls._fields.items()}
        _check_fields(cls)

    @classmethod
    def at(
        cls, offset: int, *, reset: int = 0, bank: Ref[bool] | None = None, sticky: bool = False
    ) -> "Placed[Self]":
        """Place it at ``offset`` (in bytes) of the bar or register file in which this is said.

        ``reset`` is its value after a reset; ``bank`` lays it over what is there while that bit is set; a ``sticky``
        register survives a reset that the guest asks for.
        """
        return _placed(cls, offset, reset, bank, sticky)

    @classmethod
    def _on(cls, values: list[int], index: int) -> Self:
        register = object.__new__(cls)
        object.__setattr__(register, "_values", values)
        object.__setattr__(register, "_index", index)
        return register

    def __new__(cls) -> Self:
        raise DriverError(f"{cls.__name__}() is not placed: say {cls.__name__}.at(offset)")

    def __int__(self) -> int:
        return self._values[self._index]

    @override
    def __repr__(self) -> str:
        shown = " ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"<{type(self).__name__} {shown}>"

    if not TYPE_CHECKING:  # a checker that saw these would take any name

        def __setattr__(self, name: str, value: object) -> None:
            setter = self._setters.get(name)
            if setter is None:
                raise AttributeError(f"{type(self).__name__} has no field {name}{likeliest(name, self._fields)}")
            setter(self, value)


def _check_fields(register: type[Register]) -> None:
    bits = 8 * register._size
    taken: dict[int, str] = {}
    for name, each in register._fields.items():
        if each._name != name:
            raise DriverError(f"{register.__name__}: {name} and {each._name} are one field: declare each of its own")
        if each._lsb + each._width > bits:
            raise DriverError(
                f"{register.__name__}.{name}: bits {each._lsb} to {each._lsb + each._width - 1} do not fit in "
                f"{bits} bits; declare class {register.__name__}(Register, size=...) wider"
            )
        for bit in range(each._lsb, each._lsb + each._width):
            if bit in taken:
                raise DriverError(f"{register.__name__}.{name}: bit {bit} is {taken[bit]}'s already")
            taken[bit] = name


# Set by `placed`, which is built on this module.
_placed: Callable[..., "Placed[Register]"]

__all__ = ["RO", "RW", "Field", "Flag", "Register"]
