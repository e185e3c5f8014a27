# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""The picture of a function that says which of its memory a VMM is to draw, and nothing more."""

from dataclasses import replace
from typing import TYPE_CHECKING

from mdev_user.errors import DriverError
from mdev_user.vfio.planes import Plane, PlaneType
from mdev_user.vfio.requests import region_place
from mdev_user.vfio.screens import Picture, Pointer

if TYPE_CHECKING:
    from mdev_user.driver.assembly import AnyFunction
    from mdev_user.driver.device import Device


def picture_of_planes(function: "AnyFunction") -> Picture | None:
    """What its `plane` says. One that gives the same plane for the picture and for the pointer has no pointer."""
    primary, cursor = function.plane(PlaneType.PRIMARY), function.plane(PlaneType.CURSOR)
    if primary is None:
        return None
    picture = _picture(function._device, primary)
    if cursor is None or cursor == primary:
        return picture
    image = _picture(function._device, cursor)
    return replace(picture, pointer=Pointer(image, cursor.x, cursor.y, cursor.hot_x, cursor.hot_y))


def _picture(device: "Device", plane: Plane) -> Picture:
    info = device._pci.region(plane.region)
    if not info.areas or info.areas[0].offset:
        raise DriverError(f"a plane in region {plane.region}: expected one that begins with memory")
    memory = device._memory(*region_place(info.offset))  # an alias lies where its memory does
    return Picture(plane.width, plane.height, plane.stride, plane.format, memory)
