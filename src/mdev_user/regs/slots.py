"""A slot: one register of one bar as the compiler sees it, whatever it was declared by."""

from array import array
from collections.abc import Iterable, MutableSequence, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mdev_user.regs.kinds import Access, Masks
from mdev_user.regs.refs import Codec, Ref

Values: TypeAlias = MutableSequence[int]
"""The registers of a bar in use, each an unsigned number of up to 64 bits."""


def new_values(values: Iterable[int]) -> "array[int]":
    """As C has them, one behind the other, so that plain accesses can be answered without Python."""
    return array("Q", values)


@dataclass(frozen=True, slots=True)
class Bits:
    """A field of a slot; a register without fields has one, without a name."""

    name: str
    lsb: int
    width: int
    access: Access
    codec: Codec[object]


@dataclass(frozen=True, slots=True)
class Condition:
    """Bits of a register, and what they must be."""

    index: int
    mask: int
    wanted: int | None
    """At the place of the bits; None: any of them set."""

    def holds(self, values: Sequence[int]) -> bool:
        bits = values[self.index] & self.mask
        return bits != 0 if self.wanted is None else bits == self.wanted


@dataclass(frozen=True, slots=True)
class Slot:
    """One register: its place, its value after a reset, and what an access does to each of its bits."""

    path: str
    """Its name in the class: ``queue.tail``."""
    element: int | None
    """Which of the repeated ones, from 0."""
    index: int
    """Of its value among the bar's."""
    offset: int
    size: int
    reset: int
    sticky: bool
    masks: Masks
    bank: Ref[bool] | None
    fields: tuple[Bits, ...]
    selected: Condition | None = None
    """What ``bank`` means in this bar; the layout's."""

    @property
    def name(self) -> str:
        """For people: ``queue[3].tail``."""
        if self.element is None:
            return self.path
        array, _dot, rest = self.path.partition(".")
        return f"{array}[{self.element}]" + (f".{rest}" if rest else "")

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def full(self) -> int:
        """The mask of all its bits."""
        return (1 << 8 * self.size) - 1


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the registers of an entry begin: in values, in bytes, and under which name."""

    index: int = 0
    offset: int = 0
    path: str = ""
    element: int | None = None

    def at(self, name: str, index: int, offset: int) -> "Origin":
        """The origin of the entry ``name``, which lies ``index`` values and ``offset`` bytes further on."""
        path = f"{self.path}.{name}" if self.path else name
        return Origin(self.index + index, self.offset + offset, path, self.element)
