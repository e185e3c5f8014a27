"""What the users of one host may have it keep, together and each: open files, and address space for mapped memory.

A process has only so many file descriptors (RLIMIT_NOFILE) and 2^47 bytes to map memory at. Each user has some files
for sure, whatever the others do; what is above that comes from what all have in common.
"""

import resource
from threading import Lock

from mdev_user.errors import TooManyFiles

ASSURED_FILES = 32
"""Of one user, always: a machine's memory is one file or a few, and an mdev has a few interrupts."""
MOST_FILES = 256
"""Files of memory that one user may share. QEMU has 256 slots for memory modules."""
MOST_MAPPED = 4 << 40
"""Bytes of files that are mapped for one user; what is above that is reached by pread and pwrite."""
_ALL_MAPPED = 64 << 40
"""For all users of a host: half of what a process can map."""


class HostShare:
    """What the users of a host have in common. Safe to use from several threads."""

    def __init__(self, files: int | None = None, mapped: int = _ALL_MAPPED) -> None:
        """``files`` by default: half of what this process may have open."""
        self.lock = Lock()
        self.files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 if files is None else files
        self.mapped = mapped


class Share:
    """What one user has the host keep."""

    __slots__ = ("_host", "files", "mapped")

    def __init__(self, host: HostShare | None = None) -> None:
        self._host = host or HostShare()
        self.files = 0
        self.mapped = 0

    def take_files(self, count: int) -> None:
        """ENOSPC, and nothing is taken, when neither this user's own nor the common ones are enough."""
        with self._host.lock:
            common = max(0, self.files + count - ASSURED_FILES) - max(0, self.files - ASSURED_FILES)
            if common > self._host.files:
                raise TooManyFiles(
                    f"{self.files} files are kept open for this user and the host can keep no more for all: unmap some"
                )
            self._host.files -= common
            self.files += count

    def give_files(self, count: int) -> None:
        with self._host.lock:
            common = max(0, self.files - ASSURED_FILES) - max(0, self.files - count - ASSURED_FILES)
            self._host.files += common
            self.files -= count

    def take_space(self, size: int) -> bool:
        """Whether so many bytes may be mapped; if so they are taken."""
        with self._host.lock:
            if self.mapped + size > MOST_MAPPED or size > self._host.mapped:
                return False
            self._host.mapped -= size
            self.mapped += size
            return True

    def give_space(self, size: int) -> None:
        with self._host.lock:
            self._host.mapped += size
            self.mapped -= size
