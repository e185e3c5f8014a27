"""What fstat(2) and statx(2) say of our files: struct stat and struct statx of x86-64."""

import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdev_user.uapi.files import File

# <asm/stat.h>: dev ino nlink mode uid gid pad rdev size blksize blocks, three times, reserved
_STAT = struct.Struct("<QQQIII4xQqqqQQQQQQ24x")
# <linux/stat.h>: mask blksize attributes nlink uid gid mode spare ino size blocks attributes_mask, four times of
# (s64, u32, s32), rdev and dev as (u32, u32), spare
_STATX = struct.Struct("<IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIII" + "112x")
_STATX_BASIC_STATS = 0x7FF
_BILLION = 1_000_000_000


def struct_stat(file: "File") -> bytes:
    """Of a character device, or whatever `File.mode` says."""
    found = os.fstat(file.fd)
    times = [part for each in _times(found) for part in divmod(each, _BILLION)]
    return _STAT.pack(
        found.st_dev,
        found.st_ino,
        1,
        file.mode,
        found.st_uid,
        found.st_gid,
        file.rdev,
        0,
        found.st_blksize,
        0,
        *times,
    )


def struct_statx(file: "File") -> bytes:
    """The same, for statx(2)."""
    found = os.fstat(file.fd)
    accessed, modified, changed = (divmod(each, _BILLION) for each in _times(found))
    return _STATX.pack(
        *(_STATX_BASIC_STATS, found.st_blksize, 0, 1, found.st_uid, found.st_gid, file.mode, found.st_ino, 0, 0, 0),
        *accessed,
        *(0, 0),
        *changed,
        *modified,
        *(os.major(file.rdev), os.minor(file.rdev), os.major(found.st_dev), os.minor(found.st_dev)),
    )


def _times(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns
