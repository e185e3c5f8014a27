"""What a client's requests do to a device: messages on one side, the operations of `VfioDevice` on the other.

Everything but region accesses (`accesses`) and what takes several steps (`long_requests`); each request is one step.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mdev_user.errors import GuestError, MdevUserError
from mdev_user.units import MiB
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.dma import DmaFlags, DmaMappings, Mapping
from mdev_user.vfio.requests import REGION_BASE, REGION_SHIFT, Area, RegionFlags, RegionInfo, SetIrqs
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.commands import Request
from mdev_user.vfio_user.connection import Fds
from mdev_user.vfio_user.device_features import DeviceFeatures
from mdev_user.vfio_user.eventfd import Eventfds, GuestEventfd
from mdev_user.vfio_user.guest_memory import GuestMemory, MayKeepWaiting
from mdev_user.vfio_user.traps import Traps

UNSHARED = 16 * MiB
"""A BIOS or an option ROM comes without a file, too; a guest's RAM is larger than this."""

_log = logging.getLogger(__name__)

Performed = tuple[bytes, tuple[int, ...]]
"""The reply's payload, and fds to send along, which stay the device's."""

_NOTHING: Performed = (b"", ())
_MOST_REGIONS = ((1 << 63) - REGION_BASE) >> REGION_SHIFT
_REGION_FLAGS = RegionFlags.READ | RegionFlags.WRITE | RegionFlags.MMAP


class DeviceRequests:
    """Performs requests on one open device, under its step lock. What raises is the request's errno."""

    def __init__(self, device: VfioDevice, memory: GuestMemory, eventfds: Eventfds, traps: Traps) -> None:
        self.largest_unshared = 0
        self._traps = traps
        self._device = device
        self._memory = memory
        self._eventfds = eventfds
        self._features = DeviceFeatures(lambda: device.migration, lambda: device.dma.log, lambda: device.ops)
        # Any: the key says which request a method takes, and a dictionary's type cannot say that.
        self._methods: dict[type[Request], Callable[[Any, Fds], Performed]] = {
            m.DmaMap: self._dma_map,
            m.DmaUnmap: self._dma_unmap,
            m.DeviceGetInfo: self._get_info,
            m.DeviceGetRegionInfo: self._get_region_info,
            m.DeviceGetRegionIoFds: self._get_region_io_fds,
            m.DeviceGetIrqInfo: self._get_irq_info,
            m.DeviceSetIrqs: self._set_irqs,
            m.DeviceReset: self._reset,
            m.DeviceFeature: self._feature,
            m.MigDataWrite: self._mig_data_write,
            m.SetTraps: self._set_traps,
        }

    def perform(self, request: Request, fds: Fds) -> Performed:
        """Takes of ``fds`` what it keeps or has closed; the rest stays the caller's."""
        return self._methods[type(request)](request, fds)

    def _dma_map(self, request: m.DmaMap, fds: Fds) -> Performed:
        flags = DmaFlags(request.flags)
        backing = None
        for fd in fds.take():
            with suppress(MayKeepWaiting):
                backing = self._memory.backing(fd, request.offset, request.size, flags)
        try:
            self._device.dma.map(Mapping(request.iova, request.size, flags, backing))
        except BaseException:
            if backing is not None:
                backing.close()
            raise
        if backing is None:
            self._note_unshared(request.size)
        return _NOTHING

    def _note_unshared(self, size: int) -> None:
        if size >= UNSHARED > self.largest_unshared:
            _log.warning(
                "%s: %d MiB of guest memory are not shared: every DMA is a message", self._device.uuid, size // MiB
            )
        self.largest_unshared = max(self.largest_unshared, size)

    def _dma_unmap(self, request: m.DmaUnmap, _fds: Fds) -> Performed:
        bitmap = _UNMAP[m.UnmapFlags(request.flags)](self._device.dma, request)
        return m.DmaUnmapReply(request.iova, request.size, request.flags, request.page_size, bitmap).encode(), ()

    def _get_info(self, _request: m.DeviceGetInfo, _fds: Fds) -> Performed:
        info = self._device.info()
        return m.DeviceInfoReply(info.flags, info.num_regions, info.num_irqs).encode(), ()

    def _get_region_info(self, request: m.DeviceGetRegionInfo, _fds: Fds) -> Performed:
        info = self._region_info(request.index)
        areas = self._mappable(info)
        flags = info.flags & _REGION_FLAGS if areas else info.flags & _REGION_FLAGS & ~RegionFlags.MMAP
        sparse = () if areas == (Area(0, info.size),) else areas
        reply = m.RegionInfoReply(request.index, flags, info.size, info.offset, sparse, type=info.type)
        fds = (self._device.memory_fd,) if areas and reply.fits(request.argsz) else ()
        return reply.encode_within(request.argsz), fds

    def _region_info(self, index: int) -> RegionInfo:
        if index >= _MOST_REGIONS:
            raise GuestError(f"region {index}: no device has so many")
        return self._device.region_info(index)

    def _get_region_io_fds(self, request: m.DeviceGetRegionIoFds, _fds: Fds) -> Performed:
        self._region_info(request.index)
        return m.RegionIoFdsReply(request.index).encode(), ()

    def _mappable(self, info: RegionInfo) -> tuple[Area, ...]:
        """The areas of a region that the driver lets be mapped; one that it refuses is trapped instead."""
        if RegionFlags.MMAP not in info.flags or not info.size:
            return ()
        areas = info.areas or (Area(0, info.size),)
        return tuple(area for area in areas if self._may_map(info.index, area))

    def _may_map(self, index: int, area: Area) -> bool:
        try:
            self._device.mmap(index, area.offset, area.size)
        except (MdevUserError, OSError):
            return False
        return True

    def _set_traps(self, _request: m.SetTraps, fds: Fds) -> Performed:
        self._traps.set(fds.take())
        return _NOTHING

    def _get_irq_info(self, request: m.DeviceGetIrqInfo, _fds: Fds) -> Performed:
        info = self._device.irq_info(request.index)
        return m.IrqInfoReply(info.index, info.flags, info.count).encode(), ()

    def _set_irqs(self, request: m.DeviceSetIrqs, fds: Fds) -> Performed:
        eventfds = self._eventfds_of(request, fds)
        bools = request.bools if request.data is m.IrqData.BOOL else None
        try:
            self._device.ioctl(SetIrqs(request.index, request.start, request.count, request.action, eventfds, bools))
        except BaseException:
            # Whoever refuses them closes them; a driver that has no ioctl at all cannot know that.
            for eventfd in eventfds or ():
                if eventfd is not None:
                    eventfd.close()
            raise
        return _NOTHING

    def _eventfds_of(self, request: m.DeviceSetIrqs, fds: Fds) -> tuple[GuestEventfd | None, ...] | None:
        if request.data is not m.IrqData.EVENTFD:
            return None
        if not fds:
            return (None,) * request.count
        return self._eventfds.adopt(fds.take())

    def _reset(self, _request: m.DeviceReset, _fds: Fds) -> Performed:
        self._device.reset()
        return _NOTHING

    def _feature(self, request: m.DeviceFeature, _fds: Fds) -> Performed:
        return self._features.perform(request).encode(), ()

    def _mig_data_write(self, request: m.MigDataWrite, _fds: Fds) -> Performed:
        self._device.migration.write(request.data)
        return _NOTHING


def _unmap_range(dma: DmaMappings, request: m.DmaUnmap) -> bytes:
    dma.unmap(request.iova, request.size)
    return b""


def _unmap_dirty(dma: DmaMappings, request: m.DmaUnmap) -> bytes:
    report = m.DmaReport(request.iova, request.size, request.page_size)
    dma.log.check_report(report.iova, report.length, report.page_size)
    if request.bitmap_size < report.bitmap_size:
        raise GuestError(
            f"a bitmap of {request.bitmap_size} bytes: expected {report.bitmap_size} for {request.size:#x}"
        )
    return dma.unmap_dirty(request.iova, request.size, request.page_size).ljust(request.bitmap_size, b"\0")


def _unmap_all(dma: DmaMappings, _request: m.DmaUnmap) -> bytes:
    dma.unmap_all()
    return b""


_UNMAP: dict[m.UnmapFlags, Callable[[DmaMappings, m.DmaUnmap], bytes]] = {
    m.UnmapFlags(0): _unmap_range,
    m.UnmapFlags.DIRTY_BITMAP: _unmap_dirty,
    m.UnmapFlags.ALL: _unmap_all,
}
