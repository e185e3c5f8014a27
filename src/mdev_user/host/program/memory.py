"""Guest memory in a process of an mdev's own: mapped when it is first looked at, and really gone when it is unmapped.

Not by Python's mmap: that keeps what anybody has a view of, and who touches memory that the guest's VMM was told is no
longer used had better die of it.
"""

import ctypes
import os
from bisect import bisect_right, insort
from dataclasses import dataclass
from mmap import MAP_SHARED, PROT_READ, PROT_WRITE

from mdev_user.driver.program import Piece
from mdev_user.errors import DmaFault
from mdev_user.host.program.wire import Mapped

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


@dataclass(slots=True, eq=False)
class _Region:
    told: Mapped
    pointer: int = 0

    def end(self) -> int:
        return self.told.iova + self.told.size


class ProcessMemory:
    """The mappings of one guest, as its process knows them."""

    def __init__(self) -> None:
        self._files: dict[int, int] = {}
        self._regions: list[_Region] = []

    def add_file(self, number: int, fd: int) -> None:
        """Owns ``fd`` from here on."""
        self._files[number] = fd

    def drop_file(self, number: int) -> None:
        os.close(self._files.pop(number))

    def map(self, told: Mapped) -> None:
        insort(self._regions, _Region(told), key=lambda each: each.told.iova)

    def unmap(self, iova: int, size: int) -> None:
        """All that lies in this range."""
        gone = [each for each in self._regions if iova <= each.told.iova < iova + size]
        self._regions = [each for each in self._regions if each not in gone]
        for each in gone:
            if each.pointer:
                _libc.munmap(each.pointer, each.told.size)

    def pieces(self, address: int, length: int, *, write: bool = False) -> list[Piece]:
        found: list[Piece] = []
        at = bisect_right(self._regions, address, key=lambda each: each.told.iova) - 1
        while length > 0:
            region = self._regions[at] if 0 <= at < len(self._regions) else None
            if region is None or not region.told.iova <= address < region.end():
                raise DmaFault(f"no memory at {address:#x}: the guest has not mapped it, or its VMM not shared it")
            if write and not region.told.writable:
                raise DmaFault(f"the guest has not mapped {address:#x} for writing")
            part = min(length, region.end() - address)
            found.append(self._piece(region, address - region.told.iova, part))
            address, length, at = address + part, length - part, at + 1
        return found

    def _piece(self, region: _Region, offset: int, length: int) -> Piece:
        if not region.pointer:
            region.pointer = _map(self._files[region.told.file], region.told)
        pointer = region.pointer + offset
        view = memoryview((ctypes.c_ubyte * length).from_address(pointer)).cast("B")
        return Piece(pointer, view if region.told.writable else view.toreadonly())


def _map(fd: int, told: Mapped) -> int:
    protection = PROT_READ | PROT_WRITE if told.writable else PROT_READ
    pointer = _libc.mmap(None, told.size, protection, MAP_SHARED, fd, told.offset)
    if pointer is None or pointer == _FAILED:
        raise DmaFault(f"the guest's memory at {told.iova:#x} cannot be mapped: {os.strerror(ctypes.get_errno())}")
    return int(pointer)
