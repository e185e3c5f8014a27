"""DEVICE_FEATURE: the features that have to do with migration, and the data of each.

Layouts are those of Linux's ``struct vfio_device_feature`` and its features (``include/uapi/linux/vfio.h``).
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Self

from mdev_user.errors import GuestError, TooManyRanges
from mdev_user.vfio.dirty import MOST_RANGES
from mdev_user.vfio_user.messages.payload import fixed_part

_FEATURE = Struct("=II")
_NUMBER = 0xFFFF
_STATE = Struct("=Ii")
_NO_FD = -1
_U64 = Struct("=Q")
_CONTROL = Struct("=QII")
_RANGE = Struct("=QQ")
_REPORT = Struct("=QQQ")


class Feature(IntEnum):
    """Those of the specification, MIG_DATA_SIZE, which only Linux has, and GFX_PLANE, which only we have."""

    MIGRATION = 1
    MIG_DEVICE_STATE = 2
    DMA_LOGGING_START = 6
    DMA_LOGGING_STOP = 7
    DMA_LOGGING_REPORT = 8
    MIG_DATA_SIZE = 9
    GFX_PLANE = 0xFF00


class FeatureOps(IntFlag):
    """What is done with a feature. PROBE asks whether the others can be done, and does nothing."""

    GET = 1 << 16
    SET = 1 << 17
    PROBE = 1 << 18


_OPS = FeatureOps.GET | FeatureOps.SET | FeatureOps.PROBE


@dataclass(frozen=True, slots=True)
class DeviceFeature:
    """DEVICE_FEATURE, request and reply alike: 8 bytes, then the feature's own data.

    ``argsz`` is how much of a reply the client takes, and in a reply the size of all of it.
    """

    HEAD = _FEATURE.size

    feature: int
    ops: FeatureOps
    argsz: int
    data: bytes = b""

    def encode(self) -> bytes:
        return _FEATURE.pack(self.argsz, self.feature | self.ops) + self.data

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        argsz, flags = fixed_part(_FEATURE, payload)
        if flags & ~(_NUMBER | int(_OPS)):  # of an IntFlag ~ would be the other known flags
            raise GuestError(f"DEVICE_FEATURE flags {flags:#x}: expected a feature, GET, SET and PROBE")
        ops = FeatureOps(flags & _OPS)
        if FeatureOps.PROBE not in ops and ops == FeatureOps.GET | FeatureOps.SET:
            raise GuestError("DEVICE_FEATURE: expected GET or SET; both only to PROBE")
        return cls(flags & _NUMBER, ops, argsz, payload[_FEATURE.size :])

    @classmethod
    def get(cls, feature: Feature, data: bytes = b"", *, room: int) -> Self:
        """A request for ``room`` bytes of data."""
        return cls(feature, FeatureOps.GET, _FEATURE.size + room, data)

    @classmethod
    def set(cls, feature: Feature, data: bytes = b"") -> Self:
        return cls(feature, FeatureOps.SET, _FEATURE.size + len(data), data)

    @property
    def room(self) -> int:
        """Bytes of data that the client takes."""
        return self.argsz - _FEATURE.size

    def with_data(self, data: bytes) -> "DeviceFeature":
        """The reply to this request that brings ``data``."""
        return DeviceFeature(self.feature, self.ops, _FEATURE.size + len(data), data)


@dataclass(frozen=True, slots=True)
class U64:
    """The data of MIGRATION (flags) and MIG_DATA_SIZE (bytes)."""

    SIZE = _U64.size

    value: int

    def encode(self) -> bytes:
        return _U64.pack(self.value)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(*_unpack(_U64, data))


@dataclass(frozen=True, slots=True)
class DeviceState:
    """The data of MIG_DEVICE_STATE. Its data_fd is unused here: the data travels in messages."""

    SIZE = _STATE.size

    state: int

    def encode(self) -> bytes:
        return _STATE.pack(self.state, _NO_FD)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        state, _data_fd = _unpack(_STATE, data)
        return cls(state)


@dataclass(frozen=True, slots=True)
class DmaLogging:
    """The data of DMA_LOGGING_START: a page size, and ranges as address and length; none means all memory."""

    SIZE = _CONTROL.size

    page_size: int
    ranges: tuple[tuple[int, int], ...] = ()

    def encode(self) -> bytes:
        ranges = b"".join(_RANGE.pack(iova, length) for iova, length in self.ranges)
        return _CONTROL.pack(self.page_size, len(self.ranges), 0) + ranges

    @classmethod
    def decode(cls, data: bytes) -> Self:
        page_size, count, _reserved = _unpack(_CONTROL, data)
        if count > MOST_RANGES:
            raise TooManyRanges(f"{count} ranges to log: expected at most {MOST_RANGES}; ask for larger ones")
        end = _CONTROL.size + count * _RANGE.size
        if len(data) < end:
            raise GuestError(f"{count} ranges to log in {len(data)} bytes: expected {end}")
        return cls(page_size, tuple(_RANGE.iter_unpack(data[_CONTROL.size : end])))


@dataclass(frozen=True, slots=True)
class DmaReport:
    """The data of DMA_LOGGING_REPORT, 24 bytes; in a reply the bitmap follows."""

    SIZE = _REPORT.size

    iova: int
    length: int
    page_size: int

    @property
    def bitmap_size(self) -> int:
        """Bytes: a bit for each ``page_size`` bytes, in words of 64."""
        pages = -(-self.length // self.page_size)
        return -(-pages // 64) * 8

    def encode(self) -> bytes:
        return _REPORT.pack(self.iova, self.length, self.page_size)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(*_unpack(_REPORT, data))


def _unpack(layout: Struct, data: bytes) -> tuple[int, ...]:
    if len(data) < layout.size:
        raise GuestError(f"a feature with {len(data)} bytes of data: expected {layout.size}")
    return layout.unpack_from(data)
