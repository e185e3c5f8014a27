"""The ioctls of VFIO's containers on an iommufd: they mean its compatible IOAS (``vfio_compat.c``)."""

from collections.abc import Callable
from errno import EINVAL, ENOTTY
from typing import TYPE_CHECKING

from mdev_user.uapi.abi import vfio as abi
from mdev_user.uapi.abi.vfio import Command
from mdev_user.uapi.files import refused
from mdev_user.uapi.ioas import LAST, Objects
from mdev_user.units import PAGE
from mdev_user.vfio.dma import DmaFlags

if TYPE_CHECKING:
    from mdev_user.uapi.call import Call

_DMA_CC_IOMMU = 4
_EXTENSIONS = frozenset({abi.TYPE1, abi.TYPE1_V2, abi.UNMAP_ALL})
_KINDS = frozenset({abi.TYPE1, abi.TYPE1_V2})
_MAP_FLAGS = abi.DMA_MAP_READ | abi.DMA_MAP_WRITE


def ioctl(objects: Objects, call: "Call", command: int, argument: int) -> int:
    """ENOTTY for what no container has, ENODEV where an IOAS is needed and none is the compatible one."""
    perform = _IOCTLS.get(command)
    if perform is None:
        raise refused(ENOTTY)
    return perform(objects, call, argument)


def _api_version(_objects: Objects, _call: "Call", _argument: int) -> int:
    return abi.API_VERSION


def _check_extension(objects: Objects, _call: "Call", argument: int) -> int:
    if argument == _DMA_CC_IOMMU:
        objects.compatible()
        return 1
    return int(argument in _EXTENSIONS)


def _set_iommu(objects: Objects, _call: "Call", argument: int) -> int:
    if argument not in _KINDS:
        raise refused(EINVAL)
    objects.compatible()
    return 0


def _get_info(objects: Objects, call: "Call", argument: int) -> int:
    (argsz,) = abi.ARGSZ.unpack(call.read(argument, abi.ARGSZ.size))
    if argsz < abi.IOMMU_INFO_LEAST:
        raise refused(EINVAL)
    space = objects.compatible()[1].space
    full = abi.iommu_info(LAST + 1 - PAGE, ((0, LAST),), space.room, 0)
    call.write(argument, abi.fitted_iommu_info(full, argsz))
    return 0


def _map_dma(objects: Objects, call: "Call", argument: int) -> int:
    argsz, flags, address, iova, size = abi.DMA_MAP.unpack(call.read(argument, abi.DMA_MAP.size))
    if argsz < abi.DMA_MAP.size or flags & ~_MAP_FLAGS:
        raise refused(EINVAL)
    _, ioas = objects.compatible()
    call.may_wait()
    try:
        ioas.space.map(call.program, address, iova, size, DmaFlags(flags))
    finally:
        ioas.listen()
    return 0


def _unmap_dma(objects: Objects, call: "Call", argument: int) -> int:
    argsz, flags, iova, size = abi.DMA_UNMAP.unpack(call.read(argument, abi.DMA_UNMAP.size))
    if argsz < abi.DMA_UNMAP.size or flags & ~abi.DMA_UNMAP_ALL:
        raise refused(EINVAL)
    _, ioas = objects.compatible()
    if flags and (iova or size):
        raise refused(EINVAL)
    call.may_wait()
    try:
        done = ioas.space.unmap_all() if flags else ioas.space.unmap(iova, size)
    finally:
        ioas.listen()
    call.write(argument, abi.DMA_UNMAP.pack(argsz, flags, iova, done))
    return 0


_IOCTLS: dict[int, Callable[[Objects, "Call", int], int]] = {
    Command.GET_API_VERSION: _api_version,
    Command.CHECK_EXTENSION: _check_extension,
    Command.SET_IOMMU: _set_iommu,
    Command.IOMMU_GET_INFO: _get_info,
    Command.IOMMU_MAP_DMA: _map_dma,
    Command.IOMMU_UNMAP_DMA: _unmap_dma,
}
