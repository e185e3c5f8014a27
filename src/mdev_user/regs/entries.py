# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Entries and maps: what a bar is made of, and the instance through which a driver reads and writes it.

A map (a `Bar`, a `RegisterFile`) is a class of entries. Every register of a bar is one int in one flat array of values;
an entry knows where its own begin, relative to its map. An instance of a map is such an array and a base, nothing else.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Self

from mdev_user.errors import DriverError
from mdev_user.regs.mistakes import likeliest
from mdev_user.regs.refs import Place
from mdev_user.regs.slots import Origin, Slot, Values


class Entry:
    """A declaration in a map: a register, a register with fields, an array."""

    _name: str = ""
    _index: int = 0
    """Where its values begin, counted from those of its map."""
    _offset: int
    _count: int = 1
    """How many values it has."""

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = self._name or name

    @abstractmethod
    def _slots(self, origin: Origin) -> Iterator[Slot]:
        """Its registers, ``origin`` being that of the entry itself."""

    def _view(self, _values: Values, _index: int) -> object:
        """What the instance of a map keeps for it."""
        return None


class Map:
    """A class of entries, compiled when it is created; its instances are views of a bar in use."""

    # The dictionary has what is below the map: registers with fields, and arrays. It costs least to read.
    __slots__ = ("__dict__", "_base", "_values")

    _place: ClassVar[Place] = Place(None)
    _entries: ClassVar[Mapping[str, Entry]] = {}
    _count: ClassVar[int] = 0
    _setters: ClassVar[Mapping[str, Callable[["Map", int], None]]] = {}

    _values: Values
    _base: int

    @classmethod
    def _collect(cls) -> None:
        """Number the entries that this class adds to those of its base."""
        added = {name: each for name, each in vars(cls).items() if isinstance(each, Entry)}
        count = cls._count
        for name, each in added.items():
            if each._name != name:
                raise DriverError(f"{cls.__name__}: {name} and {each._name} are one register: declare each of its own")
            if name in cls._entries:
                raise DriverError(f"{cls.__name__}.{name}: the base class has a register of this name already")
            each._index, count = count, count + each._count
        cls._entries = {**cls._entries, **added}
        cls._count = count
        cls._setters = {name: each.__set__ for name, each in cls._entries.items() if hasattr(each, "__set__")}

    @classmethod
    def _all_slots(cls, origin: Origin) -> Iterator[Slot]:
        for name, each in cls._entries.items():
            yield from each._slots(origin.at(name, each._index, each._offset))

    @classmethod
    def _on(cls, values: Values, base: int) -> Self:
        view = object.__new__(cls)
        object.__setattr__(view, "_values", values)
        object.__setattr__(view, "_base", base)
        for name, each in cls._entries.items():
            if (below := each._view(values, base + each._index)) is not None:
                view.__dict__[name] = below
        return view

    if not TYPE_CHECKING:  # a checker that saw it would take any name

        def __setattr__(self, name: str, value: object) -> None:
            setter = self._setters.get(name)
            if setter is None:
                raise AttributeError(_unsettable(type(self), name))
            setter(self, value)


def _unsettable(cls: type[Map], name: str) -> str:
    if name in cls._entries:
        return f"{cls.__name__}.{name} has fields or elements: set one of those"
    return f"{cls.__name__} has no register {name}{likeliest(name, cls._entries)}"
