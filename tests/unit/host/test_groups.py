"""Control groups: what goes wrong with them, or was there before, ends no process and takes nothing from others."""

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from mdev_user.host import PYTHON
from mdev_user.host.program import groups
from mdev_user.host.program.groups import BESIDE, DaemonGroup, Group, HostGroups, Refused
from mdev_user.units import MiB


def nothing(_folder: Path) -> None: ...


def test_mount_with_any_bytes_in_its_name_is_no_obstacle(tmp_path: Path) -> None:
    mounts = b"1 2 0:1 / /mnt/\xe9t\xe9\x0c rw - ext4 x rw\n3 2 0:1 / /sys/fs/cgroup rw - cgroup2 none rw\n"
    (tmp_path / "mountinfo").write_bytes(mounts)
    (tmp_path / "cgroup").write_bytes(b"0::/a\xe9\n")
    assert groups._own_group(tmp_path) == Path(os.fsdecode(b"/sys/fs/cgroup/a\xe9"))


def test_processes_that_start_at_the_same_time_have_a_group_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "mdev-user.daemon.1.2"
    (tmp_path / "mdev-user.programs.1.2").mkdir()

    def own_group() -> Path:
        time.sleep(0.02)
        return own

    monkeypatch.setattr(groups, "_own_group", own_group)
    groups._host_groups.cache_clear()
    found = list[HostGroups | None]()
    threads = [Thread(target=lambda: found.append(groups.host_groups())) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    groups._host_groups.cache_clear()
    assert found[0] is not None
    assert found[0] is found[1]


def test_group_that_is_there_already_is_left_alone(tmp_path: Path) -> None:
    made = HostGroups(tmp_path).create(None, 0)
    assert made is not None
    assert HostGroups(tmp_path).create(None, 0) is None
    assert list(made.folder.iterdir()) == []


def test_daemon_that_can_have_none_takes_no_controller_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the root, where groups of others have limits."""
    control = tmp_path / "cgroup.subtree_control"
    control.write_text("memory pids")
    monkeypatch.setattr(groups, "_delegated", lambda: tmp_path)
    (tmp_path / f"mdev-user.daemon.{groups._birth(os.getpid())}").touch()
    with pytest.raises(Refused):
        DaemonGroup()
    assert control.read_text() == "memory pids"


def test_what_was_mapped_still_counts_when_less_is(tmp_path: Path) -> None:
    """Pages that it touched are still charged: a lower limit would be its end."""
    (tmp_path / "memory.max").touch()
    group = Group(tmp_path, MiB, 0, nothing)
    for mapped in (9, 1):
        group.allow(mapped * MiB)
    assert (tmp_path / "memory.max").read_text() == str(10 * MiB + BESIDE)


@pytest.fixture
def started() -> Callable[[str], str]:
    def start(group: str) -> str:
        """What a process says that is told nothing."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.shutdown(socket.SHUT_WR)
            command = [*PYTHON, "mdev_user.host.program", str(theirs.fileno()), str(os.getpid()), group]
            environment = {**os.environ, "PYTHONPATH": str(Path(groups.__file__).parents[3])}
            done = subprocess.run(
                command, pass_fds=(theirs.fileno(),), env=environment, stderr=subprocess.PIPE, timeout=60, check=False
            )
        return done.stderr.decode()

    return start


def test_process_that_cannot_enter_its_group_begins_without(started: Callable[[str], str], tmp_path: Path) -> None:
    said = started(str(tmp_path / "gone"))
    assert "no control group" in said
    assert "Traceback" not in said
