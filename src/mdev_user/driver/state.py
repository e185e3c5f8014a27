# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""State that is not a register: `Saved` values, `Table`s of them, and `Session` objects that are made anew."""

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Generic, Self, TypeVar, overload

from typing_extensions import override

from mdev_user.driver.members import Member
from mdev_user.errors import DriverError, GuestError

if TYPE_CHECKING:
    from mdev_user.driver.function import AnyFunction

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class Kept(Member):
    """A member that has a value in the state of each device."""

    def _fresh(self) -> object:
        """The value after a reset."""
        raise NotImplementedError


_ATOMS = (int, bool, float, str, bytes, type(None), Enum)


def is_frozen(value: object) -> bool:
    """Whether a value can be saved as it is: atoms, and tuples, frozen sets and frozen dataclasses of such."""
    if isinstance(value, _ATOMS):
        return True
    if isinstance(value, tuple | frozenset):
        return all(is_frozen(each) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return _is_frozen_dataclass(value) and all(is_frozen(getattr(value, each.name)) for each in fields(value))
    return False


def _is_frozen_dataclass(value: object) -> bool:
    return bool(getattr(value, "__dataclass_params__").frozen)  # noqa: B009 - its type is not published


class Value(Kept, Generic[T]):
    """A member that reads, and is set, as the value itself."""

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: "AnyFunction", owner: object) -> T: ...
    def __get__(self, obj: "AnyFunction | None", owner: object) -> Self | T:
        if obj is None:
            return self
        value: T = obj._state[self._name]
        return value

    def __set__(self, obj: "AnyFunction", value: T) -> None:
        obj._state[self._name] = value


class Saved(Value[T]):
    """A value that belongs to the device's state: ``total = Saved(0)``, or ``Saved[int | None](None)``.

    Any frozen value: numbers, str, bytes, enumerations, tuples, frozen dataclasses. A reset puts ``initial`` back.
    """

    def __init__(self, initial: T) -> None:
        if not is_frozen(initial):
            raise DriverError(
                f"Saved: expected a frozen value (int, bytes, tuple, frozen dataclass ...), given {initial!r}"
            )
        self._initial = initial

    @override
    def _fresh(self) -> T:
        return self._initial


class Table(Kept, MutableMapping[K, V]):
    """A dictionary that belongs to the device's state: ``queues = Table[int, Queue](limit=64)``.

    Keys and values are frozen values. Since a guest often decides what is put into it, it has a ``limit``: an entry
    more is a GuestError. A reset empties it.
    """

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._entries: dict[K, V] = {}

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: "AnyFunction", owner: object) -> "Table[K, V]": ...
    def __get__(self, obj: "AnyFunction | None", owner: object) -> "Table[K, V]":
        if obj is None:
            return self
        table: Table[K, V] = obj._state[self._name]
        return table

    @override
    def _fresh(self) -> "Table[K, V]":
        fresh: Table[K, V] = Table(limit=self._limit)
        fresh._name = self._name
        return fresh

    @override
    def __getitem__(self, key: K) -> V:
        return self._entries[key]

    @override
    def __setitem__(self, key: K, value: V) -> None:
        if len(self._entries) >= self._limit and key not in self._entries:
            raise GuestError(f"{self._name} has {self._limit} entries, its limit; {key!r} was not added")
        if not (is_frozen(key) and is_frozen(value)):
            raise DriverError(f"{self._name}[{key!r}]: expected frozen values, given {value!r}")
        self._entries[key] = value

    @override
    def __delitem__(self, key: K) -> None:
        del self._entries[key]

    @override
    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    @override
    def __len__(self) -> int:
        return len(self._entries)

    @override
    def __repr__(self) -> str:
        return f"{self._name}: {self._entries!r}"


class Session(Value[T]):
    """An object that is not saved but made: ``cache = Session(dict[int, bytes])``.

    Made by calling ``make`` when the device is opened, reset, or loaded with a saved state. What the guest can see must
    not depend on it.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        if not callable(make):
            raise DriverError(f"Session: expected what makes the object, such as dict, given {make!r}")
        self._make = make

    @override
    def _fresh(self) -> T:
        return self._make()
