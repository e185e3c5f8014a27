"""The DMA mappings of a VFIO device: which guest addresses a device may reach, and through what.

A mapping is backed by memory that can be copied from at once (a file that the VMM shared) or only by asking the
VMM with a message. A driver does not see the difference: it awaits. Where the bytes come from is a `Backing`, made
by the layer that received the file descriptor.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple, Protocol, TypeAlias

from mdev_user.errors import DmaFault, GuestError, MappingExists, TooManyMappings
from mdev_user.units import PAGE
from mdev_user.vfio.dirty import DirtyLog
from mdev_user.vfio.scatter_list import ScatterList

LARGEST_MAPPING = 8 << 40
"""Bytes. A larger mapping cannot be a machine's memory; libvfio-user refuses at the same size."""
LARGEST_ACCESS = 256 << 20
"""Bytes of one read or write of a device; how many it wants is often a register of the guest's."""
ADDRESS_SPACE = 1 << 64

Pieces: TypeAlias = Sequence[tuple[int, int]] | ScatterList
"""Guest memory that lies here and there: addresses and lengths, or a list that a guest wrote."""
Within: TypeAlias = Callable[[ScatterList, int, int], int]
"""As `ScatterList.within`."""


class DmaFlags(IntFlag):
    """Directions as the device sees them: READ lets the device read guest memory."""

    READ = 1
    WRITE = 2


class Backing(Protocol):
    """Guest memory that can be copied without asking anybody. Offsets count from the mapping's start."""

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...

    def gather(self, base: int, pieces: Pieces, into: memoryview) -> int:
        """Read what is at these addresses, of which ``base`` is offset 0, one behind the other. How many bytes it is.

        ``into`` is as long or longer, and of bytes.
        """
        at = 0
        for address, length in pieces:
            into[at : at + length] = self.read(address - base, length)
            at += length
        return at

    def scatter(self, base: int, pieces: Pieces, data: memoryview) -> int:
        """As `gather`, the other way."""
        at = 0
        for address, length in pieces:
            self.write(address - base, bytes(data[at : at + length]))
            at += length
        return at

    def file(self) -> tuple[int, int] | None:
        """The file descriptor and the offset at which another process can map it; the descriptor stays ours."""
        return None

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

    @property
    def iova(self) -> int:
        return self.mapping.iova + self.offset


class Run(NamedTuple):
    """Pieces, one behind the other, that lie in one mapping each."""

    mapping: Mapping
    pieces: Pieces


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


class DmaGather(NamedTuple):
    """Awaited by a job: what these pieces have, one behind the other. DmaFault when not all are mapped readable."""

    pieces: Pieces

    def __await__(self) -> Generator["DmaGather", bytes, bytes]:
        return (yield self)


class DmaScatter(NamedTuple):
    """Awaited by a job: store ``data`` in these pieces, as long together. DmaFault when not all are mapped writable."""

    pieces: Pieces
    data: bytes

    def __await__(self) -> Generator["DmaScatter", bytes, None]:
        yield self


class MappingWatcher(Protocol):
    """Whoever maps guest memory for himself: a process of the mdev's own."""

    def mapped(self, mapping: Mapping) -> None: ...

    def unmapping(self, mappings: Sequence[Mapping]) -> None:
        """Returns when he has let go of them."""


class DmaMappings:
    """The mappings of one open device, by address; used under its step lock."""

    __slots__ = ("_mappings", "_starts", "limit", "log", "watchers")

    def __init__(self, limit: int = 65535) -> None:
        self.limit = limit
        self.log = DirtyLog()
        """What the device has written, once its user asks for it; unmapping does not end or clear it."""
        self.watchers: tuple[MappingWatcher, ...] = ()
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

    def gather(self, pieces: Pieces) -> DmaGather:
        """To be awaited in a job."""
        return DmaGather(pieces)

    def scatter(self, pieces: Pieces, data: bytes | memoryview) -> DmaScatter:
        """To be awaited in a job."""
        return DmaScatter(pieces, bytes(data))

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
        for each in self.watchers:
            each.mapped(mapping)

    def unmap(self, iova: int, size: int) -> int:
        """VFIO's UNMAP_DMA of every mapping in the range, be it none. Returns how many bytes are unmapped.

        EINVAL, and nothing is unmapped, when a mapping lies only partly in the range, or the range is none of pages.
        So does the kernel's type1 IOMMU (version 2, drivers/vfio/vfio_iommu_type1.c). A client need not know what it
        mapped: for a guest with an IOMMU, QEMU unmaps all of the address space in large pieces when the guest resets.
        """
        first, last = self._whole(iova, size)
        gone = self._mappings[first:last]
        del self._starts[first:last], self._mappings[first:last]
        self._let_go(gone)
        return sum(each.size for each in gone)

    def within(self, iova: int, size: int) -> list[Mapping]:
        """What `unmap` would unmap, in order. Its errors are the same."""
        first, last = self._whole(iova, size)
        return self._mappings[first:last]

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
        self._let_go(mappings)
        return sum(each.size for each in mappings)

    def _let_go(self, mappings: list[Mapping]) -> None:
        if mappings:
            for each in self.watchers:
                each.unmapping(mappings)
        _close(mappings)

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

    def scattered(self, pieces: Pieces, needed: DmaFlags) -> list[Segment]:
        """As `segments`, for an access whose bytes are these pieces, one behind the other."""
        found: list[Segment] = []
        start = 0
        for address, length in pieces:
            if length < 0:
                raise DmaFault(f"a DMA access of {length} bytes at {address:#x}")
            found += [each._replace(start=start + each.start) for each in self.segments(address, length, needed)]
            start += length
        if start > LARGEST_ACCESS:
            raise DmaFault(f"a DMA access of {start:#x} bytes: expected at most {LARGEST_ACCESS:#x}; do it in parts")
        return found

    def runs(self, pieces: Pieces, needed: DmaFlags, within: Within = ScatterList.within) -> list[Run]:
        """Pieces by the mappings that they lie in, in order. EFAULT as in `scattered`, but for their sum."""
        if isinstance(pieces, ScatterList):
            return self._runs_of(pieces, needed, within)
        found: list[Run] = []
        part: list[tuple[int, int]] = []
        low = high = 0
        for piece in pieces:
            address, length = piece
            if low <= address <= address + length <= high:  # as most do
                part.append(piece)
                continue
            if length < 0:
                raise DmaFault(f"a DMA access of {length} bytes at {address:#x}")
            for mapping, offset, _start, count in self.segments(address, length, needed):
                low, high, part = mapping.iova, _end(mapping), [(mapping.iova + offset, count)]
                found.append(Run(mapping, part))
        return found

    def _runs_of(self, pieces: ScatterList, needed: DmaFlags, within: Within) -> list[Run]:
        found: list[Run] = []
        at, rest = 0, pieces
        while rest.size:
            address, length = next(iter(rest))
            for segment in self.segments(address, length, needed):  # more than one: those of one piece
                mapping = segment.mapping
                count = within(rest, mapping.iova, mapping.size) or segment.length
                found.append(Run(mapping, pieces.cut(at, count)))
                at += count
                rest = pieces.cut(at, pieces.size - at)
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
