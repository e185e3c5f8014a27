"""The payloads of vfio-user messages as typed values: requests and replies, to and from bytes.

Source: QEMU's ``docs/interop/vfio-user.rst``; structures inside payloads are those of Linux's
``include/uapi/linux/vfio.h``. Integers are in host byte order. Every ``decode`` takes hostile bytes and raises
nothing but `GuestError` (EINVAL unless said otherwise). VERSION is in `version`.
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Self

from mdev_user.errors import GuestError
from mdev_user.vfio.requests import Area, IrqAction, RegionType
from mdev_user.vfio_user.framing import LARGEST_DATA
from mdev_user.vfio_user.region_capabilities import chain_size, decode_chain, encode_chain

ACCESS = Struct("=QII")
"""offset, region, count: what every region access begins with, in both directions."""
ACCESS_MESSAGE = Struct("=HHIIIQII")
"""Header and ACCESS together: a REGION_READ is exactly this, a REGION_WRITE begins with it (32 bytes)."""

MOST_VECTORS = 2048
"""Vectors that MSI-X can have (PCI 3.0 section 6.8.2): bounds what SET_IRQS makes us allocate."""
TOP = 1 << 64

_UNMAP = Struct("=IIQQ")
_MAP = Struct("=IIQQQ")
_DEVICE_INFO = Struct("=IIII")
_REGION_INFO = Struct("=IIIIQQ")
_IRQ_INFO = Struct("=IIII")
_SET_IRQS = Struct("=IIIII")
_DMA = Struct("=QQ")
_DMA_WRITE_REPLIES = {12: Struct("=QI"), 16: _DMA}

_REGION_FLAG_CAPS = 8

_DATA_NONE, _DATA_BOOL, _DATA_EVENTFD = 0x1, 0x2, 0x4
_DATA_MASK, _ACTION_MASK = 0x07, 0x38
_ACTIONS = {action.value: action for action in IrqAction}
_DMA_FLAGS = 0x3


@dataclass(frozen=True, slots=True)
class DmaMap:
    """DMA_MAP, 32 bytes: ``size`` bytes of guest memory at ``iova``, in the fd that comes along at ``offset``."""

    flags: int
    offset: int
    iova: int
    size: int

    def encode(self) -> bytes:
        return _MAP.pack(_MAP.size, self.flags, self.offset, self.iova, self.size)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        _argsz, flags, offset, iova, size = _fixed_part(_MAP, payload)
        if not flags or flags & ~_DMA_FLAGS:
            raise GuestError(f"DMA_MAP flags {flags:#x}: expected 1 (read), 2 (write) or both")
        return cls(flags, offset, iova, size)


@dataclass(frozen=True, slots=True)
class DmaUnmap:
    """DMA_UNMAP, 24 bytes, which the reply repeats. Flags (dirty bitmap, all) are not known yet."""

    iova: int
    size: int

    def encode(self) -> bytes:
        return _UNMAP.pack(_UNMAP.size, 0, self.iova, self.size)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        _argsz, flags, iova, size = _fixed_part(_UNMAP, payload)
        if flags:
            raise GuestError(f"DMA_UNMAP flags {flags:#x}: expected 0")
        return cls(iova, size)


@dataclass(frozen=True, slots=True)
class DeviceGetInfo:
    """DEVICE_GET_INFO, 16 bytes of which only argsz is read."""

    def encode(self) -> bytes:
        return _DEVICE_INFO.pack(_DEVICE_INFO.size, 0, 0, 0)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        _fixed_part(_DEVICE_INFO, payload)
        return cls()


@dataclass(frozen=True, slots=True)
class DeviceInfoReply:
    """The reply to DEVICE_GET_INFO, 16 bytes."""

    flags: int
    num_regions: int
    num_irqs: int

    def encode(self) -> bytes:
        return _DEVICE_INFO.pack(_DEVICE_INFO.size, self.flags, self.num_regions, self.num_irqs)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        _argsz, flags, num_regions, num_irqs = _fixed_part(_DEVICE_INFO, payload)
        return cls(flags, num_regions, num_irqs)


@dataclass(frozen=True, slots=True)
class DeviceGetRegionInfo:
    """DEVICE_GET_REGION_INFO, 32 bytes; ``argsz`` is how much of a reply the client takes."""

    index: int
    argsz: int = _REGION_INFO.size

    def encode(self) -> bytes:
        return _REGION_INFO.pack(self.argsz, 0, self.index, 0, 0, 0)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        argsz, _flags, index, *_zeros = _fixed_part(_REGION_INFO, payload)
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
            raise GuestError(_wrong_size(_REGION_INFO.size, payload))
        argsz, flags, index, cap_offset, size, offset = _REGION_INFO.unpack_from(payload)
        areas, kind = decode_chain(payload, cap_offset) if flags & _REGION_FLAG_CAPS else ((), None)
        return cls(index, flags, size, offset, areas, argsz, kind)


@dataclass(frozen=True, slots=True)
class DeviceGetIrqInfo:
    """DEVICE_GET_IRQ_INFO, 16 bytes."""

    index: int

    def encode(self) -> bytes:
        return _IRQ_INFO.pack(_IRQ_INFO.size, 0, self.index, 0)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        _argsz, _flags, index, _count = _fixed_part(_IRQ_INFO, payload)
        return cls(index)


@dataclass(frozen=True, slots=True)
class IrqInfoReply:
    """The reply to DEVICE_GET_IRQ_INFO, 16 bytes."""

    index: int
    flags: int
    count: int

    def encode(self) -> bytes:
        return _IRQ_INFO.pack(_IRQ_INFO.size, self.flags, self.index, self.count)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        _argsz, flags, index, count = _fixed_part(_IRQ_INFO, payload)
        return cls(index, flags, count)


class IrqData(IntEnum):
    """What SET_IRQS brings for each vector."""

    NONE = _DATA_NONE
    BOOL = _DATA_BOOL
    EVENTFD = _DATA_EVENTFD


@dataclass(frozen=True, slots=True)
class DeviceSetIrqs:
    """DEVICE_SET_IRQS, 20 bytes; BOOL adds one byte per vector, EVENTFD one fd (no fd at all: take them away)."""

    index: int
    start: int
    count: int
    action: IrqAction
    data: IrqData = IrqData.NONE
    bools: tuple[bool, ...] = ()

    def encode(self) -> bytes:
        flags = self.action.value | self.data
        size = _SET_IRQS.size + len(self.bools)
        return _SET_IRQS.pack(size, flags, self.index, self.start, self.count) + bytes(self.bools)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if len(payload) < _SET_IRQS.size:
            raise GuestError(_wrong_size(_SET_IRQS.size, payload))
        argsz, flags, index, start, count = _SET_IRQS.unpack_from(payload)
        if argsz < _SET_IRQS.size:
            raise GuestError(f"SET_IRQS argsz {argsz}: expected at least {_SET_IRQS.size}")
        action = _ACTIONS.get(flags & _ACTION_MASK)
        kind = flags & _DATA_MASK
        if action is None or kind not in IrqData.__members__.values() or flags & ~(_ACTION_MASK | _DATA_MASK):
            raise GuestError(f"SET_IRQS flags {flags:#x}: expected exactly one action and one kind of data")
        if start + count > MOST_VECTORS:
            raise GuestError(f"SET_IRQS of vectors {start} to {start + count}: no index has over {MOST_VECTORS}")
        values = payload[_SET_IRQS.size :]
        expected = count if kind == IrqData.BOOL else 0
        if len(values) != expected:
            raise GuestError(f"SET_IRQS with {len(values)} bytes of data: expected {expected}")
        return cls(index, start, count, action, IrqData(kind), tuple(value != 0 for value in values))


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
            raise GuestError(_wrong_size(ACCESS.size, payload))
        offset, region, count = ACCESS.unpack(payload)
        _check_access(offset, count)
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
        _check_access(offset, len(data))
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
            raise GuestError(_wrong_size(ACCESS.size, payload))
        offset, region, count = ACCESS.unpack(payload)
        return cls(offset, region, count)


@dataclass(frozen=True, slots=True)
class DmaRead:
    """DMA_READ (server to client), 16 bytes."""

    address: int
    count: int

    def encode(self) -> bytes:
        return _DMA.pack(self.address, self.count)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if len(payload) != _DMA.size:
            raise GuestError(_wrong_size(_DMA.size, payload))
        address, count = _DMA.unpack(payload)
        _check_access(address, count)
        return cls(address, count)


@dataclass(frozen=True, slots=True)
class DmaReadReply:
    """The reply to DMA_READ: the request repeated, then the data."""

    address: int
    data: bytes

    def encode(self) -> bytes:
        return _DMA.pack(self.address, len(self.data)) + self.data

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        address, data = _dma_with_data(payload)
        return cls(address, data)


@dataclass(frozen=True, slots=True)
class DmaWrite:
    """DMA_WRITE (server to client): address and count (16 bytes), then the data."""

    address: int
    data: bytes

    def encode(self) -> bytes:
        return _DMA.pack(self.address, len(self.data)) + self.data

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        address, data = _dma_with_data(payload)
        _check_access(address, len(data))
        return cls(address, data)


@dataclass(frozen=True, slots=True)
class DmaWriteReply:
    """The reply to DMA_WRITE. QEMU 11.1 sends 16 bytes, the specification says 12, older QEMU sends none (None)."""

    address: int | None
    count: int | None

    def encode(self) -> bytes:
        return b"" if self.count is None or self.address is None else _DMA.pack(self.address, self.count)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if not payload:
            return cls(None, None)
        layout = _DMA_WRITE_REPLIES.get(len(payload))
        if layout is None:
            raise GuestError(f"DMA_WRITE reply of {len(payload)} bytes: expected 0, 12 or 16")
        return cls(*layout.unpack(payload))


@dataclass(frozen=True, slots=True)
class DeviceReset:
    """DEVICE_RESET, no payload."""

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if payload:
            raise GuestError(_wrong_size(0, payload))
        return cls()


@dataclass(frozen=True, slots=True)
class Done:
    """The reply to DMA_MAP, SET_IRQS and RESET: nothing but its header."""

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if payload:
            raise GuestError(_wrong_size(0, payload))
        return cls()


def _wrong_size(expected: int, payload: bytes) -> str:
    return f"payload of {len(payload)} bytes: expected {expected}"


def _fixed_part(layout: Struct, payload: bytes) -> tuple[int, ...]:
    """A structure that begins with argsz. A client may send what argsz announces (libvfio-user) or less (QEMU)."""
    if len(payload) < layout.size:
        raise GuestError(_wrong_size(layout.size, payload))
    values: tuple[int, ...] = layout.unpack_from(payload)
    argsz = values[0]
    if argsz < layout.size:
        raise GuestError(f"argsz {argsz}: expected at least {layout.size}")
    if len(payload) > argsz:
        raise GuestError(f"payload of {len(payload)} bytes is more than its argsz {argsz}")
    return values


def _access_with_data(payload: bytes) -> tuple[int, int, bytes]:
    if len(payload) < ACCESS.size:
        raise GuestError(_wrong_size(ACCESS.size, payload))
    offset, region, count = ACCESS.unpack_from(payload)
    if len(payload) != ACCESS.size + count:
        raise GuestError(_wrong_size(ACCESS.size + count, payload))
    return offset, region, payload[ACCESS.size :]


def _dma_with_data(payload: bytes) -> tuple[int, bytes]:
    if len(payload) < _DMA.size:
        raise GuestError(_wrong_size(_DMA.size, payload))
    address, count = _DMA.unpack_from(payload)
    if len(payload) != _DMA.size + count:
        raise GuestError(_wrong_size(_DMA.size + count, payload))
    return address, payload[_DMA.size :]


def _check_access(offset: int, count: int) -> None:
    if not 0 < count <= LARGEST_DATA:
        raise GuestError(f"access of {count} bytes: expected 1 to {LARGEST_DATA}")
    if offset + count > TOP:
        raise GuestError(f"access at {offset:#x} of {count} bytes leaves the 64-bit range")
