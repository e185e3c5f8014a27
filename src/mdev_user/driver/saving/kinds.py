"""The type of a saved value: derived from a declaration when its class is created, and held to from then on.

A value that cannot be saved is found when it is set, and not when the device is migrated. What is saved is what
msgpack can say: ints of 64 bits, float, bool, str, bytes, None, enumerations, and tuples, frozen sets and frozen
dataclasses of such.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeAlias, Union, get_args, get_origin, get_type_hints

import msgspec

from mdev_user.driver.saving import collisions
from mdev_user.driver.saving.collisions import looking, untyped
from mdev_user.errors import DriverError, StateError

LEAST_INT, MOST_INT = -(1 << 63), (1 << 64) - 1
"""What an int of the state can be: all of a signed and all of an unsigned 64-bit number."""

Annotation: TypeAlias = collisions.Annotation
Encoded: TypeAlias = collisions.Encoded
Fits: TypeAlias = Callable[[object], bool]
Described: TypeAlias = str | dict[str, Any] | list[Any]  # Any: what JSON can say, for which mypy has no type

_ATOMS = {int: "int", float: "float", bool: "bool", str: "str", bytes: "bytes", NoneType: "None"}
_EXACT = {int, bool, bytes, float}
_SAVEABLE = "int, float, bool, str, bytes, None, an Enum, or a tuple, frozenset or frozen dataclass of such"
_UNREADABLE = (msgspec.MsgspecError, RecursionError, ValueError, TypeError, OverflowError)
_ENCODER = msgspec.msgpack.Encoder(order="deterministic")


def encoded(value: object) -> bytes:
    """A value in msgpack; equal values give equal bytes, in every process. StateError for what has no such form."""
    try:
        return _ENCODER.encode(value)
    except _UNREADABLE as error:
        raise StateError(f"{value!r:.80} cannot be saved: {error}") from error


def decoded(data: Encoded) -> object:
    """As dict, list, bytes, str, number, bool or None. StateError for bytes that are not msgpack."""
    try:
        return untyped(data)
    except _UNREADABLE as error:
        raise StateError(f"a saved value: {told(error)}") from error


def told(error: Exception) -> str:
    """What is wrong with a stranger's bytes, of which some can be in the message: no more of it than people read."""
    return "".join(each if each.isprintable() else "?" for each in str(error)[:200])


class Kind:
    """One type of saved values. ``what`` names the declaration, for messages; DriverError for a type that cannot be."""

    __slots__ = ("_decoder", "_look", "_only", "described", "exact", "fits", "name", "what")

    def __init__(self, what: str, annotation: Annotation) -> None:
        self.what = what
        self.name = shown(annotation)
        self.described = described(what, annotation)
        """The type as JSON can say it."""
        try:
            self._decoder = msgspec.msgpack.Decoder(annotation)
        except (TypeError, NameError) as error:
            raise DriverError(f"{what}: {self.name} cannot be saved: {error}") from error
        self._only = annotation
        self._look = looking(what, annotation)
        self.fits: Fits = fitting(annotation)
        """Whether a value is certainly of this type: the quick answer for nearly all; the others are looked at."""
        self.exact: type | None = annotation if annotation in _EXACT or _is_enum(annotation) else None
        """The type, where to be of it is all that `fits` asks for; of an int also that it has 64 bits."""

    def checked(self, value: object) -> object:
        """The value as it is kept: a bool given for an int is an int. DriverError for one that cannot be saved."""
        return value if self.fits(value) else self._normal(value)

    def decode(self, data: Encoded) -> object:
        """The value that hostile bytes mean; StateError when they mean none of this type."""
        try:
            if self._look is not None:
                self._look(data)
            value: object = self._decoder.decode(data)
        except _UNREADABLE as error:
            raise StateError(f"{self.what}: expected {self.name}: {told(error)}") from error
        again = encoded(value)
        if again != bytes(data) and (dropped := _names(decoded(data)) - _names(decoded(again))):
            raise StateError(f"{self.what}: {self.name} has no {', '.join(sorted(dropped))!r:.80}")
        return value

    def _normal(self, value: object) -> object:
        """The value as it will be when it has been saved and loaded."""
        if self._only is int and isinstance(value, int):
            value = int(value)
        if isinstance(value, int) and not LEAST_INT <= value <= MOST_INT:
            raise DriverError(f"{self.what}: {value} does not fit in 64 bits; say how it wraps, such as & 0xFFFF_FFFF")
        if not is_frozen(value):
            raise DriverError(f"{self.what}: expected a frozen value, of type {self.name}, given {value!r:.80}")
        expected = f"{self.what}: expected {self.name} (an int has 64 bits), given {value!r:.80}"
        try:
            data = encoded(value)
            made = self.decode(data)
        except StateError as error:
            raise DriverError(expected) from error
        if made != value and encoded(made) != data:
            raise DriverError(expected)
        return made


def fitting(annotation: Annotation, within: tuple[type, ...] = ()) -> Fits:
    """A test that only values of exactly this type pass; ``within`` ends what contains itself."""
    inner = get_args(annotation)
    if annotation in _BOUNDED:
        return _BOUNDED[annotation]
    if _is_union(annotation):
        return _any_of([fitting(each, within) for each in inner])
    if _is_frozen_dataclass(annotation):
        return _fields_of(annotation, within)
    if _origin(annotation) is tuple and Ellipsis not in inner:
        return _each_of([fitting(each, within) for each in inner])
    if inner:
        return _all_of(_origin(annotation), fitting(inner[0], within))
    return lambda value: type(value) is annotation


_BOUNDED: dict[Annotation, Fits] = {
    # numbers, and no names of them: an int is set often
    int: lambda value: type(value) is int and -0x8000_0000_0000_0000 <= value <= 0xFFFF_FFFF_FFFF_FFFF,
    str: lambda value: type(value) is str and value.isascii(),
}


def _any_of(tests: list[Fits]) -> Fits:
    return lambda value: any(test(value) for test in tests)


def _all_of(kind: object, test: Fits) -> Fits:
    return lambda value: type(value) is kind and all(map(test, value))  # type: ignore[call-overload]  # it has elements


def _each_of(tests: list[Fits]) -> Fits:
    def fits(value: object) -> bool:
        return type(value) is tuple and len(value) == len(tests) and all(map(_call, tests, value))

    return fits


def _call(test: Fits, value: object) -> bool:
    return test(value)


def _fields_of(kind: Annotation, within: tuple[type, ...]) -> Fits:
    if kind in within:
        return lambda _value: False
    hints = get_type_hints(kind)
    tests = [(each.name, fitting(hints[each.name], (*within, kind))) for each in fields(kind)]
    return lambda value: type(value) is kind and all(test(getattr(value, name)) for name, test in tests)


def is_frozen(value: object) -> bool:
    """Whether a value can be saved as it is: atoms, and tuples, frozen sets and frozen dataclasses of such."""
    if isinstance(value, (*_ATOMS, Enum)):
        return True
    if isinstance(value, tuple | frozenset):
        return all(is_frozen(each) for each in value)
    if _is_frozen_dataclass(type(value)):
        return all(is_frozen(getattr(value, each.name)) for each in fields(value))  # type: ignore[arg-type]  # is one
    return False


def type_of(what: str, value: object) -> Annotation:
    """The type of an initial value; DriverError, which says what to write, where it cannot be told from it."""
    if value is None:
        raise DriverError(f"{what}: None does not say what else it can be: write Saved[int | None](None)")
    if isinstance(value, tuple):
        if not value:
            raise DriverError(f"{what}: () does not say what is in it: write Saved[tuple[int, ...]](())")
        return tuple[tuple(type_of(what, each) for each in value)]  # type: ignore[misc]  # a type made at run time
    if isinstance(value, frozenset):
        kinds = {type_of(what, each) for each in value}
        if len(kinds) != 1:
            raise DriverError(f"{what}: it does not say what is in it: write Saved[frozenset[int]](frozenset())")
        return frozenset[kinds.pop()]  # type: ignore[misc]  # a type made at run time
    return type(value)


def pairs_of(key: Annotation, value: Annotation) -> Annotation:
    """The type of the entries of a dictionary."""
    return tuple[tuple[key, value], ...]


def hints_of(what: str, annotated: object) -> dict[str, Annotation]:
    """The resolved annotations of a function or a class; DriverError for one that means nothing here."""
    try:
        return get_type_hints(annotated)
    except (NameError, TypeError, AttributeError) as error:
        raise DriverError(
            f"{what}: {error}: the types of what is saved are needed at run time: import them outside TYPE_CHECKING, "
            f"and define them at the top of the module"
        ) from error


def shown(annotation: Annotation) -> str:
    """A type as an author writes it."""
    if annotation in _ATOMS:
        return _ATOMS[annotation]
    if _is_union(annotation):
        return " | ".join(shown(each) for each in get_args(annotation))
    inner = ", ".join("..." if each is Ellipsis else shown(each) for each in get_args(annotation))
    name = getattr(_origin(annotation) or annotation, "__name__", repr(annotation))
    return f"{name}[{inner}]" if inner else name


def described(what: str, annotation: Annotation, within: tuple[type, ...] = ()) -> Described:
    """A type as JSON can say it; DriverError for one that cannot be saved. ``within`` ends what contains itself."""
    inner = get_args(annotation)
    if annotation in _ATOMS:
        return _ATOMS[annotation]
    if _is_enum(annotation):
        return {"enum": {name: each.value for name, each in annotation.__members__.items()}}
    if _is_frozen_dataclass(annotation):
        return _described_dataclass(what, annotation, within)
    if _is_union(annotation) or (_origin(annotation) in {tuple, frozenset} and inner):
        parts = ["..." if each is Ellipsis else described(what, each, within) for each in inner]
        return {"union" if _is_union(annotation) else annotation.__name__: parts}
    raise DriverError(f"{what}: {shown(annotation)} cannot be saved: expected {_SAVEABLE}")


def _described_dataclass(what: str, kind: Annotation, within: tuple[type, ...]) -> Described:
    if kind in within:
        return str(kind.__name__)
    hints = hints_of(f"{what}: {kind.__name__}", kind)
    return {"dataclass": {each.name: described(what, hints[each.name], (*within, kind)) for each in fields(kind)}}


def _origin(annotation: Annotation) -> object:
    return get_origin(annotation)


def _is_union(annotation: Annotation) -> bool:
    return _origin(annotation) in {Union, UnionType}


def _is_enum(annotation: Annotation) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Enum)


def _is_frozen_dataclass(annotation: Annotation) -> bool:
    is_one = isinstance(annotation, type) and is_dataclass(annotation)
    return is_one and bool(getattr(annotation, "__dataclass_params__").frozen)  # noqa: B009 - its type is not published


def _names(value: object) -> Counter[str]:
    """How often each key of a map occurs, at any depth."""
    found: Counter[str] = Counter()
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            found.update(map(str, each))
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)
    return found
