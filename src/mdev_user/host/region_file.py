"""The file that holds an open mdev's mappable regions: one sealed, sparse memfd, made when it is first needed.

The same file is the vfio-user region fd and the device fd of the ioctl interface; a region lies at
`region_offset` of its index, so terabytes are addressed and only touched pages exist.
"""

import errno
import fcntl
import mmap
import os

from mdev_user.errors import DriverError
from mdev_user.units import PAGE
from mdev_user.vfio.requests import MOST_REGIONS, REGION_SHIFT, region_offset

_SIZE = region_offset(MOST_REGIONS)
# Nobody who holds the file may change its size: a guest's mapping of it stays valid, and so does ours.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

MOST_EXTENTS = 1024
"""To look for each one in memory that was touched here and there would take longer than to read it all."""


class RegionFile:
    """Zero-filled when made; closed with the user, so that nothing is left for the next."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._fd = -1
        self._maps: dict[int, mmap.mmap] = {}

    @property
    def fd(self) -> int:
        if self._fd < 0:
            fd = os.memfd_create(self._name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, _SIZE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            self._fd = fd
        return self._fd

    def view(self, index: int, size: int) -> memoryview:
        """The bytes of a region; the same ones at every call."""
        if index not in self._maps:
            if not 0 <= index < MOST_REGIONS:
                raise DriverError(f"region {index}: expected an index from 0 to {MOST_REGIONS - 1}")
            if size <= 0 or size % PAGE or size > 1 << REGION_SHIFT:
                raise DriverError(f"region {index}: expected a size in pages of {PAGE}, given {size}")
            self._maps[index] = mmap.mmap(self.fd, size, offset=region_offset(index))
        return memoryview(self._maps[index])

    def extents(self, index: int, size: int) -> list[tuple[int, int]]:
        """Where somebody has touched a region, as pairs of offsets (first, behind the last); the rest takes no room."""
        base, end = region_offset(index), region_offset(index) + size
        found: list[tuple[int, int]] = []
        at = base
        while len(found) < MOST_EXTENTS:
            try:
                begin = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing from here on
                    return found
                raise
            if begin >= end:
                return found
            at = min(os.lseek(self.fd, begin, os.SEEK_HOLE), end)
            found.append((begin - base, at - base))
        return [*found, (at - base, size)]

    def close(self) -> None:
        # A driver may still hold a view; the memory then goes with the view, and nobody else can reach it.
        self._maps.clear()
        fd, self._fd = self._fd, -1  # first: somebody else may close it, too
        if fd >= 0:
            os.close(fd)
