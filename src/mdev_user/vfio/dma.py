"""The DMA mappings of a VFIO device: which guest addresses a device may reach, and through what.

A mapping is backed by memory that can be copied from at once (a file that the VMM shared) or only by asking the
VMM with a message. A driver does not see the difference: it awaits. Where the bytes come from is a `Backing`, made
by the layer that received the file descriptor.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple, Protocol

from mdev_user.errors import DmaFault, GuestError, MappingExists, TooManyMappings
from mdev_user.units import PAGE
from mdev_user.vfio.dirty import DirtyLog

LARGEST_MAPPING = 8 << 40
"""Bytes. A larger mapping cannot be a machine's memory; libvfio-user refuses at the same size."""
LARGEST_ACCESS = 256 << 20
"""Bytes of one read or write of a device; how many it wants is often a register of the guest's."""
ADDRESS_SPACE = 1 << 64


class DmaFlags(IntFlag):
    """Directions as the device sees them: READ lets the device read guest memory."""

    READ = 1
    WRITE = 2


class Backing(Protocol):
    """Guest memory that can be copied without asking anybody. Offsets count from the mapping's start."""

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Mapping:
    """``size`` bytes of guest memory at ``iova``; without a backing only messages reach them."""

    iova: int
    size: int
    flags: DmaFlags
    backing: Backing | None


class Segment(NamedTuple):
    """The part of an access that lies in one mapping; ``start`` counts from the access' first byte."""

    mapping: Mapping
    offset: int
    start: int
    length: int


class DmaRead(NamedTuple):
    """Awaited by a job: ``length`` bytes at ``iova``. DmaFault when not all of it is mapped readable."""

    iova: int
    length: int

    def __await__(self) -> Generator["DmaRead", bytes, bytes]:
        return (yield self)


class DmaWrite(NamedTuple):
    """Awaited by a job: store ``data`` at ``iova``. DmaFault when not all of it is mapped writable."""

    iova: int
    data: bytes

    def __await__(self) -> Generator["DmaWrite", bytes, None]:
        yield self


class DmaMappings:
    """The mappings of one open device, by address; used under its step lock."""

    __slots__ = ("_mappings", "_starts", "limit", "log")

    def __init__(self, limit: int = 65535) -> None:
        self.limit = limit
        self.log = DirtyLog()
        """What the device has written, once its user asks for it; unmapping does not end or clear it."""
        self._starts: list[int] = []
        self._mappings: list[Mapping] = []

    def __len__(self) -> int:
        return len(self._mappings)

    def __iter__(self) -> Iterator[Mapping]:
        return iter(self._mappings)

    def read(self, iova: int, length: int) -> DmaRead:
        """To be awaited in a job."""
        return DmaRead(iova, length)

    def write(self, iova: int, data: bytes) -> DmaWrite:
        """To be awaited in a job."""
        return DmaWrite(iova, bytes(data))

    def map(self, mapping: Mapping) -> None:
        """VFIO's MAP_DMA. EINVAL for a wrong range, EEXIST for an overlap, ENOSPC above ``limit``.

        The backing is ours only when this returns.
        """
        _check_range(mapping.iova, mapping.size)
        if len(self._mappings) >= self.limit:
            raise TooManyMappings(f"{self.limit} DMA mappings are agreed on; unmap some first")
        at = bisect_right(self._starts, mapping.iova)
        if at and _end(self._mappings[at - 1]) > mapping.iova:
            raise MappingExists(_overlap(mapping, self._mappings[at - 1]))
        if at < len(self._mappings) and self._starts[at] < _end(mapping):
            raise MappingExists(_overlap(mapping, self._mappings[at]))
        self._starts.insert(at, mapping.iova)
        self._mappings.insert(at, mapping)

    def unmap(self, iova: int, size: int) -> int:
        """VFIO's UNMAP_DMA of every mapping in the range, be it none. Returns how many bytes are unmapped.

        EINVAL, and nothing is unmapped, when a mapping lies only partly in the range, or the range is none of pages.
        So does the kernel's type1 IOMMU (version 2, drivers/vfio/vfio_iommu_type1.c). A client need not know what it
        mapped: for a guest with an IOMMU, QEMU unmaps all of the address space in large pieces when the guest resets.
        """
        first, last = self._whole(iova, size)
        gone = self._mappings[first:last]
        del self._starts[first:last], self._mappings[first:last]
        _close(gone)
        return sum(each.size for each in gone)

    def unmap_dirty(self, iova: int, size: int, page_size: int) -> bytes:
        """`unmap`, with VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP: what the log has of the range, as `DirtyLog.report`.

        Its errors are those of both, and then nothing is unmapped: EINVAL when nothing is logged.
        """
        self._whole(iova, size)
        dirty = self.log.report(iova, size, page_size)
        self.unmap(iova, size)
        return dirty

    def unmap_all(self) -> int:
        """VFIO_DMA_UNMAP_FLAG_ALL: every mapping. Returns how many bytes are unmapped."""
        mappings, self._mappings, self._starts = self._mappings, [], []
        _close(mappings)
        return sum(each.size for each in mappings)

    def _whole(self, iova: int, size: int) -> tuple[int, int]:
        """Which mappings lie in the range. EINVAL when one lies only partly in it."""
        _check_pages("unmapping", iova, size)
        end = iova + size
        first, last = bisect_left(self._starts, iova), bisect_left(self._starts, end)
        self._check_edge(first, iova, iova, size)
        self._check_edge(last, end, iova, size)
        return first, last

    def _check_edge(self, at: int, edge: int, iova: int, size: int) -> None:
        """``at`` is how many mappings start below ``edge``, one end of a range that is unmapped."""
        if at and _end(cut := self._mappings[at - 1]) > edge:
            raise GuestError(
                f"DMA unmapping of {size:#x} bytes at {iova:#x} would split the mapping of {cut.size:#x} bytes at "
                f"{cut.iova:#x}; unmap that whole"
            )

    def maps(self, mapping: Mapping) -> bool:
        """Whether this one, and not a later one at its address, is still mapped."""
        at = bisect_left(self._starts, mapping.iova)
        return at < len(self._mappings) and self._mappings[at] is mapping

    def place(self, iova: int, length: int, needed: int) -> tuple[Backing, int] | None:
        """Where an access is that lies in one mapping with a backing: that, and the offset in it. None: see `segments`.

        ``needed`` is a `DmaFlags` as a number: the operators of flags take as long as all of the rest.
        """
        at = bisect_right(self._starts, iova) - 1
        if at < 0 or not 0 < length <= LARGEST_ACCESS:
            return None
        mapping = self._mappings[at]
        offset = iova - mapping.iova
        if mapping.backing is None or offset + length > mapping.size or needed & ~int(mapping.flags):
            return None
        return mapping.backing, offset

    def segments(self, iova: int, length: int, needed: DmaFlags) -> list[Segment]:
        """The mappings that an access touches, in order. EFAULT unless every byte is mapped with ``needed``.

        EFAULT also for more than `LARGEST_ACCESS` bytes.
        """
        if length > LARGEST_ACCESS:
            raise DmaFault(f"a DMA access of {length:#x} bytes: expected at most {LARGEST_ACCESS:#x}; do it in parts")
        found: list[Segment] = []
        start = 0
        at = bisect_right(self._starts, iova) - 1
        while start < length:
            if not 0 <= at < len(self._mappings):
                raise DmaFault(_fault(iova + start, needed))
            mapping = self._mappings[at]
            offset = iova + start - mapping.iova
            if offset < 0 or offset >= mapping.size or needed & ~mapping.flags:
                raise DmaFault(_fault(iova + start, needed))
            part = min(length - start, mapping.size - offset)
            found.append(Segment(mapping, offset, start, part))
            start, at = start + part, at + 1
        return found


def _end(mapping: Mapping) -> int:
    return mapping.iova + mapping.size


def _check_range(iova: int, size: int) -> None:
    if size <= 0 or size > LARGEST_MAPPING:
        raise GuestError(f"DMA mapping of {size:#x} bytes: expected 1 to {LARGEST_MAPPING:#x}")
    _check_pages("mapping", iova, size)


def _check_pages(what: str, iova: int, size: int) -> None:
    if iova < 0 or size <= 0 or iova + size > ADDRESS_SPACE:
        raise GuestError(f"DMA {what} of {size:#x} bytes at {iova:#x}: expected some of the 64-bit address space")
    if iova % PAGE or size % PAGE:
        raise GuestError(f"DMA {what} of {size:#x} bytes at {iova:#x}: expected multiples of {PAGE}")


def _close(mappings: list[Mapping]) -> None:
    for mapping in mappings:
        if mapping.backing is not None:
            mapping.backing.close()


def _overlap(new: Mapping, old: Mapping) -> str:
    return f"DMA mapping {new.iova:#x}+{new.size:#x} overlaps {old.iova:#x}+{old.size:#x}"


def _fault(iova: int, needed: DmaFlags) -> str:
    return f"the guest has not mapped {iova:#x} for {needed.name}"
