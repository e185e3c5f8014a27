"""`serve --background`: when it returns the daemon serves, or its own message and status have been passed on."""

import errno
import os
import re
import shlex
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir

_MDEV_USER = str(Path(sys.executable).with_name("mdev-user"))
_SECONDS = 60


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a socket's path is short
        run = Path(folder, "run")
        yield run
        if (run / "control.sock").exists():
            stop(run)


def command(place: Path, *arguments: str) -> list[str]:
    return [_MDEV_USER, "serve", "--background", "--run-dir", str(place), *arguments]


def serve(place: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Both outputs are read to their ends: a daemon that kept one open would keep whoever reads it."""
    return subprocess.run(command(place, *arguments), capture_output=True, text=True, timeout=_SECONDS, check=False)


def stop(place: Path) -> "subprocess.CompletedProcess[str]":
    stop = [_MDEV_USER, "stop", "--run-dir", str(place)]
    return subprocess.run(stop, capture_output=True, text=True, timeout=_SECONDS, check=False)


@pytest.mark.fuse
def test_when_it_returns_the_daemon_serves(place: Path) -> None:
    done = serve(place, "mtty")
    assert done.returncode == 0, done.stderr
    assert [each.state for each in Client(RunDir(place)).status().parents] == ["registered"]
    again = serve(place, "mtty")
    assert again.returncode == 1
    assert "is in use by the daemon with pid" in again.stderr
    assert "cannot serve" not in (place / "log").read_text(), "the log is the first one's"


@pytest.mark.fuse
def test_it_keeps_nothing_of_its_callers_open(place: Path) -> None:
    shell = f'told=$({shlex.join(command(place, "mtty"))} 2>&1); echo "told: $told"'
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert f"ends it, {place}/log is its log" in done.stdout
    daemon = Client(RunDir(place)).status()
    hosts = [each.host_pid for each in daemon.parents if each.host_pid is not None]
    assert hosts
    for pid in (daemon.pid, *hosts):
        assert [str(Path(f"/proc/{pid}/fd/{each}").readlink()) for each in (0, 2)] == ["/dev/null", f"{place}/log"]


@pytest.mark.fuse
def test_it_logs_to_a_file_of_its_own_over_all_starts(place: Path) -> None:
    """The line that it prints says how to end it, and where its log is."""
    for starts in (1, 2):
        done = serve(place, "mtty")
        found = re.search(r"`mdev-user (?P<stop>stop .*)` ends it, (?P<log>\S+) is its log\n$", done.stdout)
        assert found is not None
        subprocess.run([_MDEV_USER, *shlex.split(found["stop"])], timeout=_SECONDS, check=True)
        log = Path(found["log"])
        assert log.read_text().count("ending: SIGTERM came") == starts
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        assert done.stderr.count("ending") == 0, "only what came since its start is passed on"


@pytest.mark.fuse
def test_in_the_foreground_there_is_no_such_file(place: Path) -> None:
    foreground = [each for each in command(place, "nonsense") if each != "--background"]
    done = subprocess.run(foreground, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 1
    assert not (place / "log").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["nonsense"], 1, "no parent driver 'nonsense' is installed"),
        (["mtty,nonsense=1"], 1, "nonsense"),
        (["mtty", "--fd", "control=99"], 1, "expected a listening socket"),
        (["mtty", "--log-level", "loud"], 2, "given 'loud'"),
    ],
)
def test_what_cannot_be_served_is_told_as_in_the_foreground(
    place: Path, arguments: list[str], status: int, told: str
) -> None:
    done = serve(place, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert told in done.stderr
    assert stop(place).returncode == 1, "nothing is left behind"


def test_what_it_logs_until_it_serves_is_seen(place: Path, tmp_path: Path) -> None:
    """Here by the daemon itself, of a file that its host cannot load."""
    (tmp_path / "card.py").write_text("print('this is the card', flush=True)\n1 / 0\n")
    done = serve(place, f"{tmp_path}/card.py:Card")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot register a parent" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert done.stderr in (place / "log").read_text()


def test_a_log_that_is_somebody_elses_is_not_written_to(place: Path, tmp_path: Path) -> None:
    place.mkdir()
    (tmp_path / "precious").write_text("as it was")
    (place / "log").symlink_to(tmp_path / "precious")
    done = serve(place, "mtty")
    assert done.returncode == 1
    assert os.strerror(errno.ELOOP) in done.stderr
    assert (tmp_path / "precious").read_text() == "as it was"


def test_a_run_directory_that_others_can_write_is_refused(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)
    done = serve(place, "mtty")
    assert done.returncode == 1
    assert "can be written by others" in done.stderr
    assert list(place.iterdir()) == []
