# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""State that is not a register: `Saved` values, `Table`s of them, and `Session` objects that are made anew."""

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, get_args, overload

from typing_extensions import override

from mdev_user.driver.members import Member
from mdev_user.driver.saving.collisions import check_hashes
from mdev_user.driver.saving.kinds import Encoded, Fits, Kind, encoded, is_frozen, pairs_of, type_of
from mdev_user.errors import DriverError, GuestError, StateError
from mdev_user.regs.mistakes import number

if TYPE_CHECKING:
    from mdev_user.driver.unit import AnyUnit

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

MOST_ENTRIES = 1 << 16


class Kept(Member):
    """A member that has a value in the state of each device."""

    _sticky = False
    """Whether it survives, as a sticky register does, every reset but that of power-on."""

    def _fresh(self) -> object:
        """The value after a reset."""
        raise NotImplementedError

    def _save(self, _value: Any) -> bytes | None:  # noqa: ANN401 - Any: of the member's own type
        """What is saved of its value; None when it is as after a reset, or is never saved."""
        return None

    def _load(self, data: Encoded) -> object:
        """The value that was saved. StateError for what is none."""
        raise NotImplementedError(data)


def _subscript(member: object) -> tuple[Any, ...]:  # Any: types, as an author writes them
    """What was given in brackets: ``int | None`` of ``Saved[int | None](None)``."""
    return get_args(getattr(member, "__orig_class__", None))


class Value(Kept, Generic[T]):
    """A member that reads, and is set, as the value itself."""

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: "AnyUnit", owner: object) -> T: ...
    def __get__(self, obj: "AnyUnit | None", owner: object) -> Self | T:
        return self  # of a device in use, the dictionary has the value

    if TYPE_CHECKING:  # `Unit.__setattr__` sets it: a descriptor that could be set would be asked at each read

        def __set__(self, obj: "AnyUnit", value: T) -> None: ...

    def _taken(self, value: T) -> T:
        """What is kept of a value that a driver sets."""
        return value


class Saved(Value[T]):
    """A value that belongs to the device's state: ``total = Saved(0)``, or ``Saved[int | None](None)``.

    Any frozen value: numbers, str, bytes, enumerations, tuples, frozen dataclasses. A reset puts ``initial`` back;
    what is ``sticky`` survives the resets that a guest asks for. Its type is that of ``initial``, or what stands in
    brackets; an int is one of 64 bits (-2**63 to 2**64 - 1). Setting it to what could not be saved is a DriverError.
    """

    _kind: Kind
    _fits: Fits
    _reset: bytes

    def __init__(self, initial: T, *, sticky: bool = False) -> None:
        if not is_frozen(initial):
            raise DriverError(
                f"Saved: expected a frozen value (int, bytes, tuple, frozen dataclass ...), given {initial!r}"
            )
        self._initial, self._sticky = initial, sticky

    @override
    def _taken(self, value: T) -> T:
        return value if self._fits(value) else self._kind.checked(value)  # type: ignore[return-value]  # of its type

    @override
    def _fresh(self) -> T:
        return self._initial

    @override
    def _settle_types(self, owner: str) -> None:
        what = f"{owner}.{self._name}"
        annotation = (*_subscript(self), None)[0] or type_of(what, self._initial)
        self._kind = Kind(what, annotation)
        self._fits = self._kind.fits
        self._initial = self._kind.checked(self._initial)  # type: ignore[assignment]  # as it was, or equal to it
        self._reset = encoded(self._initial)

    @override
    def _save(self, value: object) -> bytes | None:
        data = encoded(value)
        return None if data == self._reset else data

    @override
    def _load(self, data: Encoded) -> object:
        return self._kind.decode(data)


# Any: of values of all types
def exact_kinds(members: Iterable[Saved[Any]]) -> dict[str, type]:
    """By name, the types of those whose values need no more than a look at their type (`Kind.exact`)."""
    return {each._name: kind for each in members if (kind := each._kind.exact) is not None}


class Table(Kept, MutableMapping[K, V]):
    """A dictionary that belongs to the device's state: ``queues = Table[int, Queue](limit=64)``.

    Keys and values are frozen values, of the types in brackets. Since a guest often decides what is put into it, it
    has a ``limit``: an entry more is a GuestError. A reset empties it, unless it is
    ``sticky`` and its guest asks for the reset.
    """

    _key: Kind
    _value: Kind
    _kind: Kind

    def __init__(self, *, limit: int, sticky: bool = False) -> None:
        self._limit = number("Table: limit", limit, 1, MOST_ENTRIES)
        self._sticky = sticky
        self._entries: dict[K, V] = {}

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: "AnyUnit", owner: object) -> "Table[K, V]": ...
    def __get__(self, obj: "AnyUnit | None", owner: object) -> "Table[K, V]":
        return self  # of a device in use, the dictionary has the table

    @override
    def _fresh(self) -> "Table[K, V]":
        fresh: Table[K, V] = Table(limit=self._limit)
        fresh._name, fresh._key, fresh._value = self._name, self._key, self._value
        return fresh

    @override
    def _save(self, value: "Table[Any, Any]") -> bytes | None:  # Any: of its own types
        return encoded(tuple(value.items())) if value else None

    @override
    def _load(self, data: Encoded) -> object:
        pairs: Any = self._kind.decode(data)  # Any: what its type says
        if len(pairs) > self._limit:
            raise StateError(f"{self._kind.what}: expected at most {self._limit} entries, given {len(pairs)}")
        check_hashes(self._kind.what, (key for key, _value in pairs))
        table = self._fresh()
        table._entries.update(pairs)
        if len(table) != len(pairs):
            raise StateError(f"{self._kind.what}: expected each key once")
        return table

    @override
    def _settle_types(self, owner: str) -> None:
        what = f"{owner}.{self._name}"
        given = _subscript(self)
        if not given:
            raise DriverError(f"{what}: say what is in it: Table[int, bytes](limit={self._limit})")
        self._key, self._value = Kind(f"{what}: a key", given[0]), Kind(f"{what}: an entry", given[1])
        self._kind = Kind(what, pairs_of(*given))

    @override
    def __getitem__(self, key: K) -> V:
        return self._entries[key]

    @override
    def __setitem__(self, key: K, value: V) -> None:
        if len(self._entries) >= self._limit and key not in self._entries:
            raise GuestError(f"{self._name} has {self._limit} entries, its limit; {key!r} was not added")
        self._entries[self._key.checked(key)] = self._value.checked(value)  # type: ignore[index, assignment]  # as given

    @override
    def __delitem__(self, key: K) -> None:
        del self._entries[key]

    @override
    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    @override
    def __contains__(self, key: object) -> bool:  # those of the base class find out by an exception
        return key in self._entries

    @overload
    def get(self, key: K, default: None = None, /) -> V | None: ...
    @overload
    def get(self, key: K, default: V, /) -> V: ...
    @overload
    def get(self, key: K, default: T, /) -> V | T: ...
    @override
    def get(self, key: K, default: object = None, /) -> object:
        return self._entries.get(key, default)

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
