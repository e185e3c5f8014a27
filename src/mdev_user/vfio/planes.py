"""What a device shows on its screen: planes of pixels that lie in its regions.

A VMM asks for the plane and draws it; the guest draws into the region. The words are those of
``struct vfio_device_gfx_plane_info`` (``include/uapi/linux/vfio.h``), the formats those of ``drm_fourcc.h``.
"""

from dataclasses import dataclass
from enum import IntEnum

XR24 = int.from_bytes(b"XR24", "little")
"""DRM_FORMAT_XRGB8888: four bytes a pixel, blue, green, red and nothing."""


class PlaneType(IntEnum):
    """Which plane: the picture, or the pointer on top of it (``enum drm_plane_type``)."""

    OVERLAY = 0
    PRIMARY = 1
    CURSOR = 2


@dataclass(frozen=True, slots=True)
class Plane:
    """A picture at the start of ``region``, which the user can map.

    Sizes are in pixels, ``stride`` (from one line to the next) and ``size`` (of all of it) in bytes. ``x`` and ``y``
    say where a cursor is, ``hot_x`` and ``hot_y`` where in it it points.
    """

    region: int
    width: int
    height: int
    stride: int
    size: int
    format: int = XR24
    x: int = 0
    y: int = 0
    hot_x: int = 0
    hot_y: int = 0
