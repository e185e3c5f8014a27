"""Base address registers: the kinds of window a function may have, and their registers.

Sizing needs no code: the address bits below the size are simply not writable, so that after a write of all ones
a guest reads the size's mask and the type bits (PCI 3.0 section 6.2.5.1). For the same reason an address is always
aligned to its size. (Linux's mtty sample keeps the low address bits that were written; that is not copied.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from mdev_user.errors import DriverError
from mdev_user.pci.masked import ImageBuilder
from mdev_user.units import is_power_of_two

BAR_REGISTERS = 0x10
BAR_SLOTS = 6


@dataclass(frozen=True, slots=True)
class IoBar:
    """A window of I/O ports: a power of two of 4 to 256 bytes."""

    size: int

    def __post_init__(self) -> None:
        _check_size(self, 4, 256)

    @property
    def slots(self) -> int:
        return 1

    @property
    def type_bits(self) -> int:
        return 0x1

    @property
    def address_mask(self) -> int:
        """The bits of the register that hold the address."""
        return -self.size & 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class MemoryBar:
    """A window of memory: a power of two of at least 16 bytes; up to 2 GiB, or 8 EiB when ``wide``.

    ``wide`` is a 64-bit BAR, which takes the next slot too.
    """

    size: int
    prefetchable: bool = False
    wide: bool = False

    def __post_init__(self) -> None:
        _check_size(self, 16, 1 << 63 if self.wide else 1 << 31)

    @property
    def slots(self) -> int:
        return 2 if self.wide else 1

    @property
    def type_bits(self) -> int:
        return self.wide << 2 | self.prefetchable << 3

    @property
    def address_mask(self) -> int:
        """The bits of the register, or pair of registers, that hold the address."""
        return -self.size & ((1 << 32 * self.slots) - 1)


Bar: TypeAlias = IoBar | MemoryBar


def draw_bars(space: ImageBuilder, bars: Mapping[int, Bar]) -> None:
    """Draw the BAR registers; a DriverError when two share a slot or one has no slot."""
    taken: dict[int, int] = {}
    for index, bar in sorted(bars.items()):
        slots = range(index, index + bar.slots)
        if index < 0 or slots.stop > BAR_SLOTS:
            message = f"BAR {index}: {bar} takes slots {_listed(slots)}; a function has slots 0 to {BAR_SLOTS - 1}"
            raise DriverError(message)
        for slot in slots:
            if slot in taken:
                message = f"BAR {index}: slot {slot} is the upper half of the wide BAR {taken[slot]}"
                raise DriverError(message)
            taken[slot] = index
        space.field(_register(index), 4 * bar.slots, bar.type_bits, writable=bar.address_mask)


def _register(index: int) -> int:
    return BAR_REGISTERS + 4 * index


def _listed(slots: range) -> str:
    return " and ".join(map(str, slots))


def _check_size(bar: Bar, least: int, most: int) -> None:
    if is_power_of_two(bar.size) and least <= bar.size <= most:
        return
    message = f"{type(bar).__name__}: expected a power of two from {least:#x} to {most:#x} bytes, given {bar.size:#x}"
    raise DriverError(message)
