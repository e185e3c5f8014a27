"""Mappings of a program's memory: what devices get of it, what is served, and what a refusal leaves behind.

The program is this process, its devices are real: an engine that computes a CRC of guest memory, or copies it.
"""

import ctypes
import gc
import mmap
import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from errno import EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, ENOSPC, EPERM
from pathlib import Path
from zlib import crc32

import pytest
from typing_extensions import override

from daemon.parents.engine import CAREFUL, COPY, CRC, FAULT, RESULT, STATUS, Card
from mdev_user.errors import DmaFault, MdevUserError, errno_of
from mdev_user.mdev.device import Mdev
from mdev_user.testing.local import LocalHost
from mdev_user.uapi.files import File, Files
from mdev_user.uapi.memory import AddressSpace
from mdev_user.uapi.program import Mapping as Area
from mdev_user.uapi.program import Program
from mdev_user.uapi.program_memory import MOST_PIECES, Held
from mdev_user.units import PAGE
from mdev_user.vfio.dma import DmaFlags
from mdev_user.vfio.requests import Irq
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError
from unit.host.test_dma import COMMAND, Guest

IOVA = 0x10_0000
PAGES = 16
SIZE = PAGES * PAGE
BOTH = DmaFlags.READ | DmaFlags.WRITE
FDS = Path("/proc/self/fd")
TEXT = bytes(range(256)) * 16

Piece = tuple[int, int, bool, int]


_alive: list[mmap.mmap] = []
"""What a test has mapped stays mapped."""


class Memory:
    """Memory of this process, and where it is."""

    def __init__(self, fd: int = -1, size: int = SIZE, flags: int = mmap.MAP_SHARED) -> None:
        self.map = mmap.mmap(fd, size, flags)
        self.map[: len(TEXT)] = TEXT
        _alive.append(self.map)
        anchor = ctypes.c_char.from_buffer(self.map)
        self.address = ctypes.addressof(anchor)
        del anchor


class Device(Client):
    """What a device is told, without a device: ``refuses`` is the first address that it does not take."""

    def __init__(self, refuses: int = -1, *, files: bool = True) -> None:
        self.pieces: list[Piece] = []
        self.refuses = refuses
        self.files = files

    @override
    def dma_map(self, iova: int, size: int, fd: int = -1, offset: int = 0, flags: DmaFlags = BOTH) -> None:
        if iova == self.refuses or (fd >= 0 and not self.files):
            raise RemoteError(ENOSPC, "no more")
        self.pieces.append((iova, size, fd >= 0, offset))

    @override
    def dma_unmap(self, iova: int, size: int) -> None:
        before = len(self.pieces)
        self.pieces = [each for each in self.pieces if each[:2] != (iova, size)]
        assert len(self.pieces) == before - 1

    @override
    def dma_unmap_all(self) -> None:
        self.pieces.clear()


class GoneDevice(Device):
    """Its server has ended."""

    @override
    def dma_map(self, iova: int, size: int, fd: int = -1, offset: int = 0, flags: DmaFlags = BOTH) -> None:
        raise BrokenPipeError


@pytest.fixture
def program() -> Program:
    return Program(os.getpid())


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 2 * SIZE)
    yield fd
    os.close(fd)


@pytest.fixture
def space() -> Iterator[AddressSpace]:
    space = AddressSpace()
    yield space
    space.unmap_all()


def attached(space: AddressSpace, *devices: Device) -> None:
    for device in devices:
        space.attach(device)


@contextmanager
def refused(errno: int) -> Iterator[None]:
    with pytest.raises((OSError, MdevUserError)) as found:
        yield
    assert errno_of(found.value) == errno


def test_a_shared_memfd_goes_to_the_device_and_anonymous_memory_does_not(
    space: AddressSpace, program: Program, memfd: int
) -> None:
    shared, own = Memory(memfd), Memory(flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    device = Device()
    attached(space, device)
    space.map(program, shared.address + PAGE, IOVA, SIZE - PAGE, BOTH)
    assert not space.serves(device)
    space.map(program, own.address, 2 * IOVA, SIZE, BOTH)
    assert device.pieces == [(IOVA, SIZE - PAGE, True, PAGE), (2 * IOVA, SIZE, False, 0)]
    assert space.serves(device)


def test_one_mapping_over_several_areas_is_several_pieces_and_unmaps_whole(
    space: AddressSpace, program: Program, memfd: int
) -> None:
    memory = Memory(flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    fixed = mmap.MAP_SHARED | 0x10
    middle = memory.address + 4 * PAGE
    assert libc.mmap(middle, PAGE, 3, fixed, memfd, 3 * PAGE) == middle
    assert libc.mmap(middle + PAGE, PAGE, 3, fixed, memfd, 4 * PAGE) == middle + PAGE
    device = Device()
    attached(space, device)
    space.map(program, memory.address, IOVA, SIZE, BOTH)
    assert device.pieces == [
        (IOVA, 4 * PAGE, False, 0),
        (IOVA + 4 * PAGE, 2 * PAGE, True, 3 * PAGE),
        (IOVA + 6 * PAGE, SIZE - 6 * PAGE, False, 0),
    ]
    with refused(EINVAL):
        space.unmap(IOVA, 4 * PAGE)
    assert space.unmap(0, 4 * IOVA) == SIZE
    assert not device.pieces


def test_a_private_mapping_of_a_file_is_served(space: AddressSpace, program: Program, memfd: int) -> None:
    memory = Memory(memfd, flags=mmap.MAP_PRIVATE)
    device = Device()
    attached(space, device)
    space.map(program, memory.address, IOVA, SIZE, BOTH)
    assert device.pieces == [(IOVA, SIZE, False, 0)]
    assert space.read(IOVA, len(TEXT)) == TEXT
    assert os.pread(memfd, len(TEXT), 0) != TEXT


def test_a_file_that_the_program_has_closed_is_served(space: AddressSpace, program: Program) -> None:
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    os.ftruncate(fd, SIZE)
    memory = Memory(fd)
    inode = os.fstat(fd).st_ino
    for each in FDS.iterdir():
        if each.exists() and each.stat().st_ino == inode:
            os.close(int(each.name))
    device = Device()
    attached(space, device)
    space.map(program, memory.address, IOVA, SIZE, BOTH)
    assert device.pieces == [(IOVA, SIZE, False, 0)]
    space.write(IOVA, b"new")
    assert memory.map[:3] == b"new"


WRONG = [
    ((1, IOVA, PAGE, BOTH), EINVAL),
    ((0, IOVA + 1, PAGE, BOTH), EINVAL),
    ((0, IOVA, PAGE + 1, BOTH), EINVAL),
    ((0, IOVA, 0, BOTH), EINVAL),
    ((0, IOVA, PAGE, DmaFlags(0)), EINVAL),
    ((0, (1 << 64) - PAGE, 2 * PAGE, BOTH), EINVAL),
    (((1 << 64) - PAGE, IOVA, 2 * PAGE, BOTH), EINVAL),
    ((0, 5 * IOVA, 2 * PAGE, BOTH), EEXIST),
    ((0, 5 * IOVA - PAGE, 2 * PAGE, BOTH), EEXIST),
]


@pytest.mark.parametrize(("mapping", "errno"), WRONG)
def test_what_type1_refuses_is_refused(
    space: AddressSpace, program: Program, mapping: tuple[int, int, int, DmaFlags], errno: int
) -> None:
    space.map(program, 0, 5 * IOVA, PAGE, BOTH)
    with refused(errno):
        space.map(program, *mapping)
    assert space.mappings == [(5 * IOVA, PAGE)]


def test_the_last_page_of_the_address_space_can_be_mapped(space: AddressSpace, program: Program) -> None:
    space.map(program, 0, (1 << 64) - PAGE, PAGE, BOTH)
    assert space.unmap_all() == PAGE


def test_one_mapping_too_many_is_enospc(program: Program) -> None:
    space = AddressSpace(limit=2)
    space.map(program, 0, 0, PAGE, BOTH)
    space.map(program, 0, PAGE, PAGE, BOTH)
    with refused(ENOSPC):
        space.map(program, 0, 2 * PAGE, PAGE, BOTH)
    space.unmap_all()


def test_memory_that_is_not_there_is_a_fault_when_it_is_used(space: AddressSpace, program: Program) -> None:
    space.map(program, 0, IOVA, PAGE, BOTH)
    with pytest.raises(DmaFault):
        space.read(IOVA, 4)
    with pytest.raises(DmaFault):
        space.write(IOVA, b"1234")


def test_a_device_does_not_write_what_the_program_cannot(space: AddressSpace, program: Program, memfd: int) -> None:
    memory = Memory(memfd)
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(memory.address), ctypes.c_size_t(PAGE), 1) == 0
    device = Device()
    attached(space, device)
    space.map(program, memory.address, IOVA, 2 * PAGE, BOTH)
    assert device.pieces == [(IOVA, PAGE, False, 0), (IOVA + PAGE, PAGE, True, PAGE)]
    with pytest.raises(DmaFault):
        space.write(IOVA, b"1234")
    assert space.read(IOVA, 4) == TEXT[:4]


def test_directions_hold_for_served_memory(space: AddressSpace, program: Program, memfd: int) -> None:
    space.map(program, Memory(memfd).address, IOVA, PAGE, DmaFlags.READ)
    assert space.read(IOVA, 4) == TEXT[:4]
    with pytest.raises(DmaFault):
        space.write(IOVA, b"1234")


def test_what_one_device_refuses_none_keeps(space: AddressSpace, program: Program, memfd: int) -> None:
    first, second = Device(), Device(refuses=IOVA)
    attached(space, first, second)
    with refused(ENOSPC):
        space.map(program, Memory(memfd).address, IOVA, PAGE, BOTH)
    assert first.pieces == second.pieces == []
    assert len(space) == 0
    with pytest.raises(DmaFault):
        space.read(IOVA, 4)


def test_a_device_that_is_gone_does_not_keep_the_others_from_mapping(
    space: AddressSpace, program: Program, memfd: int
) -> None:
    gone, there = GoneDevice(), Device()
    attached(space, gone, there)
    space.map(program, Memory(memfd).address, IOVA, PAGE, BOTH)
    assert there.pieces == [(IOVA, PAGE, True, 0)]
    assert not space.serves(gone)


def test_a_device_that_joins_gets_what_is_there_or_nothing(space: AddressSpace, program: Program, memfd: int) -> None:
    memory = Memory(memfd)
    for at in range(3):
        space.map(program, memory.address, at * IOVA, PAGE, BOTH)
    joins, fails = Device(), Device(refuses=2 * IOVA)
    attached(space, joins)
    assert len(joins.pieces) == 3
    with refused(ENOSPC):
        space.attach(fails)
    assert not fails.pieces
    space.detach(joins)
    assert not joins.pieces
    assert len(space) == 3


def test_a_server_that_takes_no_files_is_served(space: AddressSpace, program: Program, memfd: int) -> None:
    device = Device(files=False)
    attached(space, device)
    space.map(program, Memory(memfd).address, IOVA, PAGE, BOTH)
    assert device.pieces == [(IOVA, PAGE, False, 0)]
    assert space.serves(device)
    space.unmap(IOVA, PAGE)
    assert not space.serves(device)


def test_thousands_of_mappings_of_one_file_cost_two_descriptors(
    space: AddressSpace, program: Program, memfd: int
) -> None:
    memory = Memory(memfd)
    before = len(list(FDS.iterdir()))
    for at in range(200):
        space.map(program, memory.address, at * PAGE, PAGE, BOTH)
    assert len(list(FDS.iterdir())) == before + 2
    space.unmap_all()
    assert len(list(FDS.iterdir())) == before


def test_a_copy_outlives_what_it_was_copied_from(space: AddressSpace, program: Program, memfd: int) -> None:
    source = AddressSpace(space.descriptors)
    source.map(program, Memory(memfd).address, IOVA, 4 * PAGE, BOTH)
    source.map(program, 0, IOVA + 4 * PAGE, PAGE, DmaFlags.READ)
    device = Device()
    attached(space, device)
    with refused(ENOENT):
        space.copy(source, IOVA, 0, 6 * PAGE, BOTH)
    with refused(EPERM):
        space.copy(source, IOVA, 0, 5 * PAGE, BOTH)
    assert not device.pieces
    assert not len(space)
    space.copy(source, IOVA + PAGE, 0, 2 * PAGE, BOTH)
    source.unmap_all()
    assert device.pieces == [(0, 2 * PAGE, True, PAGE)]
    space.write(0, b"copied")
    assert os.pread(memfd, 6, PAGE) == b"copied"


def test_a_file_without_a_mapping_in_the_program(space: AddressSpace, memfd: int) -> None:
    device = Device()
    attached(space, device)
    space.map_fd(memfd, PAGE, IOVA, PAGE, BOTH)
    assert device.pieces == [(IOVA, PAGE, True, PAGE)]
    space.write(IOVA, b"file")
    assert os.pread(memfd, 4, PAGE) == b"file"
    space.map_fd(memfd, 2 * SIZE - PAGE, 2 * IOVA, 2 * PAGE, BOTH)
    with pytest.raises(DmaFault):
        space.write(2 * IOVA + PAGE - 2, b"file")
    assert os.fstat(memfd).st_size == 2 * SIZE
    reader, writer = os.pipe()
    with refused(EINVAL):
        space.map_fd(reader, 0, 0, PAGE, BOTH)
    os.close(reader)
    os.close(writer)


def test_memory_of_a_device_of_ours_that_is_mapped_does_not_keep_it_open(space: AddressSpace, program: Program) -> None:
    released = []

    class Ours(File):
        @override
        def released(self) -> None:
            released.append(self)

    low = os.open("/dev/null", os.O_RDONLY)  # found before the supervisor's own, which is this process's too
    file, files, device = Ours("bar"), Files(), Device()
    os.ftruncate(file.fd, SIZE)
    files.add(file)
    description = files.new_description(file)
    os.dup2(description, low, inheritable=False)
    bar = mmap.mmap(low, SIZE)
    space.attach(device)
    space.map(program, ctypes.addressof(ctypes.c_char.from_buffer(bar)), IOVA, SIZE, BOTH)
    assert device.pieces == [(IOVA, SIZE, True, 0)]
    os.close(description)
    files.settle()
    assert not released
    gc.collect()
    bar.close()
    os.close(low)
    files.settle()
    assert released == [file]
    files.close()


# --- with devices


@pytest.fixture(scope="module")
def host() -> Iterator[LocalHost]:
    with LocalHost() as host:
        yield host


@pytest.fixture(scope="module")
def mdev(host: LocalHost) -> Mdev:
    return host.create(host.bus.register_parent("card", Card()), "card-engine")


@pytest.mark.parametrize("kind", ["memfd", "anonymous"])
def test_dma_both_ways(
    host: LocalHost, mdev: Mdev, space: AddressSpace, program: Program, memfd: int, kind: str
) -> None:
    memory = Memory(memfd) if kind == "memfd" else Memory(flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    with host.client(mdev) as client:
        space.attach(client)
        guest = Guest(client, eventfd)
        client.region_write(7, 4, COMMAND)
        client.arm(Irq.INTX, [eventfd])
        space.map(program, memory.address, IOVA, SIZE, BOTH)
        assert space.serves(client) == (kind == "anonymous")
        guest.start(CRC, IOVA, len(TEXT))
        assert guest.interrupted()
        assert guest.get(RESULT) == crc32(TEXT)
        guest.acknowledge()
        guest.start(COPY, IOVA, len(TEXT), IOVA + 8 * PAGE)
        assert guest.interrupted()
        assert memory.map[8 * PAGE : 8 * PAGE + len(TEXT)] == TEXT
        guest.acknowledge()
        space.unmap_all()
        guest.start(CAREFUL, IOVA, len(TEXT))
        assert guest.interrupted()
        assert guest.get(STATUS) == FAULT
    os.close(eventfd)


class Owner(Program):
    """This process, as if it had these areas; its files cannot be taken while it ``fails``."""

    def __init__(self, areas: list[Area], *, fails: bool = False) -> None:
        super().__init__(os.getpid())
        self.areas, self.fails = areas, fails

    @override
    def mapped(self, start: int, end: int) -> list[Area]:
        return self.areas

    @override
    def take_fd(self, number: int) -> int:
        if self.fails:
            raise MemoryError
        return super().take_fd(number)


def area(index: int, permissions: str) -> Area:
    return Area(index * PAGE, (index + 1) * PAGE, permissions, 0, 0, 0, "")


def test_read_only_memory_in_too_many_places_is_not_mapped_to_be_written(space: AddressSpace) -> None:
    """Each place is remembered for each mapping."""
    holes = Owner([area(index, "r--p" if index % 2 else "rw-p") for index in range(2 * MOST_PIECES + 2)])
    size = len(holes.areas) * PAGE
    with refused(ENOMEM):
        space.map(holes, 0, IOVA, size, BOTH)
    assert not space.descriptors
    space.map(holes, 0, IOVA, size, DmaFlags.READ)
    plain = Owner([area(index, "r--p") for index in range(1000)])
    space.map(plain, 0, 2**32, 1000 * PAGE, BOTH)
    with refused(EFAULT):
        space.write(2**32 + 500 * PAGE, b"x")


def test_a_mapping_that_fails_on_the_way_holds_nothing(space: AddressSpace, program: Program, memfd: int) -> None:
    Memory(memfd)
    first = Memory(memfd)
    areas = program.mapped(first.address, first.address + PAGE)
    with os.fdopen(os.memfd_create("other"), "w+b") as other:
        other.truncate(PAGE)
        second = Memory(other.fileno(), PAGE)
        areas += program.mapped(second.address, second.address + PAGE)
        owner = Owner(areas)
        held = space.descriptors.hold

        def hold(key: Hashable, take: Callable[[], int]) -> Held:
            owner.fails = len(space.descriptors) == 2
            return held(key, take)

        space.descriptors.hold = hold  # type: ignore[method-assign]  # it fails at the second file
        with pytest.raises(MemoryError):
            space.map(owner, 0, IOVA, SIZE, BOTH)
    assert not space.descriptors
