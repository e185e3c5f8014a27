"""``events``: a line per uevent, for people and for programs, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from threading import Timer

import pytest
from typer.testing import CliRunner, Result

from mdev_user import cli
from mdev_user.daemon.run_dir import RunDir
from mdev_user.sysfs.uevents import Uevent
from unit.daemon.fake_operations import FakeOperations, served

PATH = "/devices/virtual/mtty/mtty"


@pytest.fixture
def operations() -> FakeOperations:
    operations = FakeOperations()
    operations.log.announce(Uevent("add", PATH, "mtty"))
    operations.log.announce(Uevent("change", PATH, "mtty", {"MDEV_STATE": "registered", "X": "\x1b[31m\n"}))
    return operations


@pytest.fixture
def run_dir(operations: FakeOperations) -> Iterator[RunDir]:
    with served(operations) as run_dir:
        yield run_dir


def run(run_dir: RunDir, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["events", *arguments, "--run-dir", str(run_dir.path)])


def test_a_uevent_is_a_line_of_a_table(run_dir: RunDir) -> None:
    result = run(run_dir, "--no-follow")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split(maxsplit=1)[1] for line in result.stdout.splitlines()] == [
        f"    1 add    mtty     {PATH}".strip(),
        rf"    2 change mtty     {PATH} MDEV_STATE=registered X=\x1b[31m\n".strip(),
    ]


def test_a_uevents_json_is_an_object_a_line(run_dir: RunDir) -> None:
    (line,) = run(run_dir, "--no-follow", "--after", "1", "-o", "json").stdout.splitlines()
    uevent = json.loads(line)
    assert (uevent["number"], uevent["action"], uevent["devpath"], uevent["subsystem"]) == (2, "change", PATH, "mtty")
    assert list(uevent["properties"].items()) == [("MDEV_STATE", "registered"), ("X", "\x1b[31m\n")]


def test_what_is_no_longer_kept_is_counted(run_dir: RunDir, operations: FakeOperations) -> None:
    for _ in range(100):
        operations.log.announce(Uevent("change", PATH, "mtty"))
    lines = run(run_dir, "--no-follow", "--after", "0").stdout.splitlines()
    assert lines[0].endswith(" 2 uevents up to 2 are lost: the daemon does not keep them any more")
    assert len(lines) == 101
    assert len(run(run_dir, "--no-follow").stdout.splitlines()) == 100  # who asks for all that are kept lost none


@pytest.mark.parametrize("arguments", [["--after", "-1"], ["--after", "x"], ["-o", "name"]])
def test_wrong_usage(run_dir: RunDir, arguments: list[str]) -> None:
    assert run(run_dir, *arguments).exit_code == 2


def test_a_number_that_is_to_come_is_refused(run_dir: RunDir) -> None:
    result = run(run_dir, "--after", "3")
    assert result.exit_code == 1
    assert "up to 2 so far, given 3" in result.stderr


def test_the_end_of_the_daemon_is_an_error(run_dir: RunDir, operations: FakeOperations) -> None:
    Timer(0.1, operations.log.end).start()
    result = run(run_dir, "--after", "1")
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 1)
    assert result.stderr == f"mdev-user: the daemon has ended: {run_dir.path}\n"


@pytest.fixture
def follower(run_dir: RunDir) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "mdev_user", "events", "--after", "1", "-o", "json", "--run-dir"]
    with subprocess.Popen([*command, str(run_dir.path)], stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_each_line_is_there_at_once_and_ctrl_c_ends_it(
    follower: "subprocess.Popen[str]", operations: FakeOperations
) -> None:
    assert follower.stdout is not None
    for number in (2, 3):
        assert json.loads(follower.stdout.readline())["number"] == number
        operations.log.announce(Uevent("change", PATH, "mtty"))
    os.kill(follower.pid, signal.SIGINT)
    assert follower.wait(20) == 0
