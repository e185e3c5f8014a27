"""cdev and iommufd by real system calls of another process: an edu device copies its memory, shared or not."""

import struct
from collections.abc import Iterator
from uuid import UUID

import pytest

from mdev_user.testing.daemon import RunningDaemon
from mdev_user.uapi.abi import iommufd as abi
from mdev_user.uapi.abi import vfio as abi_vfio
from mdev_user.uapi.abi.iommufd import Command
from mdev_user.uapi.abi.vfio import Command as Vfio
from mdev_user.units import PAGE
from uapi import numbers
from uapi.program import Program

pytestmark = pytest.mark.fuse

IOVA, SIZE = 0x10_0000, 16 * PAGE
TEXT = b"from the program"
BAR0, CONFIG = 1 << 62, (1 << 62) + (7 << 40)
BUFFER = 0x40000
SOURCE, TARGET, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
FETCH, STORE = 1, 3
FIXED = abi.MAP_READABLE | abi.MAP_WRITEABLE | abi.MAP_FIXED_IOVA


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("edu", "mbochs") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def uuid(daemon: RunningDaemon) -> UUID:
    return daemon.create("edu-1")


@pytest.fixture(scope="module")
def program(daemon: RunningDaemon) -> Iterator[Program]:
    with Program.under_run(daemon) as program:
        yield program


class Opened:
    """An mdev of a program, bound and attached."""

    def __init__(self, daemon: RunningDaemon, program: Program, uuid: UUID) -> None:
        self.program = program
        folder = daemon.sys / "bus/mdev/devices" / str(uuid)
        self.cdev_path = f"/dev/vfio/devices/{next((folder / 'vfio-dev').iterdir()).name}"
        self.group_path = f"/dev/vfio/{(folder / 'iommu_group').readlink().name}"
        self.iommu = program.open("/dev/iommu").ok
        self.device = program.open(self.cdev_path).ok
        bind = abi.BIND.pack(abi.BIND.size, 0, self.iommu, 0)
        self.bound = program.ioctl(self.device, Vfio.DEVICE_BIND_IOMMUFD, bind)
        assert self.bound.rc == 0, self.bound
        made = program.ioctl(self.iommu, Command.IOAS_ALLOC, abi.IOAS_ALLOC.fields.pack(12, 0, 0))
        self.ioas = int.from_bytes(made.data[8:12], "little")
        attach = abi.ATTACH_PT.pack(abi.ATTACH_PT.size, 0, self.ioas)
        assert program.ioctl(self.device, Vfio.DEVICE_ATTACH_IOMMUFD_PT, attach).rc == 0

    def map(self, address: int, size: int = SIZE, iova: int = IOVA) -> None:
        data = abi.IOAS_MAP.fields.pack(40, FIXED, self.ioas, 0, address, size, iova)
        assert self.program.ioctl(self.iommu, Command.IOAS_MAP, data).rc == 0

    def close(self) -> None:
        for fd in (self.device, self.iommu):
            assert self.program.close(fd).rc == 0


def copy(program: Program, device: int, source: int, target: int, command: int) -> None:
    """One DMA of the edu device; returns when it is done."""
    for register, value in ((SOURCE, source), (TARGET, target), (COUNT, len(TEXT)), (COMMAND, command)):
        assert program.pwrite(device, struct.pack("<Q", value), BAR0 + register).rc == 8
    for _ in range(1000):
        if not program.pread(device, 8, BAR0 + COMMAND).data[0] & 1:
            return
    raise AssertionError("the DMA does not end")


@pytest.fixture
def opened(daemon: RunningDaemon, program: Program, uuid: UUID) -> Iterator[Opened]:
    opened = Opened(daemon, program, uuid)
    yield opened
    opened.close()


@pytest.mark.parametrize("kind", ["anonymous", "memfd", "file"])
def test_a_device_copies_the_program_s_memory_both_ways(opened: Opened, kind: str) -> None:
    program = opened.program
    fd, address = (-1, program.anonymous(SIZE)) if kind == "anonymous" else program.memfd(SIZE)
    if kind == "file":
        data = abi.IOAS_MAP_FILE.fields.pack(40, FIXED, opened.ioas, fd, 0, SIZE, IOVA)
        assert program.ioctl(opened.iommu, Command.IOAS_MAP_FILE, data).rc == 0
    else:
        opened.map(address)
    program.poke(address, TEXT)
    assert program.pwrite(opened.device, b"\6\0", CONFIG + 4).rc == 2
    copy(program, opened.device, IOVA, BUFFER, FETCH)
    copy(program, opened.device, BUFFER, IOVA + PAGE, STORE)
    assert program.peek(address + PAGE, len(TEXT)) == TEXT


def test_a_group_and_a_cdev_of_one_mdev_exclude_each_other(opened: Opened) -> None:
    program = opened.program
    assert program.open(opened.group_path).errno == "EBUSY"
    second = program.open(opened.cdev_path).ok
    again = abi.BIND.pack(abi.BIND.size, 0, opened.iommu, 0)
    assert program.ioctl(second, Vfio.DEVICE_BIND_IOMMUFD, again).errno == "EINVAL"
    assert program.close(opened.device).rc == 0
    group = program.open(opened.group_path).ok
    assert program.ioctl(second, Vfio.DEVICE_BIND_IOMMUFD, again).errno == "EBUSY"
    assert program.close(group).rc == 0
    assert program.ioctl(second, Vfio.DEVICE_BIND_IOMMUFD, again).rc == 0
    opened.device = second


def test_a_group_takes_an_iommufd_for_its_container(daemon: RunningDaemon, program: Program, uuid: UUID) -> None:
    group = program.open(
        f"/dev/vfio/{(daemon.sys / 'bus/mdev/devices' / str(uuid) / 'iommu_group').readlink().name}"
    ).ok
    iommu = program.open("/dev/iommu").ok
    assert program.ioctl(group, Vfio.GROUP_SET_CONTAINER, struct.pack("=i", iommu)).rc == 0
    assert program.ioctl(group, Vfio.GROUP_SET_CONTAINER, struct.pack("=i", iommu)).errno == "EINVAL"
    assert program.ioctl(iommu, Vfio.SET_IOMMU, abi_vfio.TYPE1_V2).rc == 0
    device = program.ioctl(group, Vfio.GROUP_GET_DEVICE_FD, str(uuid).encode() + b"\0").ok
    address = program.anonymous(SIZE)
    program.poke(address, TEXT)
    mapping = abi_vfio.DMA_MAP.pack(abi_vfio.DMA_MAP.size, 3, address, IOVA, SIZE)
    assert program.ioctl(iommu, Vfio.IOMMU_MAP_DMA, mapping).rc == 0
    assert program.ioctl(iommu, Command.DESTROY, abi.DESTROY.fields.pack(8, 1)).errno == "EBUSY"
    assert program.pwrite(device, b"\6\0", CONFIG + 4).rc == 2
    copy(program, device, IOVA, BUFFER, FETCH)
    copy(program, device, BUFFER, IOVA + PAGE, STORE)
    assert program.peek(address + PAGE, len(TEXT)) == TEXT
    for fd in (iommu, group, device):
        assert program.close(fd).rc == 0


def test_a_bar_that_is_mapped_for_dma_does_not_keep_the_device_open(daemon: RunningDaemon, program: Program) -> None:
    uuid = daemon.create("mbochs-small")
    for _ in range(2):
        opened = Opened(daemon, program, uuid)
        bar = program.mmap(SIZE, numbers.PROT_READ_WRITE, numbers.MAP_SHARED, opened.device, BAR0).ok
        opened.map(bar)
        assert program.munmap(bar, SIZE).rc == 0
        opened.close()


def test_without_answers_to_its_questions_a_device_copies_nothing(daemon: RunningDaemon, uuid: UUID) -> None:
    mute = (
        "from mdev_user.uapi.program_memory import SharedMemory\nSharedMemory.read = lambda self, at, size: bytes(size)"
    )
    with Program.under_run(daemon, preamble=mute) as program:
        opened = Opened(daemon, program, uuid)
        address = program.anonymous(SIZE)
        opened.map(address)
        program.poke(address, TEXT)
        assert program.pwrite(opened.device, b"\6\0", CONFIG + 4).rc == 2
        copy(program, opened.device, IOVA, BUFFER, FETCH)
        copy(program, opened.device, BUFFER, IOVA + PAGE, STORE)
        assert program.peek(address + PAGE, len(TEXT)) == bytes(len(TEXT))
