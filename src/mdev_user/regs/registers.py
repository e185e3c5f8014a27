# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Registers: plain ones (`U8` to `U64`), and classes of fields placed with ``at``."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, overload

from typing_extensions import override

from mdev_user.errors import DriverError
from mdev_user.regs.entries import Entry, Map
from mdev_user.regs.fields import Field
from mdev_user.regs.kinds import RSVD, RW, Access, Masks, masks_of
from mdev_user.regs.mistakes import likeliest, number
from mdev_user.regs.refs import INTEGER, Place, Ref
from mdev_user.regs.slots import Bits, Origin, Slot, Values

R = TypeVar("R", bound="Register")

LARGEST_OFFSET = (1 << 40) - 1


class Single(Entry):
    """An entry that is one register of ``size`` bytes."""

    def __init__(self, size: int, offset: int, reset: int, bank: Ref[bool] | None, sticky: bool) -> None:  # noqa: FBT001 - as declared
        if bank is not None and not isinstance(bank, Ref):
            raise DriverError(f"bank: expected a bit of a register, such as Lcr.dlab, given {bank!r}")
        self._size = size
        self._offset = number("a register's offset", offset, 0, LARGEST_OFFSET)
        self._reset = number(f"the reset value of a register of {size} bytes", reset, 0, (1 << 8 * size) - 1)
        self._bank = bank
        self._sticky = sticky

    def _slot(self, origin: Origin, masks: Masks, fields: tuple[Bits, ...]) -> Slot:
        return Slot(
            path=origin.path,
            element=origin.element,
            index=origin.index,
            offset=origin.offset,
            size=self._size,
            reset=self._reset,
            sticky=self._sticky,
            masks=masks,
            bank=self._bank,
            fields=fields,
        )


class Plain(Single):
    """A register that is one unsigned number: ``U32(0x10)``, ``U32(0x20, WO)``, ``U16(0, RO, reset=0x5A)``.

    ``offset`` in bytes; ``bank`` lays the register over what is there while that bit is set; a ``sticky`` register
    survives a reset that the guest asks for. What a driver assigns is cut to the register's width, as by hardware.
    """

    _bytes: ClassVar[int]

    def __init__(
        self,
        offset: int,
        access: Access = RW,
        *,
        reset: int = 0,
        bank: Ref[bool] | None = None,
        sticky: bool = False,
    ) -> None:
        if not isinstance(access, Access):
            raise DriverError(f"access: expected one of RW, RO, WO, RW1C, RW1S, RC, RSVD, UNIMPL, given {access!r}")
        super().__init__(self._bytes, offset, reset, bank, sticky)
        self._access = access
        self._full = (1 << 8 * self._bytes) - 1

    @overload
    def __get__(self, obj: None, owner: type[Map]) -> Ref[int]: ...
    @overload
    def __get__(self, obj: Map, owner: type[Map]) -> int: ...
    def __get__(self, obj: Map | None, owner: type[Map]) -> Ref[int] | int:
        if obj is None:
            return Ref(owner._place.of(self._name), 0, 8 * self._size, INTEGER)
        return obj._values[obj._base + self._index]

    def __set__(self, obj: Map, value: int) -> None:
        obj._values[obj._base + self._index] = value & self._full

    def equals(self, value: int) -> Ref[bool]:
        """True while the register holds ``value``: a bank, for registers declared beside it."""
        return Ref(Place(None), 0, 8 * self._size, INTEGER, source=self).equals(value)

    @override
    def _slots(self, origin: Origin) -> Iterator[Slot]:
        bits = Bits("", 0, 8 * self._size, self._access, INTEGER)  # type: ignore[arg-type]  # Codec[int] as one of object
        yield self._slot(origin, masks_of([(self._full, self._access)]), (bits,))


class U8(Plain):
    """A register of one byte."""

    _bytes = 1


class U16(Plain):
    """A register of two bytes."""

    _bytes = 2


class U32(Plain):
    """A register of four bytes."""

    _bytes = 4


class U64(Plain):
    """A register of eight bytes."""

    _bytes = 8


class Register:
    """A register with named fields: subclass it, declare Flags and Fields, place it in a bar with ``at``.

    ``size`` is in bytes: 1, 2, 4 (the default) or 8. Bits without a field keep their reset value. On a register in
    use, ``int(register)`` is the whole of it.
    """

    __slots__ = ("_index", "_values")

    _size: ClassVar[int] = 4
    _place: ClassVar[Place] = Place(None)
    # Any: fields of all types; a Field is invariant in its type.
    _fields: ClassVar[Mapping[str, Field[Any]]] = {}
    _setters: ClassVar[Mapping[str, Callable[["Register", Any], None]]] = {}  # Any: as above

    _values: Values
    _index: int

    @override
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
    def at(cls, offset: int, *, reset: int = 0, bank: Ref[bool] | None = None, sticky: bool = False) -> "Placed[Self]":
        """Place it at ``offset`` (in bytes) of the bar or register file in which this is said.

        The options are those of `U32`.
        """
        return Placed(cls, offset, reset, bank, sticky)

    @classmethod
    def _on(cls, values: Values, index: int) -> Self:
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

    if not TYPE_CHECKING:  # a checker that saw it would take any name

        def __setattr__(self, name: str, value: object) -> None:
            setter = self._setters.get(name)
            if setter is None:
                raise AttributeError(f"{type(self).__name__} has no field {name}{likeliest(name, self._fields)}")
            setter(self, value)


class Placed(Single, Generic[R]):
    """A Register class at its place in a map. On the class of the map it is again a class: of references."""

    def __init__(self, kind: type[R], offset: int, reset: int, bank: Ref[bool] | None, sticky: bool) -> None:  # noqa: FBT001 - as declared
        super().__init__(kind._size, offset, reset, bank, sticky)
        self._kind = kind
        self._at: dict[Place, type[R]] = {}
        for each in kind._fields.values():
            each._check(kind, reset)

    @overload
    def __get__(self, obj: None, owner: type[Map]) -> type[R]: ...
    @overload
    def __get__(self, obj: Map, owner: type[Map]) -> R: ...
    def __get__(self, obj: Map | None, owner: type[Map]) -> type[R] | R:
        return self._class_at(owner._place.of(self._name))  # of a map in use, the dictionary has the register

    @override
    def _view(self, values: Values, index: int) -> R:
        return self._kind._on(values, index)

    def _class_at(self, place: Place) -> type[R]:
        if place not in self._at:
            self._at[place] = type(self._kind.__name__, (self._kind,), {"__slots__": (), "_place": place})
        return self._at[place]

    @override
    def _slots(self, origin: Origin) -> Iterator[Slot]:
        fields = self._kind._fields
        parts = [(each._mask, each._access) for each in fields.values()]
        bits = tuple(Bits(name, each._lsb, each._width, each._access, each._codec) for name, each in fields.items())
        yield self._slot(origin, masks_of(parts or [(0, RSVD)]), bits)


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
