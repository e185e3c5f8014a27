"""Typed references: what ``Regs.status.done`` means on the class, where on an instance it is the value itself.

A reference is what a declaration points at a register with: an interrupt's pending bit, the register that a method
is called for, a job's busy bit. It knows the Python type of its bits, both ways; that is also what makes it invariant
for a type checker, so that a `Ref[int]` never passes for a `Ref[object]`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from operator import attrgetter, index, truth
from typing import Generic, TypeVar

from typing_extensions import override

from mdev_user.errors import DriverError
from mdev_user.regs.mistakes import likeliest, number

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """The Python type of some bits."""

    decode: Callable[[int], T]
    encode: Callable[[T], int]


INTEGER: Codec[int] = Codec(int, index)
BIT: Codec[bool] = Codec(bool, truth)


def codec_of(kind: type[T]) -> Codec[T]:
    """The codec of bool, int or an enumeration of ints; a DriverError for any other type."""
    if issubclass(kind, Enum):
        return Codec(kind, attrgetter("value"))
    if kind is bool:
        return Codec(kind, truth)
    if kind is int:
        return Codec(kind, index)  # type: ignore[arg-type]  # T is int here, which mypy does not conclude
    raise DriverError(f"a field's type: expected bool, int or an Enum of ints, given {kind!r}")


@dataclass(frozen=True)
class Place:
    """Where the registers of a class lie: in which bar, under which name, and whether repeated."""

    bar: type | None
    path: str = ""
    repeated: bool = False

    def of(self, name: str, *, repeated: bool = False) -> "Place":
        path = f"{self.path}.{name}" if self.path else name
        return Place(self.bar, path, repeated or self.repeated)


@dataclass(frozen=True)
class Ref(Generic[T]):
    """Some bits of a register, of type T. Made by naming them on the class; not by hand."""

    place: Place
    """Of the register. Without a bar: a field of a Register class that is not placed yet; ``source`` says which."""
    lsb: int
    width: int
    codec: Codec[T]
    field: str = ""
    wanted: int | None = None
    """For a condition (`equals`): the value that makes it true."""
    source: object = None

    def encode(self, value: T) -> int:
        """The bits that stand for ``value``, at bit 0 and not cut to the width."""
        if self.wanted is not None:
            raise DriverError(f"{self} is a condition: it can be tested, not written")
        return self.codec.encode(value)

    def decode(self, bits: int) -> T:
        """What the field's bits (at bit 0) mean."""
        return self.codec.decode(bits if self.wanted is None else bits == self.wanted)

    @property
    def any(self) -> "Ref[bool]":
        """True while any of these bits is set."""
        return replace(self, codec=BIT)  # type: ignore[return-value, arg-type]  # replace() keeps T

    def equals(self, value: T) -> "Ref[bool]":
        """True while these bits hold ``value``."""
        wanted = self._wanted(value)
        return replace(self, codec=BIT, wanted=wanted)  # type: ignore[return-value, arg-type]  # replace() keeps T

    def _wanted(self, value: T) -> int:
        """The bits of ``value``; DriverError when these bits can never hold it."""
        kind, what = self.codec.decode, f"{self}.equals".removeprefix(".")
        if isinstance(kind, type) and issubclass(kind, Enum):
            if not isinstance(value, kind):
                raise DriverError(f"{what}: expected a {kind.__name__}, given {value!r}{_member(kind, value)}")
        elif kind is bool and value not in {True, False}:
            raise DriverError(f"{what}: expected True or False, given {value!r}")
        elif not isinstance(value, int):
            raise DriverError(f"{what}: expected an int, given {value!r}")
        return number(what, self.encode(value), 0, (1 << self.width) - 1)

    @property
    def mask(self) -> int:
        return ((1 << self.width) - 1) << self.lsb

    @property
    def is_bit(self) -> bool:
        """Whether this is one bit of a register, and not a condition of several."""
        return self.width == 1 and self.wanted is None

    @override
    def __str__(self) -> str:
        names = (self.place.bar.__name__ if self.place.bar else "", self.place.path, self.field)
        return ".".join(name for name in names if name)


def _member(kind: type[Enum], value: object) -> str:
    """The end of a message: the member that was probably meant, or those there are."""
    for name, each in kind.__members__.items():
        if each.value == value:
            return f"; did you mean {kind.__name__}.{name}?"
    return likeliest(str(value), [f"{kind.__name__}.{name}" for name in kind.__members__])
