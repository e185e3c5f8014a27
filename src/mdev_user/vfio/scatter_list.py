"""Scatter list: guest memory that lies here and there, as a guest lists it; its pieces are looked at all at once."""

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from struct import Struct
from typing import Self

from mdev_user.errors import DriverError

_ENTRY = Struct("<QI4x")
_SUMMED = 1024
"""Entries that are summed up until other threads may have their turn: 0.15 ms."""


class ScatterList:
    """Pieces of guest memory, one behind the other, as one stretch of ``size`` bytes; iterating gives `Pieces`.

    ``entries`` are 16 bytes for each piece, as a guest wrote them: its address in 8, its length in 4, and 4 that are
    not looked at, little-endian. So they are in virtio-gpu (struct virtio_gpu_mem_entry), and in a virtqueue's
    descriptors and NVMe's SGL data blocks, but for what their last bytes mean. To take a part takes as long of many
    pieces as of a few.
    """

    __slots__ = ("_begin", "_ends", "entries", "first", "size", "skipped")

    def __init__(self, entries: bytes) -> None:
        if len(entries) % _ENTRY.size:
            raise DriverError(f"a ScatterList of {len(entries)} bytes: expected a multiple of {_ENTRY.size}")
        self.entries = bytes(entries)
        self._ends = _ends(self.entries)
        self._begin = 0
        self.first = self.skipped = 0
        """Which entry the first piece is of, and how many bytes of that are left out."""
        self.size = self._ends[-1] if self._ends else 0

    def cut(self, offset: int, length: int) -> Self:
        """The ``length`` bytes at ``offset``. DriverError unless all of them are there."""
        if not 0 <= offset <= offset + length <= self.size:
            raise DriverError(f"a cut of {length} bytes at {offset}: expected some of {self.size}")
        part = object.__new__(type(self))
        part.entries, part._ends = self.entries, self._ends
        part._begin = begin = self._begin + offset
        part.first = bisect_right(self._ends, begin)
        part.skipped = begin - self._ends[part.first - 1] if part.first else begin
        part.size = length
        return part

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Addresses and lengths; none of no length."""
        left, skipped = self.size, self.skipped
        for address, length in _ENTRY.iter_unpack(memoryview(self.entries)[_ENTRY.size * self.first :]):
            if not left:
                return
            part = min(length - skipped, left)
            if part:
                yield address + skipped, part
            left, skipped = left - part, 0

    def within(self, base: int, size: int) -> int:
        """How many bytes, from the first on, are in pieces of which all lies in the ``size`` bytes at ``base``."""
        found, end = 0, base + size
        for address, length in self:
            if not base <= address <= address + length <= end:
                break
            found += length
        return found


def _ends(entries: bytes) -> "array[int]":
    """Where each piece ends, in the stretch."""
    words = array("I", entries)
    if sys.byteorder == "big":
        words.byteswap()
    lengths, ends, end = words[2::4], array("Q"), 0
    for at in range(0, len(lengths), _SUMMED):
        ends.extend(accumulate(lengths[at + 1 : at + _SUMMED], initial=end + lengths[at]))
        end = ends[-1]
    return ends
