"""The payloads of vfio-user messages as typed values: requests and replies, to and from bytes.

Source: QEMU's ``docs/interop/vfio-user.rst``; structures inside payloads are those of Linux's
``include/uapi/linux/vfio.h``. Integers are in host byte order. Every ``decode`` takes hostile bytes and raises
nothing but `GuestError` (EINVAL unless said otherwise). VERSION is in `mdev_user.vfio_user.version`.

``device``, ``regions``, ``irqs``, ``dma``, ``features`` and ``migration`` have the messages, ``planes`` and ``traps``
those of our own, ``payload`` what all of them check.
"""

from mdev_user.vfio_user.messages.device import DeviceGetInfo, DeviceInfoReply, DeviceReset, Done
from mdev_user.vfio_user.messages.dma import (
    DmaMap,
    DmaRead,
    DmaReadReply,
    DmaUnmap,
    DmaUnmapReply,
    DmaWrite,
    DmaWriteReply,
    UnmapFlags,
)
from mdev_user.vfio_user.messages.features import (
    U64,
    DeviceFeature,
    DeviceState,
    DmaLogging,
    DmaReport,
    Feature,
    FeatureOps,
)
from mdev_user.vfio_user.messages.irqs import (
    MOST_VECTORS,
    DeviceGetIrqInfo,
    DeviceSetIrqs,
    IrqData,
    IrqInfoReply,
)
from mdev_user.vfio_user.messages.migration import MigDataRead, MigDataReadReply, MigDataWrite
from mdev_user.vfio_user.messages.payload import TOP
from mdev_user.vfio_user.messages.planes import PlaneQuery, PlaneReply
from mdev_user.vfio_user.messages.regions import (
    ACCESS,
    ACCESS_MESSAGE,
    DeviceGetRegionInfo,
    DeviceGetRegionIoFds,
    RegionInfoReply,
    RegionIoFdsReply,
    RegionRead,
    RegionReadReply,
    RegionWrite,
    RegionWriteMulti,
    RegionWriteMultiReply,
    RegionWriteReply,
)
from mdev_user.vfio_user.messages.traps import SetTraps, TrappedRead, TrappedWrite

__all__ = [
    "ACCESS",
    "ACCESS_MESSAGE",
    "MOST_VECTORS",
    "TOP",
    "U64",
    "DeviceFeature",
    "DeviceGetInfo",
    "DeviceGetIrqInfo",
    "DeviceGetRegionInfo",
    "DeviceGetRegionIoFds",
    "DeviceInfoReply",
    "DeviceReset",
    "DeviceSetIrqs",
    "DeviceState",
    "DmaLogging",
    "DmaMap",
    "DmaRead",
    "DmaReadReply",
    "DmaReport",
    "DmaUnmap",
    "DmaUnmapReply",
    "DmaWrite",
    "DmaWriteReply",
    "Done",
    "Feature",
    "FeatureOps",
    "IrqData",
    "IrqInfoReply",
    "MigDataRead",
    "MigDataReadReply",
    "MigDataWrite",
    "PlaneQuery",
    "PlaneReply",
    "RegionInfoReply",
    "RegionIoFdsReply",
    "RegionRead",
    "RegionReadReply",
    "RegionWrite",
    "RegionWriteMulti",
    "RegionWriteMultiReply",
    "RegionWriteReply",
    "SetTraps",
    "TrappedRead",
    "TrappedWrite",
    "UnmapFlags",
]
