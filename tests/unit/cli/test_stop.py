"""`stop`: it returns when the daemon has ended, and never ends anything else."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mdev_user import cli
from mdev_user.daemon.run_dir import RunDir
from mdev_user.testing.daemon import RunningDaemon
from unit.daemon.fake_operations import FakeOperations, served


def stop(run_dir: Path) -> Result:
    return CliRunner().invoke(cli.app, ["stop", "--run-dir", str(run_dir)])


@pytest.fixture
def ours() -> Iterator[RunDir]:
    """A run directory whose control socket is this very process's."""
    with served(FakeOperations()) as run_dir:
        yield run_dir


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Those sent, instead of sending them."""
    sent: list[int] = []
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda _process, number: sent.append(number))
    return sent


@pytest.mark.fuse
def test_it_returns_when_the_daemon_has_ended() -> None:
    with RunningDaemon("mtty") as daemon:
        daemon.create("mtty-1")
        hosts = daemon.host_pids().values()
        result = stop(daemon.run_dir.path)
        assert (result.exit_code, result.output) == (0, "")
        assert daemon.process.poll() == 0, "it has ended, cleanly"
        assert not daemon.run_dir.control.exists()
        assert not any(Path(f"/proc/{each}").exists() for each in hosts)
        assert "what ends with the daemon: 1 mdev" in daemon.log
        again = stop(daemon.run_dir.path)
        assert again.exit_code == 1
        assert f"no daemon at {daemon.run_dir.path}" in again.stderr


@pytest.mark.fuse
def test_the_socket_of_a_daemon_that_was_killed_is_nobodys() -> None:
    with RunningDaemon("mtty") as daemon:
        daemon.kill()
        assert daemon.run_dir.control.exists()
        result = stop(daemon.run_dir.path)
        assert result.exit_code == 1
        assert "no daemon at" in result.stderr


def test_where_there_is_no_run_directory_no_daemon_runs() -> None:
    result = stop(Path("/tmp/mdev-user-none"))
    assert result.exit_code == 1
    assert "no daemon at" in result.stderr


def test_who_lent_the_daemon_its_socket_is_not_ended(ours: RunDir, signals: list[int]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        ours.lock.write_text(f"{other.pid}\n")
        result = stop(ours.path)
        assert other.poll() is None
        other.kill()
    assert result.exit_code == 1
    assert f"process {os.getpid()} made its control socket" in result.stderr
    assert signals == []


def test_who_holds_no_lock_is_not_ended(ours: RunDir, signals: list[int]) -> None:
    assert "names process none" in stop(ours.path).stderr
    assert signals == []


def test_without_the_right_to_end_it_that_is_told(ours: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_process: int, _number: int) -> None:
        raise PermissionError

    ours.lock.write_text(f"{os.getpid()}\n")
    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    result = stop(ours.path)
    assert result.exit_code == 1
    assert "is another user's: its owner or root may end it" in result.stderr


def test_a_daemon_that_ends_by_itself_meanwhile_has_ended(ours: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_process: int, _number: int) -> None:
        raise ProcessLookupError

    ours.lock.write_text(f"{os.getpid()}\n")
    monkeypatch.setattr(signal, "pidfd_send_signal", gone)
    assert stop(ours.path).exit_code == 0
