"""What the kernel says a directory's entries are (getdents64), without a stat of each as Python would add."""

import ctypes
import os
import struct
from pathlib import Path

_GETDENTS64 = 217  # of x86_64
_HEAD = struct.Struct("=QqHB")  # struct linux_dirent64: inode, offset, length, type
_SIZE = 1 << 16
KINDS = {4: "directory", 8: "file", 10: "link"}
"""By d_type: DT_DIR, DT_REG, DT_LNK (dirent.h)."""


def kinds(directory: Path) -> dict[str, str]:
    """The entries of a directory by name, each as a word of KINDS or as ``unknown``."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(_SIZE)
    found = {}
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while (size := libc.syscall(_GETDENTS64, fd, buffer, _SIZE)) > 0:
            data, at = buffer.raw[:size], 0
            while at < size:
                _inode, _offset, length, kind = _HEAD.unpack_from(data, at)
                name = data[at + _HEAD.size : at + length].partition(b"\0")[0].decode()
                found[name] = KINDS.get(kind, "unknown")
                at += length
        if size < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(directory))
    finally:
        os.close(fd)
    return {name: kind for name, kind in found.items() if name not in {".", ".."}}
