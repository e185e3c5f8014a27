"""`serve --background`: when it returns the daemon serves, or its own message and status have been passed on."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir
from unit.host.parts import eventually

_MDEV_USER = str(Path(sys.executable).with_name("mdev-user"))


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a socket's path is short
        yield Path(folder, "run")


def serve(place: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Its output is read to its end: a daemon that kept it open would keep whoever reads it."""
    command = [_MDEV_USER, "serve", "--background", "--run-dir", str(place), *arguments]
    with tempfile.TemporaryFile("w+") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, timeout=60, check=False)
        log.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, done.stdout, log.read())


def end(done: "subprocess.CompletedProcess[str]") -> int:
    found = re.fullmatch(r"the daemon serves in the background: end it with `kill (\d+)`\n", done.stdout)
    assert found is not None
    pid = int(found[1])
    os.kill(pid, signal.SIGTERM)
    return pid


def is_gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return True


@pytest.mark.fuse
def test_when_it_returns_the_daemon_serves(place: Path) -> None:
    done = serve(place, "mtty")
    try:
        assert done.returncode == 0
        assert [each.state for each in Client(RunDir(place)).status().parents] == ["registered"]
        again = serve(place, "mtty")
        assert again.returncode == 1
        assert "is in use by the daemon with pid" in again.stderr
    finally:
        pid = end(done)
        eventually(lambda: is_gone(pid))


def test_what_cannot_be_served_is_told_as_in_the_foreground(place: Path) -> None:
    done = serve(place, "nonsense")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no parent driver 'nonsense' is installed" in done.stderr
