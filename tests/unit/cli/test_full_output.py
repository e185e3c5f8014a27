"""What is printed to a full disk, or to nobody: a line on stderr and status 1, or silence; never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mdev_user.daemon.run_dir import RunDir
from unit.daemon.fake_operations import USED, FakeOperations

FULL = "the output cannot be written: No space left on device"


def printed(output: Path | int, *words: str, unbuffered: str = "") -> tuple[int, str]:
    """The exit status, and what is on stderr."""
    target = os.open(output, os.O_WRONLY) if isinstance(output, Path) else output
    command = [sys.executable, "-m", "mdev_user", *words]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    try:
        done = subprocess.run(
            command, stdout=target, stderr=subprocess.PIPE, text=True, env=environment, timeout=60, check=False
        )
    finally:
        os.close(target)
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words", [["list"], ["list", "-o", "name"], ["list", "-o", "json"], ["show", str(USED)], ["list", "--help"]]
)
def test_a_full_disk_is_a_line(words: list[str], unbuffered: str, run_dir: RunDir) -> None:
    words = [words[0], "--run-dir", str(run_dir.path), *words[1:]]
    assert printed(Path("/dev/full"), *words, unbuffered=unbuffered) == (1, f"mdev-user: {FULL}\n")


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_so_it_is_without_a_command(words: list[str]) -> None:
    assert printed(Path("/dev/full"), *words) == (1, f"mdev-user: {FULL}\n")


@pytest.mark.parametrize("form", ["name", "json"])
def test_who_creates_is_told_what_was_made(form: str, run_dir: RunDir, operations: FakeOperations) -> None:
    words = ("create", "mtty-1", "--run-dir", str(run_dir.path), "-o", form)
    status, said = printed(Path("/dev/full"), *words)
    (made,) = set(operations.created) - {USED}
    assert (status, said) == (1, f"mdev-user: mdev {made} was created, but {FULL}\n")


@pytest.mark.parametrize("form", ["name", "table"])
def test_a_reader_who_has_ended_is_status_1_in_silence(form: str, run_dir: RunDir) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert printed(writer, "list", "-o", form, "--run-dir", str(run_dir.path)) == (1, "")
