"""``mdev-user demo``: its own daemon leaves nothing, however it ends. What the guests do is in tests/guest."""

import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from errno import ENOSPC
from pathlib import Path

import pytest
from typer.testing import CliRunner
from typing_extensions import override

from mdev_user import cli
from mdev_user.cli import demo
from mdev_user.cli.streams import OutputError
from mdev_user.guests.archive import RigError


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files: pytest's own is too long for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def interrupt() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def lose_the_reader() -> None:
    raise SystemExit(1)  # what rich makes of EPIPE


@pytest.mark.parametrize(
    ("end", "raised"), [(interrupt, KeyboardInterrupt), (terminate, SystemExit), (lose_the_reader, SystemExit)]
)
def test_nothing_is_left_when_it_is_ended(
    end: Callable[[], None], raised: type[BaseException], temporary: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(raised), demo._daemon() as daemon:  # noqa: PT012 - what is ended has to be there
        pid = daemon.client.status().pid
        assert list(temporary.iterdir()) == [daemon.place.path]
        end()
    assert list(temporary.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_is_still_mounted_is_not_deleted(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "mounts_below", lambda folder: [folder / "root/sys"])
    with demo._folder() as folder:
        pass
    assert list(temporary.iterdir()) == [folder]


def test_a_long_folder_for_temporary_files_is_told_with_its_cure(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = temporary / ("x" * 60)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    result = CliRunner().invoke(cli.app, ["demo"])
    assert result.exit_code == 1
    assert "TMPDIR=/tmp mdev-user demo" in result.stderr
    assert "--run-dir" not in result.stderr
    assert list(folder.iterdir()) == []


FULL = "the output cannot be written: No space left on device"


class FullDisk(io.StringIO):
    """There is room for so many lines."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self._room = lines

    @override
    def write(self, text: str) -> int:
        if self._room < text.count("\n"):
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        self._room -= text.count("\n")
        return super().write(text)


def no_rig(*_arguments: object, **_options: object) -> None:
    raise RigError("not for this test")


def children() -> list[str]:
    return [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


@pytest.mark.parametrize(
    ("lines", "last"), [(0, ""), (9, "  guest A: "), (14, "  mdev ")], ids=["at once", "guests run", "the table"]
)
def test_a_full_disk_ends_it_and_nothing_is_left(
    lines: int, last: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, before = FullDisk(lines), children()
    monkeypatch.setattr(sys, "stdout", disk)
    monkeypatch.setattr(demo, "build_rig", no_rig)
    with pytest.raises(OutputError, match=f"^{FULL}$"):
        demo.demo()
    assert disk.getvalue().rpartition("\n")[0].rpartition("\n")[2].startswith(last)
    assert disk.getvalue().count("\n") == lines
    assert list(temporary.iterdir()) == []
    assert children() == before


def test_a_full_disk_is_a_line_on_stderr(temporary: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mdev_user", "demo"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary), "MDEV_USER_CACHE": str(temporary / "cache")},
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, f"mdev-user: {FULL}\n")
    assert not [each for each in temporary.rglob("*") if "demo" in each.name or "building" in each.name]
