"""What a file descriptor from a stranger is, found out without ever asking the file system of its file.

A stranger may serve that file system himself (FUSE, or NFS from his machine): fstat(2), pread(2) and even close(2) then
wait for as long as he likes. What is kept in memory, or lies on a block device, cannot do that.
"""

import ctypes
import fcntl
import os
import stat
from struct import Struct
from typing import NamedTuple

_EMPTY_PATH, _DONT_SYNC = 0x1000, 0x4000
_AT_FDCWD = -100
_BASIC = 0x7FF
_SIZE = 256
_STATX = Struct("=28xH2xQQ88xII")
"""Mode, inode, size and device of struct statx (include/uapi/linux/stat.h)."""
_STATFS_SIZE = 256
_HUGETLBFS = 0x958458F6

_library = ctypes.CDLL(None, use_errno=True)
_statx = _library.statx
_statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
_fstatfs = _library.fstatfs
_fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)


class FileStatus(NamedTuple):
    """As the kernel knows it at the moment; ``seals`` is that of the function, ``opened`` are the flags of open(2)."""

    regular: bool
    device: tuple[int, int]
    inode: int
    size: int
    seals: int | None
    opened: int

    @property
    def answers_at_once(self) -> bool:
        """Whether the file is in this machine's memory or on a file system with a block device.

        Others have no device of their own (major number 0): FUSE, NFS, 9p, and such as overlayfs and btrfs, of which
        nobody can tell from here what is below them.
        """
        return self.seals is not None or self.device[0] != 0


def file_status(fd: int) -> FileStatus:
    """OSError for what is no open file descriptor."""
    mode, inode, size, major, minor = _told(fd, b"", _EMPTY_PATH)
    return FileStatus(stat.S_ISREG(mode), (major, minor), inode, size, seals(fd), fcntl.fcntl(fd, fcntl.F_GETFL))


def identity_at(path: bytes) -> tuple[int, int]:
    """st_dev and st_ino of what a path leads to that asks no file system, such as /proc/PID/fd/N. ENOENT."""
    _mode, inode, _size, major, minor = _told(_AT_FDCWD, path, 0)
    return os.makedev(major, minor), inode


def _told(fd: int, path: bytes, flags: int) -> tuple[int, ...]:
    buffer = ctypes.create_string_buffer(_SIZE)
    if _statx(fd, path, flags | _DONT_SYNC, _BASIC, buffer):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return _STATX.unpack_from(buffer)


def seals(fd: int) -> int | None:
    """The seals of a file that lies in memory (memfd_create(2), tmpfs, hugetlbfs); None for every other file."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return None


def on_huge_pages(fd: int) -> bool:
    """Whether a file that has seals lies in hugetlbfs; otherwise it is tmpfs's."""
    buffer = (ctypes.c_long * (_STATFS_SIZE // ctypes.sizeof(ctypes.c_long)))()
    return not _fstatfs(fd, buffer) and buffer[0] == _HUGETLBFS
