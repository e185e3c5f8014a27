"""Device-specific regions: what a device's user has beside its BARs, and no guest sees.

Their indexes follow those of PCI (``include/uapi/linux/vfio.h``: VFIO_PCI_NUM_REGIONS).
"""

from typing import ClassVar

from typing_extensions import override

from mdev_user.driver.members import Member
from mdev_user.driver.memory import Memory
from mdev_user.errors import DriverError
from mdev_user.regs.bar import Bar
from mdev_user.regs.mistakes import number
from mdev_user.units import PAGE
from mdev_user.vfio.requests import MOST_REGIONS, Region, RegionType

INDEXES = range(int(Region.COUNT), MOST_REGIONS)


class DeviceRegion(Bar, index=INDEXES[0], size=PAGE):
    """A map of registers that the device's user has, and not its guest: subclass it as a `Bar`, and declare them.

    ``class Edid(DeviceRegion, index=9, size=4096, kind=GFX_EDID)``: ``index`` is 9 (the default) to 31, ``size`` a
    power of two of bytes, by default a page. ``kind`` is what a VMM finds it by. It belongs to a function, not a part.
    """

    _indexes: ClassVar[range] = INDEXES
    _kind: ClassVar[RegionType | None] = None

    @override
    def __init_subclass__(
        cls, *, index: int | None = None, size: int | None = None, kind: RegionType | None = None
    ) -> None:
        if kind is not None and not isinstance(kind, RegionType):
            raise DriverError(f"{cls.__name__}: kind: expected a RegionType(type, subtype), given {kind!r}")
        cls._kind = kind or cls._kind
        super().__init_subclass__(index=index, size=size)


class Alias(Member):
    """A region that shows the bytes of a `Memory`: ``display = Alias(framebuffer, index=16)``, ``index`` from 9 to 31.

    Where it follows a gap in the indexes, a VMM does not look for it, but has to be told of it.
    """

    def __init__(self, memory: Memory, *, index: int, kind: RegionType | None = None) -> None:
        if not isinstance(memory, Memory):
            raise DriverError(f"Alias: expected a Memory of the function, given {memory!r}")
        self._memory, self._kind = memory, kind
        self._index = number("Alias: index", index, INDEXES[0], INDEXES[-1])
