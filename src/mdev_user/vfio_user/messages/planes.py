"""DEVICE_FEATURE GFX_PLANE: what is on the device's screen. An extension of ours, which the specification lacks.

Linux has an ioctl for it, VFIO_DEVICE_QUERY_GFX_PLANE, and vfio-user has no message that carries one.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Self

from mdev_user.errors import GuestError
from mdev_user.vfio.planes import Plane, PlaneType

_TYPE = Struct("=I")
_PLANE = Struct("=10I")
_TYPES = frozenset(PlaneType)


@dataclass(frozen=True, slots=True)
class PlaneQuery:
    """The data of a request: which plane. 4 bytes."""

    SIZE = _TYPE.size

    type: PlaneType

    def encode(self) -> bytes:
        return _TYPE.pack(self.type)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < _TYPE.size:
            raise GuestError(f"a query for a plane with {len(data)} bytes of data: expected {_TYPE.size}")
        (number,) = _TYPE.unpack_from(data)
        if number not in _TYPES:
            raise GuestError(f"plane type {number}: expected 0 (overlay), 1 (primary) or 2 (cursor)")
        return cls(PlaneType(number))


@dataclass(frozen=True, slots=True)
class PlaneReply:
    """The data of a reply, 40 bytes; all zero where nothing is shown."""

    SIZE = _PLANE.size

    plane: Plane | None

    def encode(self) -> bytes:
        plane = self.plane
        if plane is None:
            return bytes(_PLANE.size)
        return _PLANE.pack(
            plane.region, plane.width, plane.height, plane.stride, plane.size, plane.format, plane.x, plane.y,
            plane.hot_x, plane.hot_y,
        )  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < _PLANE.size:
            raise GuestError(f"a plane in {len(data)} bytes of data: expected {_PLANE.size}")
        plane = Plane(*_PLANE.unpack_from(data))
        return cls(plane if plane.format else None)
