"""What a program can make its supervisor keep, as docs/reference/limits.md has it."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from errno import E2BIG, ENOMEM

import pytest

from mdev_user.uapi import ioas
from mdev_user.uapi.abi import iommufd as abi
from mdev_user.uapi.abi.iommufd import Command
from mdev_user.uapi.iommufd import LONGEST, MOST_RANGES, IommuFile
from mdev_user.uapi.program import Program
from mdev_user.uapi.program_memory import MOST_PIECES, Descriptors, SharedMemory, program_memory
from mdev_user.units import PAGE
from mdev_user.vfio.dma import DmaFlags
from unit.uapi.iommu_caller import IOMMU_FD, Caller, refused

READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
MAP_FIXED = 0x10  # <sys/mman.h>


@pytest.fixture
def caller() -> Iterator[Caller]:
    caller = Caller()
    file = caller.ours[IOMMU_FD] = IommuFile()
    yield caller
    file.released()
    os.close(file.fd)


def test_one_object_too_many_is_enomem(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ioas, "MOST_OBJECTS", 2)
    first, _second = caller.ioas(), caller.ioas()
    with refused(ENOMEM):
        caller.ioas()
    caller.iommu(Command.DESTROY, abi.DESTROY, first)
    assert caller.ioas() == first


def allow(caller: Caller, number: int, count: int) -> None:
    ranges = b"".join(abi.RANGE.pack(each * PAGE, each * PAGE + 1) for each in range(count))
    data = ctypes.create_string_buffer(ranges)
    caller.iommu(Command.IOAS_ALLOW_IOVAS, abi.IOAS_ALLOW_IOVAS, number, count, 0, ctypes.addressof(data))


def test_one_allowed_range_too_many_is_enomem(caller: Caller) -> None:
    number = caller.ioas()
    allow(caller, number, MOST_RANGES)
    with refused(ENOMEM):
        allow(caller, number, MOST_RANGES + 1)


def test_a_structure_that_is_too_long_is_e2big_also_when_the_rest_is_zero(caller: Caller) -> None:
    def alloc(size: int) -> None:
        caller.ioctl(IOMMU_FD, Command.IOAS_ALLOC, abi.IOAS_ALLOC.fields.pack(size, 0, 0).ljust(size, b"\0"))

    alloc(LONGEST)
    with refused(E2BIG):
        alloc(LONGEST + 1)


@pytest.mark.parametrize("more", [0, 1])
def test_memory_of_too_many_pieces_is_asked_for(more: int) -> None:
    count = MOST_PIECES + more
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    os.ftruncate(fd, count * PAGE)
    descriptors = Descriptors()
    memory = backwards(descriptors, fd, count)
    try:
        assert len(memory.pieces) == (1 if more else count)
        assert all((each.file is None) == bool(more) for each in memory.pieces)
    finally:
        memory.close()
        os.close(fd)
    assert len(descriptors) == 0


def backwards(descriptors: Descriptors, fd: int, count: int) -> SharedMemory:
    """The pages of a file, the last one first, so that no two of them join."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    start = libc.mmap(None, count * PAGE, READ_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    for page in range(count):
        where = start + page * PAGE
        offset = (count - 1 - page) * PAGE
        assert libc.mmap(where, PAGE, READ_WRITE, mmap.MAP_SHARED | MAP_FIXED, fd, offset) == where
    try:
        both = DmaFlags.READ | DmaFlags.WRITE
        return program_memory(descriptors, Program(os.getpid()), start, count * PAGE, both)
    finally:
        assert libc.munmap(start, count * PAGE) == 0
