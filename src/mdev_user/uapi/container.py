"""/dev/vfio/vfio: a container, whose groups share the mappings of a type1 IOMMU.

Checks and errno are those of ``drivers/vfio/container.c`` and ``vfio_iommu_type1.c``. A container lives as long as it
is open or has a group; when its last group leaves it has no IOMMU any more, and no mappings.
"""

import os
from collections.abc import Callable
from errno import EINVAL, ENODEV, ENOTTY
from stat import S_IFCHR
from struct import Struct
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from mdev_user.uapi.abi import vfio as abi
from mdev_user.uapi.abi.vfio import Command
from mdev_user.uapi.dirty_pages import MOST_BITMAP, DirtyPages
from mdev_user.uapi.files import File, refused
from mdev_user.uapi.memory import AddressSpace
from mdev_user.units import PAGE
from mdev_user.vfio.device_numbers import CONTAINER
from mdev_user.vfio.dma import DmaFlags

if TYPE_CHECKING:
    from mdev_user.uapi.call import Call
    from mdev_user.uapi.device import Device

_EXTENSIONS = frozenset({abi.TYPE1, abi.TYPE1_V2, abi.UNMAP_ALL})
_KINDS = frozenset({abi.TYPE1, abi.TYPE1_V2})
_PAGE_SIZES = (1 << 64) - PAGE
_ALL_ADDRESSES = ((0, (1 << 64) - 1),)


class Member(Protocol):
    """A group, as its container knows it."""

    @property
    def devices(self) -> list["Device"]: ...


class Container(File):
    """One open /dev/vfio/vfio. Used under the supervisor's tables."""

    mode = S_IFCHR | 0o666

    def __init__(self) -> None:
        super().__init__("vfio-container", _rdev())
        self.space = AddressSpace()
        self._groups: list[Member] = []
        self._kind = 0
        self._dirty = DirtyPages()

    # --- groups

    @property
    def has_iommu(self) -> bool:
        """Whether SET_IOMMU was done: then devices of its groups can be opened."""
        return self._kind != 0

    def attach_group(self, group: Member) -> None:
        self._groups.append(group)

    def detach_group(self, group: Member) -> None:
        self._groups.remove(group)
        if not self._groups:
            self._kind = 0
            self._dirty.stop([])
            self.space.unmap_all()

    def attach(self, device: "Device") -> None:
        """Let the device reach what is mapped."""
        self.space.attach(device.client, device.lock)
        self._dirty.join(device)
        self._listen()

    def detach(self, device: "Device") -> None:
        self.space.detach(device.client)

    # --- ioctls

    @override
    def ioctl(self, call: "Call", command: int, argument: int) -> int:
        perform = _OF_CONTAINER.get(command)
        if perform is not None:
            return perform(self, call, argument)
        if not self.has_iommu:
            raise refused(EINVAL)
        perform = _OF_TYPE1.get(command)
        if perform is None:
            raise refused(ENOTTY)
        call.may_wait()
        try:
            return perform(self, call, argument)
        finally:
            self._listen()

    def _get_api_version(self, _call: "Call", _argument: int) -> int:
        return abi.API_VERSION

    def _check_extension(self, _call: "Call", argument: int) -> int:
        return int(argument in _EXTENSIONS)

    def _set_iommu(self, _call: "Call", argument: int) -> int:
        if not self._groups or self._kind:
            raise refused(EINVAL)
        if argument not in _KINDS:
            raise refused(ENODEV)
        self._kind = argument
        return 0

    def _get_info(self, call: "Call", argument: int) -> int:
        (argsz,) = abi.ARGSZ.unpack(call.read(argument, abi.ARGSZ.size))
        if argsz < abi.IOMMU_INFO_LEAST:
            raise refused(EINVAL)
        full = abi.iommu_info(_PAGE_SIZES, _ALL_ADDRESSES, self.space.room, MOST_BITMAP)
        call.write(argument, abi.fitted_iommu_info(full, argsz))
        return 0

    def _map_dma(self, call: "Call", argument: int) -> int:
        argsz, flags, address, iova, size = _read(call, argument, abi.DMA_MAP)
        if argsz < abi.DMA_MAP.size or flags & ~(abi.DMA_MAP_READ | abi.DMA_MAP_WRITE):
            raise refused(EINVAL)
        self.space.map(call.program, address, iova, size, DmaFlags(flags))
        return 0

    def _unmap_dma(self, call: "Call", argument: int) -> int:
        argsz, flags, iova, size = _read(call, argument, abi.DMA_UNMAP)
        known = abi.DMA_UNMAP_GET_DIRTY_BITMAP | abi.DMA_UNMAP_ALL
        if argsz < abi.DMA_UNMAP.size or flags & ~known or flags == known:
            raise refused(EINVAL)
        if flags & abi.DMA_UNMAP_GET_DIRTY_BITMAP:
            self._dirty.report_unmapped(self._devices, call, argument + abi.DMA_UNMAP.size, argsz, iova, size)
        if flags & abi.DMA_UNMAP_ALL:
            if iova or size:
                raise refused(EINVAL)
            done = self.space.unmap_all()
        else:
            done = self._unmap(iova, size)
        call.write(argument, abi.DMA_UNMAP.pack(argsz, flags, iova, done))
        return 0

    def _unmap(self, iova: int, size: int) -> int:
        if not size or (iova | size) % PAGE or iova + size > 1 << 64:
            raise refused(EINVAL)
        return self.space.unmap(iova, size)

    def _dirty_pages(self, call: "Call", argument: int) -> int:
        return self._dirty.ioctl(self._devices, self.space, call, argument)

    # --- ours

    @property
    def _devices(self) -> list["Device"]:
        return [device for group in self._groups for device in group.devices]

    def _listen(self) -> None:
        """To the devices that have to ask for memory: they may at any time."""
        for device in self._devices:
            device.listen(wanted=self.space.serves(device.client))


_OF_CONTAINER: dict[int, Callable[[Container, "Call", int], int]] = {
    Command.GET_API_VERSION: Container._get_api_version,  # noqa: SLF001 - our own, as all of these
    Command.CHECK_EXTENSION: Container._check_extension,  # noqa: SLF001
    Command.SET_IOMMU: Container._set_iommu,  # noqa: SLF001
}
_OF_TYPE1: dict[int, Callable[[Container, "Call", int], int]] = {
    Command.IOMMU_GET_INFO: Container._get_info,  # noqa: SLF001
    Command.IOMMU_MAP_DMA: Container._map_dma,  # noqa: SLF001
    Command.IOMMU_UNMAP_DMA: Container._unmap_dma,  # noqa: SLF001
    Command.IOMMU_DIRTY_PAGES: Container._dirty_pages,  # noqa: SLF001
}


def _read(call: "Call", argument: int, layout: Struct) -> tuple[int, ...]:
    return layout.unpack(call.read(argument, layout.size))


def _rdev() -> int:
    major, minor = CONTAINER
    return os.makedev(major, minor)
