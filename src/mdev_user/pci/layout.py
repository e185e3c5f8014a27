"""From declarations to the compiled bytes of a config space: the header, the BARs, the capability chain."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from mdev_user.errors import DriverError
from mdev_user.pci.bars import Bar, IoBar, MemoryBar, draw_bars
from mdev_user.pci.capabilities import Capability, Msix, PciExpress, VendorSpecific
from mdev_user.pci.identity import PciId
from mdev_user.pci.masked import Image, ImageBuilder
from mdev_user.units import align_up

COMMAND, STATUS = 0x04, 0x06
COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER = 0x0001, 0x0002, 0x0004
COMMAND_PARITY, COMMAND_SERR, COMMAND_INTX_DISABLE = 0x0040, 0x0100, 0x0400
STATUS_INTERRUPT, STATUS_CAPABILITIES = 0x0008, 0x0010
STATUS_ERRORS = 0xF900
"""The error bits, which a guest clears by writing 1."""

FIRST_CAPABILITY, END_OF_CHAIN = 0x40, 0x100


@dataclass(frozen=True, slots=True)
class Layout:
    """A compiled config space: its bytes and masks, and where each capability came to lie."""

    image: Image
    capabilities: tuple[tuple[int, int, Capability], ...]
    """Offset, size and declaration, in declaration order."""


@lru_cache(maxsize=64)
def lay_out(
    identity: PciId,
    bars: tuple[tuple[int, Bar], ...],
    capabilities: tuple[Capability, ...],
    interrupt_pin: int,
    size: int,
    reset_values: tuple[tuple[int, bytes], ...],
) -> Layout:
    """Compile the declarations; whatever cannot exist is a DriverError.

    Cached: the mdevs of one type share one compiled image, which is not written again.
    """
    if size not in (256, 4096):
        message = f"config space: expected 256 or 4096 (PCI Express) bytes, given {size}"
        raise DriverError(message)
    if not 0 <= interrupt_pin <= 4:
        message = f"interrupt_pin: expected 0 (none) or 1 to 4 (INTA to INTD), given {interrupt_pin}"
        raise DriverError(message)
    by_index = dict(bars)
    _check_capabilities(capabilities, by_index)
    space = ImageBuilder(size)
    identity.draw(space)
    draw_bars(space, by_index)
    placed = _place_capabilities(space, capabilities)
    _draw_control(space, by_index.values(), interrupt_pin, has_capabilities=bool(placed))
    # Cache line size and latency timer: storage, except that PCI Express wires the timer to zero (7.5.1.1.8).
    express = any(isinstance(capability, PciExpress) for capability in capabilities)
    space.field(0x0C, 2, 0, writable=0x00FF if express else 0xFFFF)
    for offset, data in reset_values:
        space.preset(offset, data, shared=range(COMMAND, STATUS + 2))
    return Layout(space.image(), placed)


def _check_capabilities(capabilities: Sequence[Capability], bars: Mapping[int, Bar]) -> None:
    ids = [each.capability_id for each in capabilities if not isinstance(each, VendorSpecific)]
    for capability in capabilities:
        if ids.count(capability.capability_id) > 1:
            message = f"capabilities: {type(capability).__name__} is declared twice; a function has at most one"
            raise DriverError(message)
        if isinstance(capability, Msix):
            _check_inside("table", capability.table, bars)
            _check_inside("pba", capability.pba, bars)


def _check_inside(name: str, place: tuple[int, int, int], bars: Mapping[int, Bar]) -> None:
    index, offset, size = place
    bar = bars.get(index)
    if not isinstance(bar, MemoryBar):
        message = f"Msix.{name}_bar: expected a memory BAR, BAR {index} is {bar}"
        raise DriverError(message)
    if offset + size > bar.size:
        message = f"Msix.{name}: {size:#x} bytes at {offset:#x} do not fit in BAR {index} of {bar.size:#x} bytes"
        raise DriverError(message)


def _draw_control(space: ImageBuilder, bars: Iterable[Bar], interrupt_pin: int, *, has_capabilities: bool) -> None:
    """Command, Status, the chain's start and the interrupt registers: only bits for what the function has."""
    kinds = {type(bar) for bar in bars}
    enables = {
        COMMAND_IO: IoBar in kinds,
        COMMAND_MEMORY: MemoryBar in kinds,
        COMMAND_INTX_DISABLE: interrupt_pin != 0,
    }
    command = COMMAND_MASTER | COMMAND_PARITY | COMMAND_SERR | sum(bit for bit, has in enables.items() if has)
    space.field(COMMAND, 2, 0, writable=command)
    status = STATUS_CAPABILITIES if has_capabilities else 0
    space.field(STATUS, 2, status, w1c=STATUS_ERRORS, live=STATUS_INTERRUPT if interrupt_pin else 0)
    space.field(0x34, 1, FIRST_CAPABILITY if has_capabilities else 0)
    space.field(0x3C, 2, interrupt_pin << 8, writable=0x00FF)


def _place_capabilities(
    space: ImageBuilder, capabilities: Sequence[Capability]
) -> tuple[tuple[int, int, Capability], ...]:
    """Lay the chain out from 0x40 in declaration order, each capability on a dword."""
    images = [capability.image() for capability in capabilities]
    offsets = [FIRST_CAPABILITY]
    for capability, image in zip(capabilities, images, strict=True):
        end = offsets[-1] + len(image.values)
        if end > END_OF_CHAIN:
            message = (
                f"capabilities: {type(capability).__name__} ends at {end:#x}, the list at {END_OF_CHAIN:#x}; "
                "declare fewer or smaller ones"
            )
            raise DriverError(message)
        offsets.append(align_up(end, 4))
    following = [*offsets[1:-1], 0]
    for offset, image, after in zip(offsets, images, following, strict=False):
        space.place(offset, _linked(image, after))
    sizes = (len(image.values) for image in images)
    return tuple(zip(offsets, sizes, capabilities, strict=False))


def _linked(image: Image, following: int) -> Image:
    values = image.values[:1] + bytes((following,)) + image.values[2:]
    return Image(values, image.writable, image.w1c, image.live)
