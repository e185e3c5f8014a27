"""A guest's memory, and mapping it by hand."""

import fcntl
import os
import struct

from mdev_user.units import KiB

SIZE = 64 * KiB


def memfd(size: int = SIZE, seals: int = fcntl.F_SEAL_SHRINK) -> int:
    fd = os.memfd_create("ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def dma_map(iova: int = 0, size: int = SIZE, offset: int = 0, flags: int = 3, argsz: int = 32) -> bytes:
    return struct.pack("=IIQQQ", argsz, flags, offset, iova, size)


def unmap(iova: int = 0, size: int = SIZE, flags: int = 0, argsz: int = 24) -> bytes:
    return struct.pack("=IIQQ", argsz, flags, iova, size)
