"""The device under test: config space, scratch registers, a mappable BAR, and interrupts."""

from typing_extensions import override

from mdev_user.errors import GuestError, OutOfRange
from mdev_user.units import KiB
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.irqs import IrqTable
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.requests import (
    Area,
    DeviceFlags,
    DeviceInfo,
    GetInfo,
    GetIrqInfo,
    GetRegionInfo,
    Irq,
    Region,
    RegionFlags,
    RegionInfo,
    Reply,
    Request,
    Reset,
    SetIrqs,
)

ACCESS = RegionFlags.READ | RegionFlags.WRITE
CONFIG_SIZE, SCRATCH_SIZE, MEMORY_SIZE = 256, 4 * KiB, 16 * KiB
TRAPPED = 4 * KiB
"""The first page of the mappable BAR is trapped, the rest may be mapped."""


class TestDevice(DeviceOps):
    """BAR0 is scratch, BAR2 is mappable behind its first page, BAR4 is mappable whole."""

    __test__ = False

    def __init__(self) -> None:
        self.config = bytearray(range(CONFIG_SIZE))
        self.scratch = bytearray(SCRATCH_SIZE)
        self.regions = {Region.CONFIG: self.config, Region.BAR0: self.scratch}
        self.sizes = {Region.CONFIG: CONFIG_SIZE, Region.BAR0: SCRATCH_SIZE}
        self.sizes |= {Region.BAR2: MEMORY_SIZE, Region.BAR4: MEMORY_SIZE}
        self.resets = 0

    @override
    def open_device(self, device: VfioDevice) -> None:
        self.device = device
        self.irqs = IrqTable({Irq.INTX: 1, Irq.MSI: 4, Irq.MSIX: 8, Irq.ERR: 1, Irq.REQ: 1}, device.counters)
        self.scratch[:] = bytes(SCRATCH_SIZE)
        self.mappable = {bar: device.memory(bar, MEMORY_SIZE) for bar in (Region.BAR2, Region.BAR4)}

    @override
    def close_device(self) -> None:
        self.irqs.disarm_all()
        for view in self.mappable.values():
            view.release()

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        return bytes(self._bytes(region, offset, count)[offset : offset + count])

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        self._bytes(region, offset, len(data))[offset : offset + len(data)] = data

    @override
    def ioctl(self, request: Request) -> Reply:
        match request:
            case GetInfo():
                return DeviceInfo(DeviceFlags.PCI | DeviceFlags.RESET, Region.COUNT, Irq.COUNT)
            case GetRegionInfo(index):
                return self._region_info(index)
            case GetIrqInfo(index):
                return self.irqs.info(index)
            case SetIrqs():
                self.irqs.set(request)
                return None
            case Reset():
                self.resets += 1
                self.scratch[:] = bytes(SCRATCH_SIZE)
                return None

    @override
    def mmap(self, region: int, offset: int, length: int) -> None:
        if region not in {Region.BAR2, Region.BAR4}:
            raise GuestError(f"region {region} cannot be mapped")

    def _region_info(self, index: int) -> RegionInfo:
        if index >= Region.COUNT:
            raise GuestError(f"region {index}")
        size = self.sizes.get(Region(index), 0)
        if index == Region.BAR2:
            return RegionInfo(index, ACCESS | RegionFlags.MMAP, size, (Area(TRAPPED, size - TRAPPED),))
        if index == Region.BAR4:
            return RegionInfo(index, ACCESS | RegionFlags.MMAP, size)
        return RegionInfo(index, ACCESS if size else RegionFlags(0), size)

    def _bytes(self, region: int, offset: int, count: int) -> bytearray | memoryview:
        size = self.sizes.get(Region(region), 0) if region < Region.COUNT else 0
        if offset + count > size:
            raise OutOfRange(f"region {region} +{offset:#x} {count}")
        return self.mappable[Region(region)] if region in self.mappable else self.regions[Region(region)]
