"""VFIO_DEVICE_QUERY_GFX_PLANE: what is on a device's screen, as a part of one of its regions.

The rules are those of Linux's sample drivers mdpy and mbochs; planes that are a dma-buf are not offered, since only a
driver of the kernel can make one.
"""

from errno import EINVAL, ENOTTY
from struct import Struct
from typing import Protocol

from mdev_user.errors import GuestError
from mdev_user.uapi.call import Call
from mdev_user.vfio.planes import Plane, PlaneType
from mdev_user.vfio_user.connection import RemoteError

_PROBE, _REGION = 1, 4
_HEAD = Struct("=4I")
"""argsz, flags, drm_plane_type, drm_format."""
_REST = Struct("=IQ9I")
"""From drm_format to region_index; of both, 60 bytes."""
_FORMAT_AT = 12
_SIZE = _FORMAT_AT + _REST.size
_TYPES = frozenset(PlaneType)


class Screen(Protocol):
    """The vfio-user client of the device."""

    def plane(self, kind: PlaneType) -> Plane | None: ...


def query_plane(screen: Screen, call: Call, address: int) -> int:
    """Answer the ioctl; ENOTTY without a screen, EINVAL for another kind of plane than a region's, EFAULT."""
    if not _has_screen(screen):
        raise OSError(ENOTTY, "the device has no screen")
    argsz, flags, kind, _format = _HEAD.unpack(call.read(address, _HEAD.size))
    if argsz < _SIZE:
        raise GuestError(f"QUERY_GFX_PLANE: argsz {argsz}, expected {_SIZE}")
    if flags == _PROBE | _REGION:
        return 0
    if flags != _REGION or kind not in _TYPES:
        raise OSError(
            EINVAL, f"QUERY_GFX_PLANE: flags {flags:#x}, plane type {kind}: expected 4, a region's, and 0 to 2"
        )
    call.write(address + _FORMAT_AT, _packed(screen.plane(PlaneType(kind))))
    return 0


def _has_screen(screen: Screen) -> bool:
    try:
        screen.plane(PlaneType.PRIMARY)
    except RemoteError as error:
        if error.errno == ENOTTY:
            return False
        raise
    return True


def _packed(plane: Plane | None) -> bytes:
    if plane is None:
        return bytes(_REST.size)
    return _REST.pack(
        plane.format, 0, plane.width, plane.height, plane.stride, plane.size, plane.x, plane.y, plane.hot_x,
        plane.hot_y, plane.region,
    )  # fmt: skip
