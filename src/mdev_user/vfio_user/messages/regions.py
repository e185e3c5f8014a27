"""Regions: what the device says about each, and reading and writing them."""

from dataclasses import dataclass
from struct import Struct
from typing import Self

from mdev_user.errors import GuestError
from mdev_user.vfio.requests import Area, RegionType
from mdev_user.vfio_user.messages.payload import check_access, fixed_part, wrong_size
from mdev_user.vfio_user.region_capabilities import chain_size, decode_chain, encode_chain

ACCESS = Struct("=QII")
"""offset, region, count: what every region access begins with, in both directions."""
ACCESS_MESSAGE = Struct("=HHIIIQII")
"""Header and ACCESS together: a REGION_READ is exactly this, a REGION_WRITE begins with it (32 bytes)."""

MOST_BYTES_OF_MANY = 8
"""Bytes of each write of a REGION_WRITE_MULTI at most."""

_REGION_INFO = Struct("=IIIIQQ")
_REGION_FLAG_CAPS = 8
_IO_FDS = Struct("=IIII")
_COUNT = Struct("=Q")
_ONE_OF_MANY = Struct("=QII8s")


@dataclass(frozen=True, slots=True)
class DeviceGetRegionInfo:
    """DEVICE_GET_REGION_INFO, 32 bytes; ``argsz`` is how much of a reply the client takes."""

    index: int
    argsz: int = _REGION_INFO.size

    def encode(self) -> bytes:
        return _REGION_INFO.pack(self.argsz, 0, self.index, 0, 0, 0)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        argsz, _flags, index, *_zeros = fixed_part(_REGION_INFO, payload)
        return cls(index, argsz)


@dataclass(frozen=True, slots=True)
class RegionInfoReply:
    """The reply to DEVICE_GET_REGION_INFO: 32 bytes and a chain of capabilities, where it has some.

    SPARSE_MMAP where only parts can be mapped, TYPE for a device-specific region that says what it is.
    """

    index: int
    flags: int
    size: int
    offset: int
    areas: tuple[Area, ...] = ()
    argsz: int = 0
    """When decoded: bytes of the full reply. It is computed when encoded."""
    type: RegionType | None = None

    @property
    def full_size(self) -> int:
        return _REGION_INFO.size + chain_size(self.areas, self.type)

    def fits(self, argsz: int) -> bool:
        """Whether a client that takes ``argsz`` bytes gets capabilities and fd, or must ask again."""
        return self.full_size <= argsz

    def encode(self) -> bytes:
        return self.encode_within(self.full_size)

    def encode_within(self, argsz: int) -> bytes:
        """In at most ``argsz`` bytes; when that is too little, the fixed part, whose argsz says how much it takes."""
        full, begin = self.full_size, _REGION_INFO.size
        if full == begin or not self.fits(argsz):  # QEMU refuses a CAPS without an offset, which Linux would give
            return _REGION_INFO.pack(full, self.flags, self.index, 0, self.size, self.offset)
        flags = self.flags | _REGION_FLAG_CAPS
        fixed = _REGION_INFO.pack(full, flags, self.index, begin, self.size, self.offset)
        return fixed + encode_chain(self.areas, self.type, begin)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if len(payload) < _REGION_INFO.size:
            raise GuestError(wrong_size(_REGION_INFO.size, payload))
        argsz, flags, index, cap_offset, size, offset = _REGION_INFO.unpack_from(payload)
        areas, kind = decode_chain(payload, cap_offset) if flags & _REGION_FLAG_CAPS else ((), None)
        return cls(index, flags, size, offset, areas, argsz, kind)


@dataclass(frozen=True, slots=True)
class RegionRead:
    """REGION_READ, 16 bytes: ``count`` bytes (1 to 1 MiB) at ``offset`` of ``region``."""

    offset: int
    region: int
    count: int

    def encode(self) -> bytes:
        return ACCESS.pack(self.offset, self.region, self.count)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if len(payload) != ACCESS.size:
            raise GuestError(wrong_size(ACCESS.size, payload))
        offset, region, count = ACCESS.unpack(payload)
        check_access(offset, count)
        return cls(offset, region, count)


@dataclass(frozen=True, slots=True)
class RegionReadReply:
    """The reply to REGION_READ: the request repeated, then the data."""

    offset: int
    region: int
    data: bytes

    def encode(self) -> bytes:
        return ACCESS.pack(self.offset, self.region, len(self.data)) + self.data

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        offset, region, data = _access_with_data(payload)
        return cls(offset, region, data)


@dataclass(frozen=True, slots=True)
class RegionWrite:
    """REGION_WRITE: 16 bytes as REGION_READ, then the data."""

    offset: int
    region: int
    data: bytes

    def encode(self) -> bytes:
        return ACCESS.pack(self.offset, self.region, len(self.data)) + self.data

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        offset, region, data = _access_with_data(payload)
        check_access(offset, len(data))
        return cls(offset, region, data)


@dataclass(frozen=True, slots=True)
class RegionWriteReply:
    """The reply to REGION_WRITE: 16 bytes, the request without its data."""

    offset: int
    region: int
    count: int

    def encode(self) -> bytes:
        return ACCESS.pack(self.offset, self.region, self.count)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if len(payload) != ACCESS.size:
            raise GuestError(wrong_size(ACCESS.size, payload))
        offset, region, count = ACCESS.unpack(payload)
        return cls(offset, region, count)


@dataclass(frozen=True, slots=True)
class DeviceGetRegionIoFds:
    """DEVICE_GET_REGION_IO_FDS, 16 bytes: which parts of a region can be accessed through file descriptors."""

    index: int
    argsz: int = _IO_FDS.size

    def encode(self) -> bytes:
        return _IO_FDS.pack(self.argsz, 0, self.index, 0)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        argsz, flags, index, count = fixed_part(_IO_FDS, payload)
        if flags or count:
            raise GuestError(f"GET_REGION_IO_FDS with flags {flags:#x} and count {count}: expected 0 and 0")
        return cls(index, argsz)


@dataclass(frozen=True, slots=True)
class RegionIoFdsReply:
    """The reply to DEVICE_GET_REGION_IO_FDS: how many parts there are. Ours has none, so 16 bytes are all of it."""

    index: int
    count: int = 0

    def encode(self) -> bytes:
        return _IO_FDS.pack(_IO_FDS.size, 0, self.index, self.count)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if len(payload) < _IO_FDS.size:
            raise GuestError(wrong_size(_IO_FDS.size, payload))
        _argsz, _flags, index, count = _IO_FDS.unpack_from(payload)
        return cls(index, count)


@dataclass(frozen=True, slots=True)
class RegionWriteMulti:
    """REGION_WRITE_MULTI: a count (8 bytes), then 24 bytes for each write, of 1 to 8 bytes of data."""

    writes: tuple[RegionWrite, ...]

    def encode(self) -> bytes:
        each = (_ONE_OF_MANY.pack(one.offset, one.region, len(one.data), one.data) for one in self.writes)
        return _COUNT.pack(len(self.writes)) + b"".join(each)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if len(payload) < _COUNT.size:
            raise GuestError(wrong_size(_COUNT.size, payload))
        (count,) = _COUNT.unpack_from(payload)
        if len(payload) != _COUNT.size + count * _ONE_OF_MANY.size:
            raise GuestError(
                f"REGION_WRITE_MULTI of {count} writes in {len(payload)} bytes: expected 24 for each and 8"
            )
        return cls(tuple(_one_of_many(*each) for each in _ONE_OF_MANY.iter_unpack(payload[_COUNT.size :])))


@dataclass(frozen=True, slots=True)
class RegionWriteMultiReply:
    """The reply to REGION_WRITE_MULTI, 8 bytes: how many of the writes were completed."""

    completed: int

    def encode(self) -> bytes:
        return _COUNT.pack(self.completed)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if len(payload) != _COUNT.size:
            raise GuestError(wrong_size(_COUNT.size, payload))
        return cls(*_COUNT.unpack(payload))


def _access_with_data(payload: bytes) -> tuple[int, int, bytes]:
    if len(payload) < ACCESS.size:
        raise GuestError(wrong_size(ACCESS.size, payload))
    offset, region, count = ACCESS.unpack_from(payload)
    if len(payload) != ACCESS.size + count:
        raise GuestError(wrong_size(ACCESS.size + count, payload))
    return offset, region, payload[ACCESS.size :]


def _one_of_many(offset: int, region: int, count: int, data: bytes) -> RegionWrite:
    if count > MOST_BYTES_OF_MANY:
        raise GuestError(f"a write of {count} bytes in a REGION_WRITE_MULTI: expected 1 to {MOST_BYTES_OF_MANY}")
    check_access(offset, count)
    return RegionWrite(offset, region, data[:count])
