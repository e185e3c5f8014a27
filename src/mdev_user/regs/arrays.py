# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Arrays: a Register, or a file of registers, repeated at a stride."""

from collections.abc import Iterator
from typing import ClassVar, Generic, TypeVar, overload

from typing_extensions import override

from mdev_user.errors import DriverError
from mdev_user.regs.entries import Entry, Map
from mdev_user.regs.mistakes import number
from mdev_user.regs.refs import Place
from mdev_user.regs.registers import LARGEST_OFFSET, Register
from mdev_user.regs.slots import Origin, Slot, Values

MOST_ELEMENTS = 1 << 16


class RegisterFile(Map):
    """A group of registers that is repeated: subclass it, declare registers, place it with `Each`.

    Offsets count from the start of each element.
    """

    _bytes: ClassVar[int] = 0
    """From the start to the end of the last register."""

    @override
    def __init_subclass__(cls) -> None:
        if "_place" in vars(cls):  # ours: the class of a file that was placed
            return
        cls._collect()
        for name, each in cls._entries.items():
            if isinstance(each, Each):
                raise DriverError(f"{cls.__name__}.{name}: an array cannot be part of an array; place it in the bar")
        cls._bytes = max((slot.end for slot in cls._all_slots(Origin())), default=0)


E = TypeVar("E", bound=Register | RegisterFile)


class Elements(Generic[E]):
    """The elements of an array in use, by number from 0. IndexError for a number that is not there."""

    __slots__ = ("_index", "_kind", "_made", "_step", "_values")

    def __init__(self, kind: type[E], values: Values, index: int, count: int, step: int) -> None:
        self._kind, self._values, self._index, self._step = kind, values, index, step
        self._made: list[E | None] = [None] * count

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, number: int) -> E:
        made = self._made[number]
        if made is None:
            at = number % len(self._made)
            made = self._kind._on(self._values, self._index + at * self._step)  # type: ignore[assignment]  # E's own
            self._made[at] = made
        return made  # type: ignore[return-value]  # just made

    def __iter__(self) -> Iterator[E]:
        return (self[number] for number in range(len(self)))


class Each(Entry, Generic[E]):
    """An array: ``queue = Each(Queue, at=0x1000, count=8, stride=0x20)``, offsets in bytes.

    ``Queue`` is a Register or a RegisterFile. In use, ``regs.queue[3].tail``; as a reference, ``Regs.queue.tail`` is
    that register of every element.
    """

    def __init__(self, kind: type[E], *, at: int, count: int, stride: int | None = None) -> None:
        """Without ``stride`` the elements lie one behind the other."""
        if not (isinstance(kind, type) and issubclass(kind, Register | RegisterFile)):
            raise DriverError(f"Each: expected a Register or RegisterFile class, given {kind!r}")
        self._kind = kind
        self._offset = number("an array's offset", at, 0, LARGEST_OFFSET)
        self._length = number("an array's count", count, 1, MOST_ELEMENTS)
        size = kind._size if issubclass(kind, Register) else kind._bytes
        self._stride = size if stride is None else number("an array's stride", stride, size, LARGEST_OFFSET)
        self._step = 1 if issubclass(kind, Register) else kind._count
        self._count = self._step * count
        self._at: dict[Place, type[E]] = {}

    @overload
    def __get__(self, obj: None, owner: type[Map]) -> type[E]: ...
    @overload
    def __get__(self, obj: Map, owner: type[Map]) -> Elements[E]: ...
    def __get__(self, obj: Map | None, owner: type[Map]) -> type[E] | Elements[E]:
        return self._class_at(owner._place.of(self._name, repeated=True))  # of a map in use, the dictionary has them

    @override
    def _view(self, values: Values, index: int) -> Elements[E]:
        return Elements(self._kind, values, index, self._length, self._step)

    def _class_at(self, place: Place) -> type[E]:
        if place not in self._at:
            self._at[place] = type(self._kind.__name__, (self._kind,), {"__slots__": (), "_place": place})
        return self._at[place]

    @override
    def _slots(self, origin: Origin) -> Iterator[Slot]:
        kind = self._kind
        slots = kind.at(0)._slots if issubclass(kind, Register) else kind._all_slots
        for element in range(self._length):
            index, offset = origin.index + element * self._step, origin.offset + element * self._stride
            yield from slots(Origin(index, offset, origin.path, element))
