"""Guest memory: telling the device where it is, and reaching what came without a file descriptor."""

from dataclasses import dataclass
from enum import IntFlag
from struct import Struct
from typing import Self

from mdev_user.errors import GuestError
from mdev_user.vfio.dirty import LARGEST_BITMAP
from mdev_user.vfio_user.messages.payload import check_access, fixed_part, wrong_size

_MAP = Struct("=IIQQQ")
_UNMAP = Struct("=IIQQ")
_BITMAP = Struct("=QQ")
_DMA = Struct("=QQ")
_DMA_WRITE_REPLIES = {12: Struct("=QI"), 16: _DMA}
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
        _argsz, flags, offset, iova, size = fixed_part(_MAP, payload)
        if not flags or flags & ~_DMA_FLAGS:
            raise GuestError(f"DMA_MAP flags {flags:#x}: expected 1 (read), 2 (write) or both")
        return cls(flags, offset, iova, size)


class UnmapFlags(IntFlag):
    """What DMA_UNMAP does besides; the specification has none of them, libvfio-user both."""

    DIRTY_BITMAP = 1
    """Tell which pages of the range the device has written."""
    ALL = 2
    """Every mapping there is; address and size are 0."""


@dataclass(frozen=True, slots=True)
class DmaUnmap:
    """DMA_UNMAP, 24 bytes; with DIRTY_BITMAP 16 more: the page size of the bitmap and its size in bytes."""

    iova: int
    size: int
    flags: int = 0
    page_size: int = 0
    bitmap_size: int = 0

    def encode(self) -> bytes:
        return _unmap(self.flags, self.iova, self.size, self.page_size, self.bitmap_size)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        argsz, flags, iova, size = fixed_part(_UNMAP, payload)
        if flags == UnmapFlags.DIRTY_BITMAP:
            return cls(iova, size, flags, *_bitmap_of(argsz, payload))
        if flags not in {0, UnmapFlags.ALL}:
            raise GuestError(f"DMA_UNMAP flags {flags:#x}: expected 0, 1 (dirty bitmap) or 2 (all)")
        if flags and (iova or size):
            raise GuestError(f"DMA_UNMAP of all with {size:#x} bytes at {iova:#x}: expected 0 for both")
        return cls(iova, size, flags)


@dataclass(frozen=True, slots=True)
class DmaUnmapReply:
    """The reply to DMA_UNMAP: the request repeated, then the bitmap that was asked for."""

    iova: int
    size: int
    flags: int = 0
    page_size: int = 0
    bitmap: bytes = b""

    def encode(self) -> bytes:
        return _unmap(self.flags, self.iova, self.size, self.page_size, len(self.bitmap)) + self.bitmap

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        argsz, flags, iova, size = fixed_part(_UNMAP, payload)
        if flags != UnmapFlags.DIRTY_BITMAP:
            return cls(iova, size, flags)
        page_size, bitmap_size = _bitmap_of(argsz, payload)
        bitmap = payload[_UNMAP.size + _BITMAP.size :]
        if len(bitmap) != bitmap_size:
            raise GuestError(f"a dirty bitmap of {len(bitmap)} bytes: expected {bitmap_size}")
        return cls(iova, size, flags, page_size, bitmap)


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
            raise GuestError(wrong_size(_DMA.size, payload))
        address, count = _DMA.unpack(payload)
        check_access(address, count)
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
        check_access(address, len(data))
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


def _unmap(flags: int, iova: int, size: int, page_size: int, bitmap_size: int) -> bytes:
    """Argsz is in both directions the size of the whole reply."""
    if flags != UnmapFlags.DIRTY_BITMAP:
        return _UNMAP.pack(_UNMAP.size, flags, iova, size)
    argsz = _UNMAP.size + _BITMAP.size + bitmap_size
    return _UNMAP.pack(argsz, flags, iova, size) + _BITMAP.pack(page_size, bitmap_size)


def _bitmap_of(argsz: int, payload: bytes) -> tuple[int, int]:
    """Page size and size in bytes of the bitmap that a DMA_UNMAP asks for or brings."""
    begin = _UNMAP.size + _BITMAP.size
    if len(payload) < begin:
        raise GuestError(wrong_size(begin, payload))
    page_size, size = _BITMAP.unpack_from(payload, _UNMAP.size)
    if size > LARGEST_BITMAP or argsz < begin + size:
        raise GuestError(
            f"a dirty bitmap of {size} bytes: expected at most {LARGEST_BITMAP}, and argsz {argsz} to hold it"
        )
    return page_size, size


def _dma_with_data(payload: bytes) -> tuple[int, bytes]:
    if len(payload) < _DMA.size:
        raise GuestError(wrong_size(_DMA.size, payload))
    address, count = _DMA.unpack_from(payload)
    if len(payload) != _DMA.size + count:
        raise GuestError(wrong_size(_DMA.size + count, payload))
    return address, payload[_DMA.size :]
