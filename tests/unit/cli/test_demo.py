"""``mdev-user demo``: its own daemon leaves nothing, however it ends. What the guests do is in tests/guest."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mdev_user import cli
from mdev_user.cli import demo


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
