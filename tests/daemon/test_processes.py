"""Processes of mdevs under a daemon: what an operator sees of them, and that none is left."""

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest

from daemon.movers import command, output
from daemon.support import PARENTS, eventually
from mdev_user.errors import MdevUserError
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.vfio.migration_states import MigrationState
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError

NUMBER, TOTAL = 0, 4
WHY = "adder: what its process keeps cannot be saved"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(PARENTS / "adder.py", tmp_path))


@pytest.fixture
def daemon(file: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon("--reload", f"{file}:Sum,name=sum") as running:
        yield running


def add(guest: Client, number: int, total: int) -> None:
    guest.region_write(0, NUMBER, number.to_bytes(4, "little"))
    eventually(lambda: int.from_bytes(guest.region_read(0, TOTAL, 4), "little") == total, f"the total is {total}")


def processes(host: int) -> list[int]:
    """The children of a host, whichever of its threads has started them."""
    found: list[int] = []
    for task in Path(f"/proc/{host}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            found += map(int, (task / "children").read_text().split())
    return found


def test_life_of_a_process(daemon: RunningDaemon, file: Path, tmp_path: Path) -> None:
    uuid = daemon.create("sums-one")
    (host,) = daemon.host_pids().values()
    with daemon.guest(uuid) as guest:
        add(guest, 2, 2)
        add(guest, 3, 5)
        (pid,) = processes(host)
        check_not_migratable(daemon, guest, uuid, tmp_path)
        add(guest, 1, 6)  # it goes on
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not processes(host), "it is gone, and no zombie")
        assert "not migratable" not in output(daemon, "show", uuid)
        add(guest, 4, 4)
        assert "SIGKILL" in daemon.log
        check_reload(daemon, guest, file)
        add(guest, 1, 100)
    eventually(lambda: not processes(host), "it ends with its user")


def check_not_migratable(daemon: RunningDaemon, guest: Client, uuid: UUID, folder: Path) -> None:
    """Refused with the reason, and nothing was stopped: the guest goes on."""
    assert WHY in output(daemon, "show", uuid)
    assert daemon.control.mdev(uuid).unmigratable == WHY
    refused = command(daemon, "save", uuid, folder / "state")
    assert refused.returncode != 0
    assert refused.stderr == f"mdev-user: {uuid} cannot be saved now: {WHY} (ENOTSUP)\n"
    for state in (MigrationState.PRE_COPY, MigrationState.STOP_COPY):
        with pytest.raises(RemoteError) as error:
            guest.set_migration_state(state)
        assert error.value.errno == errno.EOPNOTSUPP
        assert guest.migration_state() is MigrationState.RUNNING
    guest.set_migration_state(MigrationState.STOP)  # as a VMM that pauses its guest does
    guest.set_migration_state(MigrationState.RUNNING)


def check_reload(daemon: RunningDaemon, guest: Client, file: Path) -> None:
    """The process is of the older version and ends; the device is reset, since it has lost what the process kept."""
    file.write_text(file.read_text().replace("STEP = 1", "STEP = 100"))
    eventually(lambda: daemon.control.status().parents[0].reloads, "the newer version is loaded")
    assert f"was reset: {WHY}" in daemon.log
    assert guest.region_read(0, TOTAL, 4) == bytes(4)


def test_process_ends_with_its_host(daemon: RunningDaemon) -> None:
    with daemon.guest(daemon.create("sums-one")) as guest:
        add(guest, 2, 2)
        (host,) = daemon.host_pids().values()
        (pid,) = processes(host)
        os.kill(host, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{pid}").exists(), "the kernel has ended it")


def test_remove_ends_it(daemon: RunningDaemon) -> None:
    uuid = daemon.create("sums-one")
    (host,) = daemon.host_pids().values()
    guest = daemon.guest(uuid)
    add(guest, 2, 2)
    daemon.control.remove(uuid, wait=5, force=True)
    eventually(lambda: not processes(host), "it ends with the mdev")
    with pytest.raises((MdevUserError, OSError)):
        guest.region_read(0, TOTAL, 4)
    guest.close()
