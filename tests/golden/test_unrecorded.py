"""Each difference that no step of the transcript shows is shown here."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from golden.differences import read_unrecorded
from mdev_user.testing.daemon import RunningDaemon

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty") as daemon:
        yield daemon


def no_power_folders(daemon: RunningDaemon) -> None:
    daemon.create("mtty-1")
    assert [path for path, folders, _ in os.walk(daemon.sys) if "power" in folders] == []


def another_file_system_type(daemon: RunningDaemon) -> None:
    told = subprocess.run(["stat", "-f", "-c", "%t", daemon.sys], stdout=subprocess.PIPE, text=True, check=True)
    assert told.stdout == "65735546\n"


def held_directories_find_the_next(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    held = os.open(directory(daemon, uuid), os.O_RDONLY | os.O_DIRECTORY)
    try:
        daemon.control.remove(uuid, wait=0, force=False)
        with pytest.raises(FileNotFoundError):
            os.stat("uevent", dir_fd=held)
        daemon.create("mtty-1", uuid)
        assert os.stat("uevent", dir_fd=held).st_size == 4096
    finally:
        os.close(held)


def no_extended_attributes(daemon: RunningDaemon) -> None:
    for ask in (os.listxattr, lambda path: os.setxattr(path, "trusted.mdev", b"1")):
        with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
            ask(daemon.sys / "class/mdev_bus")


def one_remover_succeeds(daemon: RunningDaemon) -> None:
    def remove(uuid: UUID) -> int:
        try:
            fd = os.open(f"{directory(daemon, uuid)}/remove", os.O_WRONLY)
        except FileNotFoundError as error:
            return error.errno or 0
        try:
            return os.write(fd, b"1")
        except OSError as error:
            return error.errno or 0
        finally:
            os.close(fd)

    with ThreadPoolExecutor(8) as removers:
        for _round in range(20):
            told = list(removers.map(remove, [daemon.create("mtty-1")] * 8))
            assert told.count(1) == 1
            assert set(told) <= {1, errno.ENODEV, errno.ENOENT}


def directory(daemon: RunningDaemon, uuid: UUID) -> str:
    return str(daemon.sys / f"devices/virtual/mtty/mtty/{uuid}")


SHOWN: Mapping[str, Callable[[RunningDaemon], None]] = {
    "power": no_power_folders,
    "file-system-type": another_file_system_type,
    "held-directory": held_directories_find_the_next,
    "extended-attributes": no_extended_attributes,
    "one-remover": one_remover_succeeds,
}


@pytest.mark.parametrize("row", [each.id for each in read_unrecorded()])
def test_what_is_said_is_so(daemon: RunningDaemon, row: str) -> None:
    SHOWN[row](daemon)
