"""The legacy API: a container, a group and its device, step by step as Linux answers them."""

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from errno import EBADF, EBADFD, EBUSY, EEXIST, EFAULT, EINVAL, ENODEV, ENOTTY
from pathlib import Path
from uuid import UUID

import pytest

from mdev_user.errors import MdevUserError, errno_of
from mdev_user.uapi.abi.vfio import Command
from mdev_user.uapi.call import Call
from mdev_user.uapi.claims import Claims
from mdev_user.uapi.container import Container
from mdev_user.uapi.device import Device
from mdev_user.uapi.files import File
from mdev_user.uapi.group import Group, Groups
from mdev_user.uapi.nodes import Kind, Node, Nodes
from mdev_user.units import KiB
from mdev_user.vfio_user.client import Client
from protocol.served import Served
from uapi.ourselves import Ourselves, groups_tree, packed

UUID_7 = UUID(int=7)
NAME = str(UUID_7).encode() + b"\0"
TYPE1_V2 = 3


class Program:
    """This process, with a container and a group open, and a server for each device that it opens."""

    def __init__(self, groups: Groups) -> None:
        self.ourselves = Ourselves()
        self.groups = groups
        self.served: list[Served] = []
        self.container = Container()
        self.ourselves.files.add(self.container)
        self.container_fd = self.ourselves.call().give(self.container)
        self.group, self.group_fd = self.open_group()

    def open_group(self) -> tuple[Group, int]:
        call = self.ourselves.call()
        group = self.groups.open(call, Node(Kind.GROUP, 7))
        return group, call.give(group)

    def connect(self, call: Call, name: str, _socket: Path) -> Device:
        served = Served()
        self.served.append(served)
        served.socket.settimeout(None)
        return Device(name, Client.over(served.socket), call.serving)

    def ioctl(self, file: File, command: int, argument: bytes | int = 0) -> int:
        """The result, or the negative errno."""
        try:
            return self.ourselves.ioctl(file, command, argument if isinstance(argument, int) else packed(argument))
        except (OSError, MdevUserError) as error:
            return -errno_of(error)

    def status(self) -> int:
        memory = packed(struct.pack("=II", 8, 0))
        self.ourselves.ioctl(self.group, Command.GROUP_GET_STATUS, memory)
        return int(struct.unpack("=II", memory.raw)[1])

    def set_container(self, fd: int | None = None) -> int:
        return self.ioctl(
            self.group, Command.GROUP_SET_CONTAINER, struct.pack("=i", self.container_fd if fd is None else fd)
        )

    def unset_container(self) -> int:
        return self.ioctl(self.group, Command.GROUP_UNSET_CONTAINER)

    def set_iommu(self, kind: int = TYPE1_V2) -> int:
        return self.ioctl(self.container, Command.SET_IOMMU, kind)

    def device_fd(self, name: bytes = NAME) -> int:
        return self.ioctl(self.group, Command.GROUP_GET_DEVICE_FD, name)

    def map(self, iova: int, size: int = 64 * KiB, flags: int = 3, address: int = 0x10000) -> int:
        return self.ioctl(self.container, Command.IOMMU_MAP_DMA, struct.pack("=IIQQQ", 32, flags, address, iova, size))

    def unmap(self, iova: int, size: int, flags: int = 0) -> int:
        """How much was unmapped, or the negative errno."""
        memory = packed(struct.pack("=IIQQ", 24, flags, iova, size))
        try:
            self.ourselves.ioctl(self.container, Command.IOMMU_UNMAP_DMA, memory)
        except (OSError, MdevUserError) as error:
            return -errno_of(error)
        return int(struct.unpack("=IIQQ", memory.raw)[3])

    def open_device(self) -> int:
        assert self.set_container() == 0
        assert self.set_iommu() == 0
        return self.device_fd()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    groups_tree(tmp_path, 7, str(UUID_7))
    program = Program(Groups(Nodes(tmp_path, tmp_path), Claims()))
    monkeypatch.setattr("mdev_user.uapi.group.connect", program.connect)
    yield program
    program.ourselves.files.close()
    for served in program.served:
        served.close()


def test_container_says_what_it_can(program: Program) -> None:
    assert program.ioctl(program.container, Command.GET_API_VERSION) == 0
    told = [program.ioctl(program.container, Command.CHECK_EXTENSION, each) for each in range(1, 13)]
    assert told == [1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0]


def test_iommu_is_set_once_and_with_a_group(program: Program) -> None:
    assert program.set_iommu(1) == -EINVAL
    assert program.map(0) == -EINVAL
    assert program.set_container() == 0
    assert [program.set_iommu(77), program.set_iommu(), program.set_iommu()] == [-ENODEV, 0, -EINVAL]
    assert program.ioctl(program.container, Command.IOMMU_ENABLE) == -ENOTTY


def test_group_is_put_in_a_container_once(program: Program) -> None:
    assert program.status() == 1
    pipe = os.pipe()
    assert [program.set_container(fd) for fd in (pipe[0], 9999, -1)] == [-EBADFD, -EBADF, -EINVAL]
    assert [program.set_container(), program.set_container()] == [0, -EINVAL]
    assert program.status() == 3
    assert [program.unset_container(), program.unset_container()] == [0, -EINVAL]
    assert program.status() == 1
    for fd in pipe:
        os.close(fd)


def test_group_that_is_open_is_busy(program: Program) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="busy") as caught:
            program.open_group()
        assert caught.value.errno == EBUSY
    program.ourselves.close(program.group_fd)
    program.open_group()


def test_group_without_an_mdev_is_not_there(program: Program) -> None:
    with pytest.raises(OSError, match="8") as caught:
        program.groups.open(program.ourselves.call(), Node(Kind.GROUP, 8))
    assert caught.value.errno == ENODEV


def test_device_is_had_by_its_name_when_there_is_an_iommu(program: Program) -> None:
    assert program.device_fd() == -EINVAL
    program.set_container()
    assert program.device_fd() == -EINVAL
    program.set_iommu()
    names = (b"nonexistent\0", b"\0", bytes(str(UUID(int=0)), "ascii") + b"\0", NAME.upper()[:-1] + b"0\0")
    assert [program.device_fd(name) for name in names] == [-ENODEV] * 4
    assert program.ioctl(program.group, Command.GROUP_GET_DEVICE_FD, 8) == -EFAULT
    first, second = program.device_fd(), program.device_fd()
    assert os.fstat(first).st_ino == os.fstat(second).st_ino
    assert len(program.served) == 1
    assert program.unset_container() == -EBUSY
    program.ourselves.close(first, second)
    assert program.unset_container() == 0
    program.served[0].ended()


def test_device_keeps_its_group_and_the_group_its_container(program: Program) -> None:
    device = program.open_device()
    program.ourselves.close(program.container_fd, program.group_fd)
    with pytest.raises(OSError, match="busy"):
        program.open_group()
    had = program.container.has_iommu
    program.ourselves.close(device)
    assert (had, program.container.has_iommu) == (True, False)
    program.open_group()


def test_mappings_are_those_of_type1(program: Program) -> None:
    program.set_container()
    program.set_iommu()
    size = 64 * KiB
    assert [program.map(0), program.map(0), program.map(1)] == [0, -EEXIST, -EINVAL]
    wrong = [program.map(size, flags=0), program.map(size, flags=7), program.map(size, 0), program.map(size, 100)]
    assert wrong == [-EINVAL] * 4
    assert program.unmap(0, size) == size
    assert program.unmap(0, size) == 0
    assert [program.unmap(0, 100), program.unmap(1, size), program.unmap(0, size, flags=4)] == [-EINVAL] * 3
    assert [program.map(0), program.map(size)] == [0, 0]
    assert program.unmap(0, size, flags=2) == -EINVAL
    assert program.unmap(0, 0, flags=2) == 2 * size


def test_last_group_takes_the_mappings_with_it(program: Program) -> None:
    program.set_container()
    program.set_iommu()
    program.map(0)
    program.unset_container()
    assert len(program.container.space) == 0
    assert program.map(0) == -EINVAL


def test_device_reaches_what_was_mapped_before_and_after_it_came(program: Program) -> None:
    memory = mmap.mmap(-1, 8 * KiB)
    memory[0:5], memory[4096:4101] = b"first", b"later"
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    program.set_container()
    program.set_iommu()
    assert program.map(0x10000, 4 * KiB, address=address) == 0
    assert program.device_fd() >= 0
    (served,) = program.served
    assert program.map(0x20000, 4 * KiB, address=address + 4096) == 0
    (ready,) = program.ourselves.watched.values()
    got: list[bytes | Exception] = []
    with served.step_lock:
        for iova in (0x10000, 0x20000):
            served.session.send_dma_read(iova, 5, got.append)
    while len(got) < 2:
        ready()
    assert got == [b"first", b"later"]


def test_iommu_info_counts_the_mappings_that_are_left(program: Program) -> None:
    program.set_container()
    program.set_iommu()
    program.map(0)
    memory = packed(struct.pack("=IIQ", 4096, 0, 0), 4096)
    program.ourselves.ioctl(program.container, Command.IOMMU_GET_INFO, memory)
    assert struct.unpack_from("=IIQI", memory.raw) == (4096, 3, 0xFFFF_FFFF_FFFF_F000, 24)
    assert struct.pack("=I", 65534) in memory.raw[24:]
    assert program.ioctl(program.container, Command.IOMMU_GET_INFO, struct.pack("=IIQ", 15, 0, 0)) == -EINVAL
