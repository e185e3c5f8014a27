"""An iommufd and a cdev, called by this process: ids, structures and errno as Linux's, devices that are real."""

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from errno import (
    E2BIG,
    EBADF,
    EBADFD,
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    EMSGSIZE,
    ENODEV,
    ENOENT,
    ENOSPC,
    ENOTTY,
    EOPNOTSUPP,
    EOVERFLOW,
)
from pathlib import Path
from random import Random
from typing import cast
from uuid import UUID

import pytest

from daemon.parents.engine import Card
from mdev_user.errors import MdevUserError
from mdev_user.mdev.device import Mdev
from mdev_user.testing.local import LocalHost
from mdev_user.uapi.abi import iommufd as abi
from mdev_user.uapi.abi import vfio
from mdev_user.uapi.abi.iommufd import Command
from mdev_user.uapi.call import Call
from mdev_user.uapi.cdev import Cdev
from mdev_user.uapi.claims import Claims
from mdev_user.uapi.iommufd import IommuFile
from mdev_user.uapi.nodes import Kind, Node
from mdev_user.units import PAGE
from unit.uapi.iommu_caller import CDEV_FD, FIXED, IOMMU_FD, OTHER_FD, RW, Caller, refused

LAST = (1 << 64) - 1
SIZE = 8 * PAGE

kept: list[mmap.mmap] = []
"""Mapped until the end."""


@pytest.fixture(scope="module")
def host() -> Iterator[LocalHost]:
    with LocalHost() as host:
        yield host


@pytest.fixture(scope="module")
def mdev(host: LocalHost) -> Mdev:
    return host.create(host.bus.register_parent("card", Card()), "card-engine")


@pytest.fixture(scope="module")
def memory() -> int:
    """Where there are 8 pages of memory of this process, not shared."""
    pages = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages[:4] = b"text"
    kept.append(pages)
    return ctypes.addressof(ctypes.c_char.from_buffer(pages))


@pytest.fixture
def claims() -> Claims:
    return Claims()


@pytest.fixture
def caller(host: LocalHost, mdev: Mdev, claims: Claims) -> Iterator[Caller]:
    caller = Caller()
    caller.ours[IOMMU_FD] = IommuFile()
    for number in (CDEV_FD, OTHER_FD):
        caller.ours[number] = Cdev(Node(Kind.CDEV, 3), mdev.uuid, host.socket(mdev), claims)
    cdev = caller.ours[CDEV_FD]
    yield caller
    for file in {*caller.ours.values(), cdev} - set(caller.serving.removed):
        file.released()
        os.close(file.fd)
    assert not caller.serving.watched


# --- ids and structures


def test_ids_are_the_lowest_free_ones(caller: Caller) -> None:
    assert [caller.ioas() for _ in range(3)] == [1, 2, 3]
    caller.iommu(Command.DESTROY, abi.DESTROY, 2)
    assert caller.ioas() == 2
    with refused(ENOENT):
        caller.iommu(Command.DESTROY, abi.DESTROY, 9)


def test_a_structure_may_be_longer_than_we_know_when_the_rest_is_zero(caller: Caller) -> None:
    long = abi.IOAS_ALLOC.fields.pack(20, 0, 0)
    assert caller.ioctl(IOMMU_FD, Command.IOAS_ALLOC, long + bytes(8))[8:12] == b"\1\0\0\0"
    with refused(E2BIG):
        caller.ioctl(IOMMU_FD, Command.IOAS_ALLOC, long + bytes(7) + b"\1")
    with refused(E2BIG):
        caller.ioctl(IOMMU_FD, Command.IOAS_ALLOC, abi.IOAS_ALLOC.fields.pack(LAST >> 32, 0, 0))
    with refused(EINVAL):
        caller.ioctl(IOMMU_FD, Command.IOAS_ALLOC, abi.IOAS_ALLOC.fields.pack(11, 0, 0))
    with refused(EOPNOTSUPP):
        caller.iommu(Command.IOAS_ALLOC, abi.IOAS_ALLOC, 1, 0)


@pytest.mark.parametrize("command", [Command.IOAS_CHANGE_PROCESS, Command.DESTROY + 0x0E, 0x3B00, 0x3BFF])
def test_what_is_not_there_is_enotty(caller: Caller, command: int) -> None:
    with refused(ENOTTY):
        caller.ioctl(IOMMU_FD, command, bytes(64))


def test_a_structure_that_is_nowhere_is_efault(caller: Caller) -> None:
    with refused(EFAULT):
        caller.ours[IOMMU_FD].ioctl(cast("Call", caller), Command.IOAS_ALLOC, 8)


def test_iova_ranges_tell_their_number_first(caller: Caller) -> None:
    ioas = caller.ioas()
    with refused(EMSGSIZE):
        caller.iommu(Command.IOAS_IOVA_RANGES, abi.IOAS_IOVA_RANGES, ioas, 0, 0, 0, 0)
    assert abi.IOAS_IOVA_RANGES.fields.unpack(caller.after) == (32, ioas, 1, 0, 0, PAGE)
    room = ctypes.create_string_buffer(32)
    caller.iommu(Command.IOAS_IOVA_RANGES, abi.IOAS_IOVA_RANGES, ioas, 2, 0, ctypes.addressof(room), 0)
    assert room.raw == struct.pack("=QQ", 0, LAST) + bytes(16)
    with refused(EOPNOTSUPP):
        caller.iommu(Command.IOAS_IOVA_RANGES, abi.IOAS_IOVA_RANGES, ioas, 0, 1, 0, 0)


def test_options(caller: Caller) -> None:
    def option(which: int, operation: int, number: int, value: int = 0) -> int:
        return caller.iommu(Command.OPTION, abi.OPTION, which, operation, 0, number, value)[-1]

    assert option(abi.OPTION_RLIMIT_MODE, abi.OPTION_SET, 0, 1) == 1
    ioas = caller.ioas()
    assert option(abi.OPTION_RLIMIT_MODE, abi.OPTION_GET, 0) == 1
    assert option(abi.OPTION_HUGE_PAGES, abi.OPTION_GET, ioas) == 1
    for errno, arguments in [
        (EBUSY, (abi.OPTION_RLIMIT_MODE, abi.OPTION_SET, 0, 1)),
        (EOPNOTSUPP, (abi.OPTION_RLIMIT_MODE, abi.OPTION_GET, ioas)),
        (EINVAL, (abi.OPTION_HUGE_PAGES, abi.OPTION_SET, ioas, 2)),
        (ENOENT, (abi.OPTION_HUGE_PAGES, abi.OPTION_GET, 9)),
        (EOPNOTSUPP, (7, abi.OPTION_GET, 0)),
        (EOPNOTSUPP, (abi.OPTION_HUGE_PAGES, 2, ioas)),
    ]:
        with refused(errno):
            option(*arguments)


def test_there_is_no_hardware(caller: Caller) -> None:
    bound = caller.bind()
    with refused(ENOENT):
        caller.iommu(Command.GET_HW_INFO, abi.GET_HW_INFO, 0, bound, 0, 0, 0, 0, 0)
    with refused(ENOENT):
        caller.iommu(Command.HWPT_ALLOC, abi.HWPT_ALLOC, 0, bound, caller.ioas(), *[0] * 7)
    with refused(EOPNOTSUPP):
        caller.iommu(Command.GET_HW_INFO, abi.GET_HW_INFO, 1 << 30, bound, 0, 0, 0, 0, 0)


# --- mappings


def test_map_and_unmap(caller: Caller, memory: int) -> None:
    ioas = caller.ioas()
    caller.map(ioas, memory, 16 * PAGE, 2 * PAGE)
    with refused(EEXIST):
        caller.map(ioas, memory, 17 * PAGE)
    with refused(ENOENT):
        caller.unmap(ioas, 16 * PAGE, PAGE)
    with refused(ENOENT):
        caller.unmap(ioas, 64 * PAGE, PAGE)
    assert caller.unmap(ioas, 8 * PAGE, 64 * PAGE) == 2 * PAGE
    assert caller.unmap(ioas, 0, LAST) == 0


@pytest.mark.parametrize(
    ("errno", "fields"),
    [
        (EOPNOTSUPP, (8 | FIXED, 1, 0, 0, PAGE, 0)),
        (EOPNOTSUPP, (FIXED, 1, 1, 0, PAGE, 0)),
        (EINVAL, (abi.MAP_FIXED_IOVA, 1, 0, 0, PAGE, 0)),
        (EOVERFLOW, (FIXED, 1, 0, 0, LAST, 0)),
        (EOVERFLOW, (FIXED, 1, 0, 0, PAGE, LAST)),
        (ENOENT, (FIXED, 2, 0, 0, PAGE, 0)),
        (EINVAL, (FIXED, 1, 0, 0, 0, 0)),
        (EINVAL, (FIXED, 1, 0, 0, PAGE + 1, 0)),
        (EINVAL, (FIXED, 1, 0, 1, PAGE, 0)),
        (EINVAL, (FIXED, 1, 0, 0, PAGE, 1)),
        (EOVERFLOW, (FIXED, 1, 0, LAST - PAGE + 1, 2 * PAGE, 0)),
        (EOVERFLOW, (FIXED, 1, 0, 0, 2 * PAGE, LAST - PAGE + 1)),
    ],
)
def test_mappings_that_are_refused(caller: Caller, errno: int, fields: tuple[int, ...]) -> None:
    caller.ioas()
    with refused(errno):
        caller.iommu(Command.IOAS_MAP, abi.IOAS_MAP, *fields)


def test_an_address_is_found_where_it_is_allowed(caller: Caller, memory: int) -> None:
    ioas = caller.ioas()
    first = caller.map(ioas, memory, 0, flags=RW)
    assert first == PAGE
    assert caller.map(ioas, memory, 0, flags=RW) == 2 * PAGE
    ranges = struct.pack("=QQ", 0x10_0000, 0x10_0000 + PAGE - 1)
    where = ctypes.create_string_buffer(ranges, len(ranges))
    caller.iommu(Command.IOAS_ALLOW_IOVAS, abi.IOAS_ALLOW_IOVAS, ioas, 1, 0, ctypes.addressof(where))
    assert caller.map(ioas, memory, 0, flags=RW) == 0x10_0000
    with refused(ENOSPC):
        caller.map(ioas, memory, 0, flags=RW)
    with refused(EINVAL):
        where = ctypes.create_string_buffer(struct.pack("=QQ", 5, 5), 16)
        caller.iommu(Command.IOAS_ALLOW_IOVAS, abi.IOAS_ALLOW_IOVAS, ioas, 1, 0, ctypes.addressof(where))


def test_a_copy_and_a_file(caller: Caller, memory: int) -> None:
    source, target = caller.ioas(), caller.ioas()
    caller.map(source, memory, 0, 2 * PAGE)
    caller.iommu(Command.IOAS_COPY, abi.IOAS_COPY, FIXED, target, source, PAGE, 4 * PAGE, PAGE)
    with refused(ENOENT):
        caller.iommu(Command.IOAS_COPY, abi.IOAS_COPY, FIXED, target, source, PAGE, 8 * PAGE, 9 * PAGE)
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    os.ftruncate(fd, SIZE)
    caller.iommu(Command.IOAS_MAP_FILE, abi.IOAS_MAP_FILE, FIXED, target, fd, PAGE, PAGE, 16 * PAGE)
    os.close(fd)
    with refused(EBADF):
        caller.iommu(Command.IOAS_MAP_FILE, abi.IOAS_MAP_FILE, FIXED, target, 3999, PAGE, PAGE, 32 * PAGE)
    assert caller.unmap(target, 0, LAST) == 2 * PAGE


def test_any_structure_is_answered_by_an_errno_at_most(caller: Caller, memory: int) -> None:
    caller.bind()
    caller.ioas()
    caller.attach(2)
    chance = Random(6)
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    before = len(list(Path("/proc/self/fd").iterdir()))
    words = (0, 1, 2, 3, 4, 7, 16, 24, 40, PAGE, 3 * PAGE, memory, fd, 1 << 31, (1 << 32) - 1, 1 << 63, LAST - PAGE + 1)
    answered = 0
    for _ in range(3000):
        data = chance.choice((16, 24, 32, 40, 48, 64)).to_bytes(4, "little")
        while len(data) < 64:
            width = chance.choice((4, 8))
            data += (chance.choice(words) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        command = chance.choice((Command.DESTROY, vfio.Command.GET_API_VERSION)) + chance.randrange(24)
        with suppress(OSError, MdevUserError):
            caller.ioctl(chance.choice((IOMMU_FD, CDEV_FD)), command, data)
            answered += 1
    assert answered > 100
    assert caller.device.client.device_info().num_regions == 9
    caller.detach()
    iommu = caller.ours.pop(IOMMU_FD)
    iommu.released()
    os.close(iommu.fd)
    device = caller.ours.pop(CDEV_FD)
    device.released()
    os.close(device.fd)
    os.close(fd)
    assert len(list(Path("/proc/self/fd").iterdir())) < before


# --- the container's ioctls


def test_a_container_s_ioctls_mean_the_compatible_ioas(caller: Caller, memory: int) -> None:
    def call(command: int, argument: int) -> int:
        return int(cast("int", caller.ours[IOMMU_FD].ioctl(cast("Call", caller), command, argument)))

    mapping = vfio.DMA_MAP.pack(vfio.DMA_MAP.size, 3, memory, 16 * PAGE, PAGE)
    assert call(vfio.Command.GET_API_VERSION, 0) == 0
    assert [call(vfio.Command.CHECK_EXTENSION, each) for each in (1, 3, 9, 2, 10)] == [1, 1, 1, 0, 0]
    with refused(ENODEV):
        call(vfio.Command.SET_IOMMU, vfio.TYPE1_V2)
    with refused(ENODEV):
        caller.ioctl(IOMMU_FD, vfio.Command.IOMMU_MAP_DMA, mapping)
    ioas = caller.ioas()
    caller.iommu(Command.VFIO_IOAS, abi.VFIO_IOAS, ioas, abi.VFIO_IOAS_SET, 0)
    assert caller.iommu(Command.VFIO_IOAS, abi.VFIO_IOAS, 0, abi.VFIO_IOAS_GET, 0)[0] == ioas
    assert call(vfio.Command.SET_IOMMU, vfio.TYPE1_V2) == 0
    caller.ioctl(IOMMU_FD, vfio.Command.IOMMU_MAP_DMA, mapping)
    with refused(EEXIST):
        caller.ioctl(IOMMU_FD, vfio.Command.IOMMU_MAP_DMA, mapping)
    unmapping = vfio.DMA_UNMAP.pack(vfio.DMA_UNMAP.size, vfio.DMA_UNMAP_ALL, 0, 0)
    assert caller.ioctl(IOMMU_FD, vfio.Command.IOMMU_UNMAP_DMA, unmapping)[-8:] == PAGE.to_bytes(8, "little")


# --- devices


def test_nothing_works_before_bind(caller: Caller) -> None:
    cdev = caller.ours[CDEV_FD]
    for act in (
        lambda: caller.ioctl(CDEV_FD, vfio.Command.DEVICE_GET_INFO, bytes(16)),
        lambda: caller.attach(1),
        lambda: cdev.read(cast("Call", caller), 0, 4, 0),
        lambda: cdev.write(cast("Call", caller), 0, 4, 0),
        lambda: cdev.mmap(cast("Call", caller), PAGE, 3, 1, 0),
    ):
        with refused(EINVAL):
            act()


def test_bind_refuses_what_linux_refuses(caller: Caller, claims: Claims, mdev: Mdev) -> None:
    for errno, arguments in [
        (EINVAL, (-1,)),
        (EINVAL, (IOMMU_FD, 1)),
        (EINVAL, (IOMMU_FD, 0, 15)),
        (EBADFD, (CDEV_FD,)),
        (EBADFD, (0,)),
        (EBADF, (3999,)),
    ]:
        with refused(errno):
            caller.bind(*arguments)
    claims.open_group(mdev.uuid)
    with refused(EBUSY):
        caller.bind()
    claims.close(mdev.uuid)
    assert caller.bind() == 1
    with refused(EINVAL):
        caller.bind()
    with refused(EINVAL):
        caller.bind(at=OTHER_FD)
    with refused(EBUSY):
        claims.open_group(mdev.uuid)
    with refused(EBUSY):
        caller.iommu(Command.DESTROY, abi.DESTROY, 1)


def test_a_bind_that_cannot_be_given_leaves_nothing(caller: Caller) -> None:
    caller.fails_to_replace = True
    with refused(EBADF):
        caller.bind()
    caller.fails_to_replace = False
    assert caller.bind() == 1


def test_attach_detach_and_what_the_device_reaches(caller: Caller, memory: int) -> None:
    caller.bind()
    ioas, other = caller.ioas(), caller.ioas()
    caller.map(ioas, memory, 16 * PAGE, SIZE)
    for errno, arguments in [(ENOENT, (9,)), (EINVAL, (ioas, 2)), (EOPNOTSUPP, (ioas, 1)), (EINVAL, (ioas, 0, 8))]:
        with refused(errno):
            caller.attach(*arguments)
    caller.attach(ioas)
    caller.attach(ioas)
    assert caller.device.client.memory.read(16 * PAGE, 4) == b"text"
    assert caller.serving.watched
    with refused(EBUSY):
        caller.iommu(Command.DESTROY, abi.DESTROY, ioas)
    caller.attach(other)
    assert not caller.serving.watched
    caller.iommu(Command.DESTROY, abi.DESTROY, ioas)
    caller.detach()
    caller.detach()
    with refused(EINVAL):
        caller.detach(2)


def test_what_is_mapped_outlives_the_iommufd_while_a_device_is_bound(caller: Caller, memory: int) -> None:
    caller.bind()
    ioas = caller.ioas()
    caller.map(ioas, memory, 16 * PAGE, SIZE)
    caller.attach(ioas)
    before = len(list(Path("/proc/self/fd").iterdir()))
    iommu = caller.ours.pop(IOMMU_FD)
    iommu.released()
    assert caller.device.client.memory.read(16 * PAGE, 4) == b"text"
    device = caller.ours.pop(CDEV_FD)
    device.released()
    assert len(list(Path("/proc/self/fd").iterdir())) < before - 1
    for file in (iommu, device):
        os.close(file.fd)


def test_a_copy_of_the_descriptor_that_was_made_before_bind_is_the_device_too(caller: Caller) -> None:
    copy = caller.ours[CDEV_FD]
    caller.bind()
    caller.ours[CDEV_FD + 10] = copy
    assert caller.ioctl(CDEV_FD + 10, vfio.Command.DEVICE_GET_INFO, struct.pack("=4I", 16, 0, 0, 0))[8] == 9
    del caller.ours[CDEV_FD + 10]


def test_bind_of_an_mdev_that_is_gone_is_enodev(caller: Caller, claims: Claims) -> None:
    caller.ours[CDEV_FD + 10] = Cdev(Node(Kind.CDEV, 4), UUID(int=4), Path("/tmp/no/such.sock"), claims)
    with refused(ENODEV):
        caller.bind(at=CDEV_FD + 10)
