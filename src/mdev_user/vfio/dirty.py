"""The dirty log: which pages of the guest's memory a device has written since its user last asked.

The counterpart of VFIO_DEVICE_FEATURE_DMA_LOGGING_START, STOP and REPORT, with their errors (Linux:
drivers/vfio/vfio_main.c, include/uapi/linux/vfio.h). What is kept grows with what was written, never with the ranges
that a user asks for, and has an end: a log that becomes too large goes on with pages twice the size. It then reports
pages that were not written, which costs a user a copy; it never forgets one.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from mdev_user.errors import AddressOverflow, GuestError, TooManyRanges
from mdev_user.units import PAGE, MiB, is_power_of_two

MOST_RANGES = 256
"""Ranges that one log may have: as many as fit in a page, which is what Linux takes."""
LARGEST_PAGE = 2 * MiB
"""Bytes. A user's wish for larger pages than this is answered with this."""
LARGEST_BITMAP = MiB
"""Bytes of the bitmap of one report; it fits in one vfio-user message. At 4 KiB pages that is 32 GiB of memory."""
MOST_CHUNKS = 16384
"""Chunks that a log may hold: 256 GiB of memory at 4 KiB pages, or about 10 MB of ours."""

_CHUNK = 12
"""A chunk is 1 << _CHUNK pages, kept as the bits of one integer."""
_CHUNK_PAGES = 1 << _CHUNK
_ADDRESS_SPACE = 1 << 64


class DirtyLog:
    """The log of one open device; used under its step lock."""

    __slots__ = ("_chunks", "_ends", "_starts", "_under_way", "active", "page_size")

    def __init__(self) -> None:
        self.active = False
        self.page_size = PAGE
        """Bytes that one bit of the log stands for."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._chunks: dict[int, int] = {}
        self._under_way: Counter[tuple[int, int]] = Counter()

    def start(self, page_size: int, ranges: Sequence[tuple[int, int]]) -> int:
        """Log what is written in ``ranges``, each an address and a length in bytes; everywhere when there are none.

        ``page_size`` is a wish; the size that is logged by is returned. EINVAL while a log is under way, for a page
        size that is no power of two, for a range that is empty, not of whole pages or overlaps another; E2BIG for more
        than `MOST_RANGES`; EOVERFLOW for one that ends at 2**64 or above, as in Linux. Linux refuses no ranges at all;
        in vfio-user they mean all memory.
        """
        if self.active:
            raise GuestError("DMA is being logged already: expected DMA_LOGGING_STOP first")
        if not is_power_of_two(page_size):
            raise GuestError(f"a page size of {page_size:#x} to log by: expected a power of two")
        self._starts, self._ends = _checked(page_size, ranges)
        self.page_size = min(max(page_size, PAGE), LARGEST_PAGE)
        self._chunks = {}
        self.active = True
        return self.page_size

    def stop(self) -> None:
        """End the log, and forget it. Nothing when there is none."""
        self.active = False
        self._chunks = {}

    def mark(self, iova: int, length: int) -> None:
        """The device has written ``length`` bytes at ``iova``."""
        if not self.active:
            return
        end = iova + length
        at = max(bisect_right(self._starts, iova) - 1, 0)
        while at < len(self._starts) and self._starts[at] < end:
            first, last = max(iova, self._starts[at]), min(end, self._ends[at])
            if first < last:
                self._mark(first, last)
            at += 1

    def begin(self, iova: int, length: int) -> None:
        """The device writes there from now on until `end`, nobody knows when: it is dirty in every report meanwhile."""
        self._under_way[iova, length] += 1

    def end(self, iova: int, length: int) -> None:
        """A write that has begun is over. What of it came after the last report is in the next."""
        self._under_way[iova, length] -= 1
        if not self._under_way[iova, length]:
            del self._under_way[iova, length]
        self.mark(iova, length)

    def report(self, iova: int, length: int, page_size: int) -> bytes:
        """Which pages of a range were written since they were last reported, as bits of little-endian 64-bit words.

        Bit n is for the ``page_size`` bytes at ``iova + n * page_size``. A page of the log that lies only partly in the
        range is reported and stays dirty. EINVAL when nothing is logged, for a page size that is no power of two or
        below 4 KiB, and for a bitmap above `LARGEST_BITMAP`; EOVERFLOW for a range that ends at 2**64 or above.
        """
        self.check_report(iova, length, page_size)
        for each in self._under_way:
            self.mark(*each)
        bits = bytearray(_bitmap_size(length, page_size))
        page, end = self.page_size, iova + length
        first, last = iova // page, (end - 1) // page
        for at in self._chunks_in(first, last):
            value = self._chunks[at] & _mask(first - (at << _CHUNK), last - (at << _CHUNK))
            if page == page_size and not iova % page:
                _or_bits(bits, (at << _CHUNK) - first, value)
            else:
                _or_runs(bits, _runs(value, at << _CHUNK), page, iova, end, page_size)
        self._clear(-(-iova // page), end // page)
        return bytes(bits)

    def check_report(self, iova: int, length: int, page_size: int) -> None:
        """Raise what `report` would, and report nothing."""
        if not self.active:
            raise GuestError("DMA is not being logged: expected DMA_LOGGING_START first")
        if page_size < PAGE or not is_power_of_two(page_size):
            raise GuestError(f"a page size of {page_size:#x} to report by: expected a power of two from {PAGE} on")
        if iova < 0 or length < 0 or iova + length >= _ADDRESS_SPACE:
            raise AddressOverflow(f"a report of {length:#x} bytes at {iova:#x} reaches beyond 64 bits")
        if _bitmap_size(length, page_size) > LARGEST_BITMAP:
            raise GuestError(
                f"a report of {length:#x} bytes by {page_size:#x} needs more than {LARGEST_BITMAP:#x} bytes of bitmap; "
                "ask for it in pieces"
            )

    def _mark(self, start: int, end: int) -> None:
        first, last = start // self.page_size, (end - 1) // self.page_size
        if (wide := ((last >> _CHUNK) - (first >> _CHUNK)) // MOST_CHUNKS) > 0:
            self._coarsen(wide.bit_length())
            first, last = start // self.page_size, (end - 1) // self.page_size
        chunks = self._chunks
        for at in range(first >> _CHUNK, (last >> _CHUNK) + 1):
            base = at << _CHUNK
            chunks[at] = chunks.get(at, 0) | _mask(first - base, last - base)
        if len(chunks) > MOST_CHUNKS:
            self._coarsen(next(by for by in range(1, 64) if len({at >> by for at in chunks}) <= MOST_CHUNKS // 2))

    def _coarsen(self, by: int) -> None:
        """Go on with pages of ``1 << by`` times the size."""
        old, self._chunks = self._chunks, {}
        self.page_size <<= by
        for at, value in old.items():
            base = at >> by << _CHUNK
            marked = self._chunks.get(at >> by, 0)
            for first, count in _runs(value, at << _CHUNK):
                marked |= _mask((first >> by) - base, ((first + count - 1) >> by) - base)
            self._chunks[at >> by] = marked

    def _chunks_in(self, first: int, last: int) -> Iterable[int]:
        """The chunks that hold something and some of these pages."""
        low, high = first >> _CHUNK, last >> _CHUNK
        if high - low < len(self._chunks):
            return [at for at in range(low, high + 1) if at in self._chunks]
        return [at for at in self._chunks if low <= at <= high]

    def _clear(self, first: int, end: int) -> None:
        """Forget these pages."""
        for at in self._chunks_in(first, end - 1) if first < end else ():
            left = self._chunks[at] & ~_mask(first - (at << _CHUNK), end - 1 - (at << _CHUNK))
            if left:
                self._chunks[at] = left
            else:
                del self._chunks[at]


def _checked(page_size: int, ranges: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Where the ranges start and end, in order; all of the address space when there are none."""
    if len(ranges) > MOST_RANGES:
        raise TooManyRanges(f"{len(ranges)} ranges to log: expected at most {MOST_RANGES}; ask for larger ones")
    for iova, length in ranges:
        if iova < 0 or length <= 0 or iova % page_size or length % page_size:
            raise GuestError(f"{length:#x} bytes at {iova:#x} to log: expected whole pages of {page_size:#x} bytes")
        if iova + length >= _ADDRESS_SPACE:
            raise AddressOverflow(f"{length:#x} bytes at {iova:#x} to log reach beyond 64 bits")
    ordered = sorted(ranges)
    starts, ends = [iova for iova, _ in ordered], [iova + length for iova, length in ordered]
    for start, end in zip(starts[1:], ends, strict=False):
        if start < end:
            raise GuestError(f"two ranges to log overlap at {start:#x}")
    return (starts, ends) if starts else ([0], [_ADDRESS_SPACE])


def _bitmap_size(length: int, page_size: int) -> int:
    """Bytes: whole words of 64 bits."""
    pages = -(-length // page_size)
    return -(-pages // 64) * 8


def _mask(first: int, last: int) -> int:
    """The bits of a chunk from ``first`` to ``last``, which may lie outside it."""
    first, last = max(first, 0), min(last, _CHUNK_PAGES - 1)
    return ((1 << (last - first + 1)) - 1) << first if first <= last else 0


def _runs(value: int, base: int) -> Iterator[tuple[int, int]]:
    """Runs of set bits: the first, counted from ``base``, and how many."""
    while value:
        skipped = (value & -value).bit_length() - 1
        value >>= skipped
        count = (~value & (value + 1)).bit_length() - 1
        value >>= count
        yield base + skipped, count
        base += skipped + count


def _or_bits(bits: bytearray, at: int, value: int) -> None:
    """Set the bits of ``value`` from bit ``at`` on; those that lie below bit 0 are not set in it."""
    if at < 0:
        at, value = 0, value >> -at
    start, value = at // 8, value << at % 8
    end = start + (value.bit_length() + 7) // 8
    bits[start:end] = (int.from_bytes(bits[start:end], "little") | value).to_bytes(end - start, "little")


def _or_runs(bits: bytearray, runs: Iterable[tuple[int, int]], page: int, iova: int, end: int, page_size: int) -> None:
    """Set the bits, of ``page_size`` bytes from ``iova`` on, of runs of pages of another size."""
    for first, count in runs:
        low = (max(first * page, iova) - iova) // page_size
        high = (min((first + count) * page, end) - 1 - iova) // page_size
        _or_bits(bits, low, (1 << (high - low + 1)) - 1)
