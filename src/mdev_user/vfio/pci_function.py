"""A PCI function as a VFIO device: everything about it that no driver should have to write.

What Linux's vfio-pci core does for hardware: the config space, the answers to the typed requests, and interrupts by
whichever of INTx, MSI and MSI-X the guest enabled. A driver written by hand holds one for each of its mdevs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mdev_user.errors import DriverError, GuestError, UnknownRequest
from mdev_user.pci.bars import Bar
from mdev_user.pci.config import ConfigSpace
from mdev_user.pci.interrupts import InterruptKind, Interrupts, Window
from mdev_user.vfio.counters import Counters
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.irqs import IrqTable
from mdev_user.vfio.requests import (
    MOST_REGIONS,
    Area,
    DeviceFlags,
    DeviceInfo,
    GetInfo,
    GetIrqInfo,
    GetRegionInfo,
    Irq,
    IrqAction,
    Region,
    RegionFlags,
    RegionInfo,
    Reply,
    Request,
    Reset,
    SetIrqs,
)

_READ_WRITE = RegionFlags.READ | RegionFlags.WRITE

_IRQS = tuple(Irq(kind) for kind in InterruptKind)
"""By kind: the call of an enumeration takes longer than sending does."""


@dataclass(frozen=True, slots=True)
class BarRegion:
    """A BAR, and which parts of it a guest may map instead of trapping; offsets and sizes in pages."""

    bar: Bar
    areas: tuple[Area, ...] = ()


class PciFunction:
    """One function. Between `open` and `close` its interrupts reach a user; used under the step lock."""

    __slots__ = ("_count", "_regions", "_windows", "config", "interrupts", "irqs")

    def __init__(self, config: ConfigSpace, bars: Mapping[int, BarRegion], others: Iterable[RegionInfo] = ()) -> None:
        """``bars`` by region index, as declared to ``config``; ``others`` are device-specific regions, from 9 on.

        Those that follow index 8 without a gap are counted in VFIO_DEVICE_GET_INFO; of one beyond a gap a user learns
        elsewhere.
        """
        self.config = config
        self.interrupts = Interrupts(config, self._drive_pin, self._send_message)
        self.irqs = self._table(Counters())
        self._windows = self.interrupts.windows()
        self._regions = {
            index: RegionInfo(index, _READ_WRITE, 0) for index in range(Region.COUNT)
        }  # a region that is not there has size 0, as Linux's samples answer
        self._regions[Region.CONFIG] = RegionInfo(Region.CONFIG, _READ_WRITE, len(config))
        for index, each in bars.items():
            flags = _READ_WRITE | (RegionFlags.MMAP if each.areas else RegionFlags(0))
            self._regions[index] = RegionInfo(index, flags, each.bar.size, each.areas)
        for region in others:
            self._add(region)
        self._count = next(index for index in range(MOST_REGIONS + 1) if index not in self._regions)

    def open(self, device: VfioDevice) -> None:
        """A user opened the device: config space and interrupts as after power-on."""
        self.irqs = self._table(device.counters)
        self.config.reset()
        self.interrupts.reset()

    def adopt_user(self, other: "PciFunction") -> None:
        """Have the user of another function, with the same vectors, and its eventfds."""
        self.irqs = other.irqs

    def close(self) -> None:
        """The user is gone: give its eventfds back."""
        self.irqs.disarm_all()

    def read_config(self, offset: int, count: int) -> bytes:
        return self.config.read(offset, count)

    def write_config(self, offset: int, data: bytes) -> None:
        self.interrupts.config_written(self.config.write(offset, data))

    def ioctl(self, request: Request) -> Reply:
        """The answers to what every VFIO PCI device is asked.

        RESET leaves the function as it is: VFIO_DEVICE_RESET resets what is behind the BARs, and config space and
        armed interrupts survive it (Linux saves and restores them around the reset). So the driver resets itself.
        """
        match request:
            case GetInfo():
                flags = DeviceFlags.PCI | DeviceFlags.RESET
                return DeviceInfo(flags, self._count, int(Irq.COUNT))
            case GetRegionInfo(index):
                return self.region(index)
            case GetIrqInfo(index):
                return self.irqs.info(index)
            case SetIrqs():
                self._set_irqs(request)
                return None
            case Reset():
                return None
        raise UnknownRequest(f"a PCI function does not know {request}")

    def window(self, region: int, offset: int) -> Window | None:
        """The part of a BAR that the function answers for itself: the MSI-X table or its pending bits."""
        for window in self._windows:
            if region == window.bar and window.offset <= offset < window.offset + window.size:
                return window
        return None

    def mmap(self, region: int, offset: int, length: int) -> None:
        """Only what was declared as an area of a BAR may be mapped. EINVAL otherwise."""
        for area in self.region(region).areas:
            if area.offset <= offset and offset + length <= area.offset + area.size:
                return
        raise GuestError(f"region {region} has no mappable area at {offset:#x} of {length:#x} bytes")

    def _add(self, region: RegionInfo) -> None:
        if not Region.COUNT <= region.index < MOST_REGIONS or region.index in self._regions:
            raise DriverError(
                f"region {region.index}: expected one of its own, from {int(Region.COUNT)} to {MOST_REGIONS - 1}"
            )
        self._regions[region.index] = region

    def region(self, index: int) -> RegionInfo:
        """EINVAL for an index that the device does not have."""
        if index not in self._regions:
            others = [str(each) for each in sorted(self._regions) if each >= Region.COUNT]
            raise GuestError(f"region index {index}: expected {', '.join([f'0 to {Region.COUNT - 1}', *others])}")
        return self._regions[index]

    def _set_irqs(self, request: SetIrqs) -> None:
        self.irqs.set(request)
        if request.action is not IrqAction.TRIGGER or request.eventfds is None:
            return
        armed = [vector for vector, eventfd in enumerate(request.eventfds, request.start) if eventfd is not None]
        if armed:
            self.interrupts.arm(InterruptKind(request.index), armed)

    def _table(self, counters: Counters) -> IrqTable:
        counts = {Irq(kind): count for kind, count in enumerate(self.interrupts.counts)}
        return IrqTable(counts, counters)

    def _drive_pin(self, level: bool) -> None:  # noqa: FBT001 - a wire has two levels
        self.irqs.set_level(level)

    def _send_message(self, kind: InterruptKind, vector: int) -> bool:
        return self.irqs.trigger(_IRQS[kind], vector)
