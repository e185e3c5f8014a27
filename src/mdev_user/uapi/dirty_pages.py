"""VFIO_IOMMU_DIRTY_PAGES: which pages of a container's mappings its devices wrote, as vfio_iommu_type1.c tells it.

The devices themselves keep the logs (vfio-user: DMA_LOGGING). One that cannot makes all that is mapped dirty.
"""

from errno import EINVAL
from typing import TYPE_CHECKING

from mdev_user.errors import PeerError
from mdev_user.uapi.abi import vfio as abi
from mdev_user.uapi.files import refused
from mdev_user.units import PAGE, KiB, MiB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mdev_user.uapi.call import Call
    from mdev_user.uapi.device import Device
    from mdev_user.uapi.memory import AddressSpace

MOST_BITMAP = 256 * MiB
"""DIRTY_BITMAP_SIZE_MAX of vfio_iommu_type1.c."""
_STEP = 512 * KiB * 8 * PAGE
"""Bytes of memory whose bitmap is asked for at once: it fits in a message."""
_FLAGS = frozenset({abi.DIRTY_PAGES_START, abi.DIRTY_PAGES_STOP, abi.DIRTY_PAGES_GET_BITMAP})


class DirtyPages:
    """Whether a container's devices log, and what they logged."""

    def __init__(self) -> None:
        self._on = False

    def ioctl(self, devices: "Sequence[Device]", space: "AddressSpace", call: "Call", argument: int) -> int:
        argsz, flags = abi.DIRTY_PAGES.unpack(call.read(argument, abi.DIRTY_PAGES.size))
        if argsz < abi.DIRTY_PAGES.size or flags not in _FLAGS:
            raise refused(EINVAL)
        if flags == abi.DIRTY_PAGES_START:
            self._start(devices)
        elif flags == abi.DIRTY_PAGES_STOP:
            self.stop(devices)
        else:
            self._get_bitmap(devices, space, call, argument + abi.DIRTY_PAGES.size, argsz)
        return 0

    def join(self, device: "Device") -> None:
        """A device was attached."""
        if self._on:
            self._start([device])

    def stop(self, devices: "Sequence[Device]") -> None:
        if self._on:
            self._on = False
            for device in devices:
                device.stop_dirty_log()

    def report_unmapped(
        self, devices: "Sequence[Device]", call: "Call", where: int, argsz: int, iova: int, size: int
    ) -> None:
        """The bitmap that UNMAP_DMA asks for. EINVAL unless pages are logged."""
        if argsz < abi.DMA_UNMAP.size + abi.BITMAP.size:
            raise refused(EINVAL)
        page_size, room, data = abi.BITMAP.unpack(call.read(where, abi.BITMAP.size))
        self._report(devices, call, (iova, size), page_size, room, data)

    def _start(self, devices: "Sequence[Device]") -> None:
        self._on = True
        for device in devices:
            device.start_dirty_log(PAGE)

    def _get_bitmap(
        self, devices: "Sequence[Device]", space: "AddressSpace", call: "Call", where: int, argsz: int
    ) -> None:
        if argsz < abi.DIRTY_PAGES.size + abi.DIRTY_RANGE.size:
            raise refused(EINVAL)
        iova, size, page_size, room, data = abi.DIRTY_RANGE.unpack(call.read(where, abi.DIRTY_RANGE.size))
        edges = iova, iova + size
        if edges[1] >= 1 << 64 or any(
            start < edge < start + length for start, length in space.mappings for edge in edges
        ):  # a range takes mappings as wholes (vfio_iova_dirty_bitmap)
            raise refused(EINVAL)
        self._report(devices, call, (iova, size), page_size, room, data)

    def _report(
        self,
        devices: "Sequence[Device]",
        call: "Call",
        stretch: tuple[int, int],
        page_size: int,
        room: int,
        data: int,
    ) -> None:
        iova, size = stretch
        needed = -(-(size // PAGE) // 64) * 8
        if not self._on or page_size != PAGE or not size or (iova | size) % PAGE or iova + size > 1 << 64:
            raise refused(EINVAL)
        if not needed <= room <= MOST_BITMAP:
            raise refused(EINVAL)
        for start in range(0, size, _STEP):
            length = min(_STEP, size - start)
            bits = 0
            for device in devices:
                bits |= _bits(device, iova + start, length)
            call.write(data + start // PAGE // 8, bits.to_bytes(-(-(length // PAGE) // 8), "little"))


def _bits(device: "Device", iova: int, size: int) -> int:
    try:
        return int.from_bytes(device.dirty_pages(iova, size, PAGE), "little")
    except (OSError, PeerError):  # or its server is gone, and nobody knows what it wrote
        return (1 << size // PAGE) - 1
