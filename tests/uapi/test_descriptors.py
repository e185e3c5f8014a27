"""Whoever has a VFIO descriptor has the device open, by whatever way he came to it, and nobody else: as in Linux."""

import os
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from uuid import UUID

import pytest

from golden.vfio import ioctls
from mdev_user.testing.daemon import RunningDaemon
from uapi import numbers
from uapi.calls import Calls, Child
from uapi.program import Program

pytestmark = pytest.mark.fuse

SECONDS = 60.0
"""How long the last descriptor's end may take to be seen."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mdpy", "mtty") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def uuid(daemon: RunningDaemon) -> UUID:
    return daemon.create("mdpy-vga")


@pytest.fixture(scope="module")
def program(daemon: RunningDaemon) -> Iterator[Program]:
    """One for all tests: each leaves it with nothing open."""
    with Program.under_run(daemon) as program:
        yield program


class Opened:
    """The mdev's three descriptors in one program."""

    def __init__(self, daemon: RunningDaemon, program: Calls, uuid: UUID) -> None:
        self.program = program
        self.path = group_path(daemon, uuid)
        self.container = program.open("/dev/vfio/vfio").ok
        self.group = program.open(self.path).ok
        program.ioctl(self.group, ioctls.GROUP_SET_CONTAINER, self.container.to_bytes(4, "little")).ok  # noqa: B018
        program.ioctl(self.container, ioctls.SET_IOMMU, ioctls.TYPE1V2).ok  # noqa: B018
        self.device = program.ioctl(self.group, ioctls.GROUP_GET_DEVICE_FD, f"{uuid}".encode().ljust(64, b"\0")).ok

    def close_group(self) -> None:
        """What leads to the device; the device's own descriptor stays."""
        for fd in (self.group, self.container):
            assert self.program.close(fd).rc == 0


@pytest.fixture
def opened(daemon: RunningDaemon, program: Program, uuid: UUID) -> Iterator[Opened]:
    opened = Opened(daemon, program, uuid)
    yield opened
    for fd in (opened.device, opened.group, opened.container):
        program.close(fd)  # EBADF where the test did
    until_closed(program, opened.path)


def group_path(daemon: RunningDaemon, uuid: UUID) -> str:
    link = daemon.sys / f"bus/mdev/devices/{uuid}/iommu_group"
    return f"/dev/vfio/{link.readlink().name}"


def region(program: Calls, device: int, index: int) -> int:
    given = ioctls.REGION_INFO.pack(ioctls.REGION_INFO.size, 0, index, 0, 0, 0)
    offset = ioctls.REGION_INFO.unpack(program.ioctl(device, ioctls.DEVICE_GET_REGION_INFO, given).data)[5]
    assert isinstance(offset, int)
    return offset


def vendor(program: Calls, device: int) -> bytes:
    return program.pread(device, 4, region(program, device, 7)).data


def is_open(program: Calls, path: str) -> bool:
    """Whether somebody has the group or its device open: then it cannot be opened once more."""
    opened = program.open(path)
    if opened.errno is None:
        assert program.close(opened.rc).rc == 0
        return False
    assert opened.errno == "EBUSY"
    return True


def until_closed(program: Calls, path: str) -> None:
    deadline = monotonic() + SECONDS
    while is_open(program, path):
        assert monotonic() < deadline, "somebody has it open still"
        sleep(0.01)


IDENTITY = bytes.fromhex("361b0f00")


def test_close_of_the_last_descriptor_is_seen_at_once(program: Program, opened: Opened) -> None:
    for fd in (opened.device, opened.group, opened.container):
        assert program.close(fd).rc == 0
    for _round in range(20):
        again = program.open(opened.path)
        assert again.errno is None
        assert program.close(again.rc).rc == 0


def test_the_mdev_is_shown_as_used_by_the_program(daemon: RunningDaemon, opened: Opened, uuid: UUID) -> None:
    """The process at the other end of the socket is the supervisor."""
    client = daemon.control.mdev(uuid).client
    assert client is not None
    assert client.name == "run:program"


def test_device_outlives_its_group_descriptor(program: Program, opened: Opened) -> None:
    opened.close_group()
    assert vendor(program, opened.device) == IDENTITY
    assert program.close(opened.device).rc == 0
    until_closed(program, opened.path)


DUPLICATES: dict[str, Callable[[Program, int], int]] = {
    "dup": lambda program, fd: program.dup(fd).ok,
    "dup2-low": lambda program, fd: program.dup2(fd, 7).ok,
    "dup3-high": lambda program, fd: program.dup3(fd, fd + 50, os.O_CLOEXEC).ok,
    "fcntl-low": lambda program, fd: program.fcntl(fd, 0, 20).ok,
}


@pytest.mark.parametrize("way", DUPLICATES)
def test_duplicate_is_the_device(program: Program, opened: Opened, way: str) -> None:
    other = DUPLICATES[way](program, opened.device)
    opened.close_group()
    assert program.close(opened.device).rc == 0
    assert vendor(program, other) == IDENTITY
    assert is_open(program, opened.path)
    assert program.close(other).rc == 0
    until_closed(program, opened.path)


def test_duplicate_has_no_lower_number_than_was_asked_for(program: Program, opened: Opened) -> None:
    other = program.fcntl(opened.device, 0, opened.device + 100)
    assert other.ok >= opened.device + 100
    assert program.close(other.rc).rc == 0
    assert program.fcntl(opened.device, 0, 1 << 30).errno == "EINVAL"


def test_number_that_dup2_puts_another_file_in_is_no_device(program: Program, opened: Opened) -> None:
    opened.close_group()
    null = program.open("/dev/null").ok
    assert program.dup2(null, opened.device).rc == opened.device
    assert program.ioctl(opened.device, ioctls.DEVICE_RESET).errno == "ENOTTY"
    assert program.pread(opened.device, 4, 0).rc == 0
    until_closed(program, opened.path)


def test_closed_number_is_no_descriptor(program: Program, opened: Opened) -> None:
    at = region(program, opened.device, 7)
    assert program.close(opened.device).rc == 0
    assert program.pread(opened.device, 4, at).errno == "EBADF"
    assert program.ioctl(opened.device, ioctls.DEVICE_RESET).errno == "EBADF"
    assert program.close(opened.device).errno == "EBADF"


def test_child_has_the_device_after_its_parent_closed_it(program: Program, opened: Opened) -> None:
    child = program.fork()
    for fd in (opened.device, opened.group, opened.container):
        assert program.close(fd).rc == 0
    assert vendor(child, opened.device) == IDENTITY
    assert is_open(program, opened.path)
    child.close_child()
    until_closed(program, opened.path)


def test_killed_child_has_nothing_open(daemon: RunningDaemon, program: Program, uuid: UUID) -> None:
    child = program.fork()
    opened = Opened(daemon, child, uuid)
    assert is_open(program, opened.path)
    assert program.call(numbers.KILL, child.pid, 9).rc == 0
    until_closed(program, opened.path)


def test_descriptor_that_is_sent_is_the_device(program: Program, opened: Opened) -> None:
    ours, theirs = program.socketpair()
    child = program.fork()
    assert program.send_fd(ours, opened.device).rc == 1
    for fd in (opened.device, opened.group, opened.container):
        assert [each.close(fd).rc for each in (child, program)] == [0, 0]
    assert is_open(program, opened.path)  # in the socket, where nobody has it
    received = child.receive_fd(theirs)
    assert received < 1000
    assert vendor(child, received) == IDENTITY
    assert child.close(received).rc == 0
    until_closed(program, opened.path)


@pytest.mark.parametrize("inherited", [True, False])
def test_what_is_open_after_exec_is_what_has_no_cloexec(program: Program, opened: Opened, inherited: bool) -> None:
    opened.close_group()
    assert program.fcntl(opened.device, _F_SETFD, int(not inherited)).rc == 0
    program.execute()
    if inherited:
        assert vendor(program, opened.device) == IDENTITY
        assert is_open(program, opened.path)
        assert program.close(opened.device).rc == 0
    else:
        assert program.pread(opened.device, 4, 0).errno == "EBADF"
    until_closed(program, opened.path)


_F_GETFD, _F_SETFD = 1, 2


def test_cloexec_is_what_was_asked_for(program: Program) -> None:
    for flags in (0, os.O_CLOEXEC):
        container = program.open("/dev/vfio/vfio", os.O_RDWR | flags).ok
        assert program.fcntl(container, _F_GETFD).rc == (1 if flags else 0)


def test_mapping_keeps_the_device_open(program: Program, opened: Opened) -> None:
    at = region(program, opened.device, 0)
    address = program.mmap(4096, numbers.PROT_READ_WRITE, numbers.MAP_SHARED, opened.device, at).ok
    for fd in (opened.device, opened.group, opened.container):
        assert program.close(fd).rc == 0
    program.store(4, address, 0xCAFEBABE)
    assert program.load(4, address) == 0xCAFEBABE
    assert is_open(program, opened.path)
    assert program.munmap(address, 4096).rc == 0
    until_closed(program, opened.path)


def test_end_of_the_program_closes_all(daemon: RunningDaemon, uuid: UUID) -> None:
    with Program.under_run(daemon) as program:
        path = Opened(daemon, program, uuid).path
        program.kill()
    with Program.under_run(daemon) as other:
        until_closed(other, path)


def test_vectors_reach_the_device(daemon: RunningDaemon, program: Program) -> None:
    opened = Opened(daemon, program, daemon.create("mtty-1"))
    scratch = region(program, opened.device, 0) + 7
    assert program.pwritev(opened.device, [b"\x5a"], scratch).rc == 1
    done = program.preadv(opened.device, [1], scratch)
    assert (done.rc, done.data) == (1, b"\x5a")
    at = region(program, opened.device, 7)
    parts = program.preadv(opened.device, [2, 2], at)
    assert (parts.rc, parts.data) == (4, bytes.fromhex("48435332"))
    other = program.dup2(opened.device, 9).ok
    assert program.preadv(other, [1], scratch).data == b"\x5a"
    assert program.pread(other, 1, scratch).data == b"\x5a"


def test_child_of_a_child_has_it_too(program: Program, opened: Opened) -> None:
    child: Child = program.fork()
    grandchild = child.fork()
    assert vendor(grandchild, opened.device) == IDENTITY
    child.close_child()


# --- negative control -----------------------------------------------------------------------------------------------


ONE_DESCRIPTION = """
import os
from mdev_user.uapi import files
files.Files.new_description = lambda self, file: os.dup(file.fd)
"""


def test_close_would_not_be_seen_of_a_description_that_is_shared(daemon: RunningDaemon) -> None:
    with Program.under_run(daemon, preamble=ONE_DESCRIPTION) as program:
        opened = Opened(daemon, program, daemon.create("mdpy-vga"))
        for fd in (opened.device, opened.group, opened.container):
            assert program.close(fd).rc == 0
        assert is_open(program, opened.path)
