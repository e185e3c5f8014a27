"""The requests of VFIO's ioctl interface as typed values, and what answers them.

A driver never sees ABI bytes: vfio-user messages and ioctls are both decoded into these. Numbers and flags are
those of ``include/uapi/linux/vfio.h``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag
from typing import Protocol


class Region(IntEnum):
    """Region indexes of a VFIO PCI device; device-specific regions start at ``COUNT``."""

    BAR0 = 0
    BAR1 = 1
    BAR2 = 2
    BAR3 = 3
    BAR4 = 4
    BAR5 = 5
    ROM = 6
    CONFIG = 7
    VGA = 8
    COUNT = 9


class Irq(IntEnum):
    """Interrupt indexes of a VFIO PCI device."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4
    COUNT = 5


class DeviceFlags(IntFlag):
    """What a device is and can."""

    RESET = 1
    PCI = 2


class RegionFlags(IntFlag):
    """What a user may do with a region."""

    READ = 1
    WRITE = 2
    MMAP = 4
    CAPS = 8


class IrqFlags(IntFlag):
    """How an interrupt is armed and behaves."""

    EVENTFD = 1
    MASKABLE = 2
    AUTOMASKED = 4
    NORESIZE = 8


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Answer to GetInfo."""

    flags: DeviceFlags
    num_regions: int
    num_irqs: int


@dataclass(frozen=True, slots=True)
class Area:
    """A part of a region that may be mapped; offset (within the region) and size in bytes, page multiples."""

    offset: int
    size: int


REGION_SHIFT = 40
"""A region is at most 1 TiB: the device's file has that much room for each, see `region_offset`."""
REGION_BASE = 1 << 62
"""Where the regions begin in the device's file, so that no access to an ordinary file has a region's offset."""
MOST_REGIONS = 32
"""Indexes that a device may use, those of PCI included."""


def region_offset(index: int) -> int:
    """Where a region lies in the device's file."""
    return REGION_BASE + (index << REGION_SHIFT)


def region_place(offset: int) -> tuple[int, int]:
    """Which region an offset in the device's file is of, and the offset within it; a negative index for none."""
    return divmod(offset - REGION_BASE, 1 << REGION_SHIFT)


@dataclass(frozen=True, slots=True)
class RegionType:
    """What a device-specific region is: VFIO_REGION_INFO_CAP_TYPE.

    A ``type`` with bit 31 is a PCI vendor's own: ``RegionType(0x8000_0000 | vendor, subtype)``.
    """

    type: int
    subtype: int


GFX_EDID = RegionType(1, 1)
"""Through which a user describes the monitor: VFIO_REGION_TYPE_GFX, VFIO_REGION_SUBTYPE_GFX_EDID."""


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """Answer to GetRegionInfo.

    ``size`` is in bytes, 0 for a region that is not there. ``areas`` are the parts that may be mapped when the
    region has the flag MMAP; none means all of it. A device-specific region may have a ``type``. ``offset`` is where
    it lies in the device's file; a driver gives it only for a region that shows the bytes of another.
    """

    index: int
    flags: RegionFlags
    size: int
    areas: tuple[Area, ...] = ()
    type: RegionType | None = None
    offset: int = -1

    def __post_init__(self) -> None:
        if self.offset < 0:
            object.__setattr__(self, "offset", region_offset(self.index))


@dataclass(frozen=True, slots=True)
class IrqInfo:
    """Answer to GetIrqInfo; ``count`` is the number of vectors (subindexes), 0 when the index is not there."""

    index: int
    flags: IrqFlags
    count: int


class Eventfd(Protocol):
    """An eventfd of the requester's. The table that holds it closes it."""

    def signal(self) -> None:
        """Wake whoever listens to it."""
        ...

    def watch(self, signalled: Callable[[], None]) -> None:
        """Call ``signalled`` as a step of the device whenever the requester signals it, until it is closed."""
        ...

    def close(self) -> None: ...


class IrqAction(Enum):
    """What SET_IRQS does."""

    MASK = 0x08
    UNMASK = 0x10
    TRIGGER = 0x20


@dataclass(frozen=True, slots=True)
class GetInfo:
    """VFIO_DEVICE_GET_INFO."""


@dataclass(frozen=True, slots=True)
class GetRegionInfo:
    """VFIO_DEVICE_GET_REGION_INFO."""

    index: int


@dataclass(frozen=True, slots=True)
class GetIrqInfo:
    """VFIO_DEVICE_GET_IRQ_INFO."""

    index: int


@dataclass(frozen=True, slots=True)
class SetIrqs:
    """VFIO_DEVICE_SET_IRQS for the vectors ``start`` to ``start + count - 1`` of ``index``.

    Exactly one of the three kinds of data: ``eventfds`` (None takes a vector's eventfd away), ``bools``, or neither
    (DATA_NONE). Whoever answers the request owns its eventfds, also when it refuses it: it closes those it does
    not keep.
    """

    index: int
    start: int
    count: int
    action: IrqAction
    eventfds: tuple[Eventfd | None, ...] | None = None
    bools: tuple[bool, ...] | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """VFIO_DEVICE_RESET."""


Request = GetInfo | GetRegionInfo | GetIrqInfo | SetIrqs | Reset
Reply = DeviceInfo | RegionInfo | IrqInfo | None
