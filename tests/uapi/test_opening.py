"""VFIO's nodes are opened by whatever path and call leads to them, and what is open says which node it is."""

import os
import stat
from collections.abc import Callable, Iterator

import pytest

from mdev_user.testing.daemon import RunningDaemon
from uapi.calls import Result, file_status
from uapi.program import Program

pytestmark = pytest.mark.fuse

_AT_FDCWD = -100


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    with RunningDaemon("mtty") as daemon, Program.under_run(daemon) as program:
        yield program


def of_folder(program: Program, name: str) -> Result:
    folder = program.open("/dev/vfio", os.O_RDONLY | os.O_DIRECTORY).ok
    return program.openat(folder, name)


WAYS: dict[str, Callable[[Program], Result]] = {
    "open": lambda program: program.open("/dev/vfio/vfio"),
    "openat": lambda program: program.openat(_AT_FDCWD, "/dev/vfio/vfio"),
    "openat2": lambda program: program.openat2(_AT_FDCWD, "/dev/vfio/vfio"),
    "folder": lambda program: of_folder(program, "vfio"),
    "dots": lambda program: program.open("/dev/../dev/./vfio//vfio"),
    "link": lambda program: program.open("/proc/self/root/dev/vfio/vfio"),
}


@pytest.mark.parametrize("way", WAYS)
def test_node_is_found(program: Program, way: str) -> None:
    fd = WAYS[way](program).ok
    assert program.ioctl(fd, 0x3B64).rc == 0
    assert program.close(fd).rc == 0


@pytest.mark.parametrize("path", ["/dev/vfio/vfio", "/dev/iommu"])
def test_descriptor_is_the_node_of_its_path(program: Program, path: str) -> None:
    fd = program.open(path).ok
    assert file_status(program.fstat(fd).data) == file_status(program.stat(path).data)
    mode, _uid, _gid, rdev = file_status(program.fstat(fd).data)
    assert stat.S_ISCHR(mode)
    assert os.major(rdev) == 10
    assert program.close(fd).rc == 0


def test_node_of_no_group_is_not_there(program: Program) -> None:
    assert program.open("/dev/vfio/4711").errno == "ENOENT"


def test_bad_path_is_efault(program: Program) -> None:
    assert program.call(2, 8, os.O_RDWR).errno == "EFAULT"
