# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Bars: the class that is a map of registers behind one base address register."""

from collections.abc import Mapping
from typing import ClassVar, Self, overload

from typing_extensions import override

from mdev_user.errors import DriverError
from mdev_user.regs.entries import Entry, Map
from mdev_user.regs.layout import Layout
from mdev_user.regs.mistakes import number
from mdev_user.regs.refs import Place
from mdev_user.regs.registers import Placed
from mdev_user.regs.slots import Origin
from mdev_user.units import is_power_of_two


class Bar(Map):
    """A window of a PCI function with registers: subclass it and declare them.

    ``class Regs(Bar, index=0, size=4096)``: ``index`` is 0 to 5, ``size`` a power of two of bytes. ``io`` makes it a
    window of I/O ports (at most 256 bytes), ``wide`` one with a 64-bit address, which takes the next index too.
    A subclass of a bar has its registers, and may add to them and lie at another index.

    An access of any size and alignment is one access to each register that it touches, in ascending order: a read
    gives the bytes of it, a write changes the bytes of it that were written. What is between registers reads as zero,
    ignores writes, and is counted.
    """

    __slots__ = ("_name",)

    _indexes: ClassVar[range] = range(6)
    _number: ClassVar[int] = -1
    _size: ClassVar[int] = 0
    _io: ClassVar[bool] = False
    _wide: ClassVar[bool] = False
    _prefetchable: ClassVar[bool] = False
    _layout: ClassVar[Layout]

    _name: str

    @override
    def __init_subclass__(
        cls,
        *,
        index: int | None = None,
        size: int | None = None,
        io: bool | None = None,
        wide: bool | None = None,
        prefetchable: bool | None = None,
    ) -> None:
        given = {"_number": index, "_size": size, "_io": io, "_wide": wide, "_prefetchable": prefetchable}
        for name, value in given.items():
            if value is not None:
                setattr(cls, name, value)
        name = cls.__name__
        kind, most = cls.__bases__[0].__name__, cls._indexes[-1]
        number(f"{name}: index (class {name}({kind}, index=..., size=...))", cls._number, cls._indexes[0], most)
        if not isinstance(cls._size, int) or not is_power_of_two(cls._size):
            raise DriverError(f"{name}: size: expected a power of two of bytes, given {_shown(cls._size)}")
        cls._place = Place(cls)
        cls._collect()
        cls._layout = Layout(name, cls._size, cls._all_slots(Origin()), _sources(cls._entries))

    def __set_name__(self, _owner: type, name: str) -> None:
        object.__setattr__(self, "_name", name)

    @overload
    def __get__(self, obj: None, owner: object) -> type[Self]: ...
    @overload
    def __get__(self, obj: object, owner: object) -> Self: ...
    def __get__(self, obj: object, owner: object) -> Self | type[Self]:
        return type(self)  # of a device in use, the dictionary has the bar


def _sources(entries: Mapping[str, Entry]) -> dict[int, str]:
    """What an unplaced reference may mean: a plain register itself, or the class of a placed one if it is the only."""
    found: dict[int, str] = {}
    for name, each in entries.items():
        source = id(each._kind if isinstance(each, Placed) else each)
        found[source] = "" if source in found else name
    return found


def _shown(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) else repr(value)
