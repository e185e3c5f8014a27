"""Guest memory behind the file descriptors of DMA_MAP: mapped where that is safe, read and written where not.

Whoever truncates a file that we have mapped kills us with SIGBUS at the next touch. So a file is mapped only when it
is sealed against shrinking (memfd_create(2), F_SEAL_SHRINK) and holds the whole range; it is mapped once however
many DMA mappings lie in it (a vIOMMU makes thousands of 4 KiB). Any other regular file is served by pread and pwrite.
Bytes are copied in and out; nobody gets a view.
"""

import fcntl
import os
import stat
from dataclasses import dataclass
from mmap import PROT_READ, PROT_WRITE, mmap
from threading import Lock
from typing import final

from mdev_user.errors import DmaFault, GuestError
from mdev_user.vfio.dma import Backing, DmaFlags
from mdev_user.vfio_user.transport import close_fds

_LARGEST_OFFSET = (1 << 63) - 1
_SHRINK, _WRITE_SEALS = fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_WRITE | 0x10
"""0x10 is F_SEAL_FUTURE_WRITE (Linux 5.1), which Python 3.11 does not name."""

_Key = tuple[int, int, int]


@dataclass(slots=True)
class _File:
    """One mapped file: (st_dev, st_ino, protection), and how many backings lie in it."""

    key: _Key
    memory: mmap
    users: int = 0


class GuestMemory:
    """Makes a `Backing` of a file descriptor. May be shared by devices: safe to use from several threads."""

    def __init__(self) -> None:
        self._files: dict[_Key, _File] = {}
        self._lock = Lock()

    @property
    def mapped_files(self) -> int:
        return len(self._files)

    def backing(self, fd: int, offset: int, size: int, flags: DmaFlags) -> Backing:
        """``size`` bytes at ``offset`` of the file. Owns ``fd`` from the call on, also when it raises.

        EINVAL for what is no regular file, or is not open for what ``flags`` lets the device do.
        """
        try:
            status = os.fstat(fd)
            _check_file(fd, status, flags)
            _check_offset(offset, size)
            if not _seals(fd) & _SHRINK or offset + size > status.st_size:
                kept, fd = fd, -1
                return _FileBacking(kept, offset, size)
            return self._mapped(fd, status, offset, size)
        finally:
            if fd >= 0:
                close_fds((fd,))

    def _mapped(self, fd: int, status: os.stat_result, offset: int, size: int) -> Backing:
        protection = _protection(fd)
        key = (status.st_dev, status.st_ino, protection)
        with self._lock:
            file = self._files.get(key)
            if file is None or offset + size > len(file.memory):
                # The file may have grown. Older backings keep the shorter mapping, which stays valid.
                file = _File(key, mmap(fd, status.st_size, prot=protection))
                self._files[key] = file
            file.users += 1
        return _MappedBacking(self, file, offset, size)

    def _forget(self, file: _File) -> None:
        with self._lock:
            file.users -= 1
            if file.users:
                return
            if self._files.get(file.key) is file:
                del self._files[file.key]
            file.memory.close()


@final
class _MappedBacking:
    __slots__ = ("_end", "_file", "_memory", "_owner", "_start")

    def __init__(self, owner: GuestMemory, file: _File, start: int, size: int) -> None:
        self._owner = owner
        self._file: _File | None = file
        self._memory = file.memory
        self._start = start
        self._end = start + size

    def read(self, offset: int, length: int) -> bytes:
        start = self._start + offset
        _check_inside(offset, start + length, self._end)
        return self._memory[start : start + length]

    def write(self, offset: int, data: bytes) -> None:
        start = self._start + offset
        _check_inside(offset, start + len(data), self._end)
        self._memory[start : start + len(data)] = data

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            self._owner._forget(file)  # noqa: SLF001 - the two are one concept


@final
class _FileBacking:
    __slots__ = ("_end", "_fd", "_start")

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd = fd
        self._start = start
        self._end = start + size

    def read(self, offset: int, length: int) -> bytes:
        start = self._start + offset
        _check_inside(offset, start + length, self._end)
        data = bytearray()
        while len(data) < length:
            part = self._try_read(start + len(data), length - len(data))
            if not part:
                raise DmaFault(f"the guest's memory file ends before offset {start + length:#x}")
            data += part
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        start = self._start + offset
        _check_inside(offset, start + len(data), self._end)
        # A write behind the end would make the file longer; the guest's memory must not grow by our writing.
        if start + len(data) > os.fstat(self._fd).st_size:
            raise DmaFault(f"the guest's memory file ends before offset {start + len(data):#x}")
        written = 0
        while written < len(data):
            written += self._try_write(data[written:], start + written)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close_fds((fd,))

    def _try_read(self, start: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, start)
        except OSError as error:
            raise DmaFault(f"the guest's memory file: {error}") from error

    def _try_write(self, data: bytes, start: int) -> int:
        try:
            return os.pwrite(self._fd, data, start)
        except OSError as error:
            raise DmaFault(f"the guest's memory file: {error}") from error


def _check_file(fd: int, status: os.stat_result, flags: DmaFlags) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise GuestError("DMA_MAP: expected the file descriptor of a regular file or a memfd")
    opened = fcntl.fcntl(fd, fcntl.F_GETFL)
    access = opened & os.O_ACCMODE
    unreadable = access == os.O_WRONLY or opened & os.O_PATH
    unwritable = access == os.O_RDONLY or opened & os.O_APPEND or _seals(fd) & _WRITE_SEALS
    if unreadable or (DmaFlags.WRITE in flags and unwritable):
        raise GuestError(f"DMA_MAP: the file is not open for {flags.name}")


def _check_offset(offset: int, size: int) -> None:
    if size < 1 or offset + size > _LARGEST_OFFSET:
        raise GuestError(f"DMA_MAP: no file has {size:#x} bytes at offset {offset:#x}")


def _check_inside(offset: int, end: int, limit: int) -> None:
    if offset < 0 or end > limit:
        raise DmaFault("a DMA access outside of its mapping")


def _seals(fd: int) -> int:
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return 0  # not a kind of file that can be sealed


def _protection(fd: int) -> int:
    read_only = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    return PROT_READ if read_only or _seals(fd) & _WRITE_SEALS else PROT_READ | PROT_WRITE
