"""The memory of a device that a guest under test maps: of this process alone, so that a copy of it has its own."""

from ctypes import addressof, c_char
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PAGESIZE, mmap
from pathlib import Path

_PAGEMAP = Path("/proc/self/pagemap")
"""A 64-bit number for each page of the process, of which the two highest bits say that it is there, or swapped out."""
_TOUCHED = bytes(each >> 6 > 0 for each in range(256))


class Regions:
    """Nobody has a file of it. It takes no room where nobody touches it, and knows where that is."""

    fd = -1

    def __init__(self) -> None:
        self._regions: dict[int, mmap] = {}

    def view(self, index: int, size: int) -> memoryview:
        if index not in self._regions:
            self._regions[index] = mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS)
        return memoryview(self._regions[index])

    def extents(self, index: int, size: int) -> list[tuple[int, int]]:
        """Where somebody has read or written, as offsets (first, behind the last), in order."""
        region = self._regions.get(index)
        if region is None:
            return []
        with _PAGEMAP.open("rb", buffering=0) as pagemap:
            pagemap.seek(addressof(c_char.from_buffer(region)) // PAGESIZE * 8)
            touched = pagemap.read(-(-size // PAGESIZE) * 8)[7::8].translate(_TOUCHED)
        found: list[tuple[int, int]] = []
        begin = touched.find(1)
        while begin >= 0:
            end = touched.find(0, begin) % (len(touched) + 1)
            found.append((begin * PAGESIZE, min(end * PAGESIZE, size)))
            begin = touched.find(1, end)
        return found
