"""Screenshots over the control socket and by the command: the requests, the refusals, and the file that is written."""

import http.client
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest
from typer.testing import CliRunner, Result

from mdev_user import cli
from mdev_user.daemon.client import Client, Refused
from mdev_user.daemon.run_dir import RunDir
from unit.daemon.fake_operations import USED, FakeOperations, served

UNKNOWN = UUID("99999999-9999-4999-8999-999999999999")
Take = Callable[..., Result]


@pytest.fixture
def run_dir() -> Iterator[RunDir]:
    with served(FakeOperations()) as run_dir:
        yield run_dir


@pytest.fixture
def take(run_dir: RunDir) -> Take:
    """Runs ``mdev-user screenshot`` with these arguments."""
    return lambda *given: CliRunner().invoke(
        cli.app, ["screenshot", str(USED), *map(str, given), "--run-dir", str(run_dir.path)]
    )


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_what_was_asked_for_arrives(run_dir: RunDir) -> None:
    client = Client(run_dir)
    assert client.screenshot(USED) == b"\x89PNG 0 0 False"
    assert client.screenshot(USED, 1, 9, pointer=True) == b"\x89PNG 1 9 True"


def test_what_cannot_be_is_refused(run_dir: RunDir) -> None:
    with pytest.raises(Refused, match=r"no mdev 99999999.*\(ENODEV\)"):
        Client(run_dir).screenshot(UNKNOWN)
    with pytest.raises(Refused, match=r"head 2: expected 0 to 1 \(EINVAL\)"):
        Client(run_dir).screenshot(USED, 2)


@pytest.mark.parametrize(
    "query", ["head=-1", "head=x", "head=", f"head={'9' * 5000}", "level=10", "pointer=1", "x=1", "head=0&head=0"]
)
def test_a_wrong_request_is_refused(run_dir: RunDir, query: str) -> None:
    with closing(http.client.HTTPConnection("localhost", timeout=20)) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(run_dir.control))
        connection.request("GET", f"/v1/mdevs/{USED}/screenshot?{query}")
        response = connection.getresponse()
        assert (response.status, b"expected" in response.read()) == (400, True)


def test_the_answer_is_an_image(run_dir: RunDir) -> None:
    with closing(http.client.HTTPConnection("localhost", timeout=20)) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(run_dir.control))
        connection.request("GET", f"/v1/mdevs/{USED}/screenshot")
        assert connection.getresponse().getheader("Content-Type") == "image/png"


def test_the_file_is_private_and_takes_the_place_of_what_was_there(take: Take, tmp_path: Path) -> None:
    file = tmp_path / "shot.png"
    file.write_bytes(b"before")
    result = take(file, "--head", 1, "--pointer", "--level", 6)
    assert (result.exit_code, result.output) == (0, "")
    assert file.read_bytes() == b"\x89PNG 1 6 True"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert names(tmp_path) == ["shot.png"]


def test_a_dash_is_the_output(take: Take) -> None:
    assert take("-").stdout_bytes == b"\x89PNG 0 0 False"


def test_a_refusal_leaves_the_file_as_it_was(take: Take, tmp_path: Path) -> None:
    file = tmp_path / "shot.png"
    file.write_bytes(b"before")
    result = take(file, "--head", 7)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "mdev-user: head 7: expected 0 to 1 (EINVAL)\n"
    assert file.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none/shot.png", "No such file or directory"),
        ("folder", "no plain file"),
        ("link", "no plain file"),
        ("pipe", "no plain file"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(take: Take, tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "pipe")
    result = take(tmp_path / name)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert reason in result.stderr
    assert name in result.stderr
    assert names(tmp_path) == ["folder", "link", "pipe"]


def test_a_full_disk_leaves_nothing_half_written(take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    result = take(tmp_path / "shot.png")
    assert (result.exit_code, "No space left" in result.stderr) == (1, True)
    assert names(tmp_path) == []
