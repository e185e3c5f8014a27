"""What is read of a program that means harm: its name, its files' names and its numbers."""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mdev_user.uapi.program import Program
from mdev_user.units import PAGE

NAMED = """
import ctypes, sys
ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]), 0, 0, 0)  # PR_SET_NAME
print(flush=True)
input()
"""


@contextmanager
def named(name: bytes) -> Iterator[int]:
    """A process of this name."""
    words = [sys.executable, "-c", NAMED, name.hex()]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate(b"\n")


@pytest.mark.parametrize("name", [b"\rTgid:1", b"\rTgid:1\r", b"\nTgid:1\n", b"\x0bTgid:1", b"\xff\xfe", b"Tgid:1"])
def test_name_of_a_program_does_not_make_it_another(name: bytes) -> None:
    """Else it would have files of any process taken that the supervisor may look into, and not the program."""
    with named(name) as pid:
        program = Program(pid)
        assert program.tgid == pid
        assert int(program.status["Uid"].split()[0]) == os.getuid()


def test_a_name_with_a_carriage_return_is_no_two_lines(tmp_path: Path) -> None:
    with (tmp_path / "a\rb").open("w+b") as file:
        file.truncate(PAGE)
        with mmap.mmap(file.fileno(), PAGE):
            found = Program(os.getpid()).mapped(0, 1 << 64)
    assert f"{tmp_path}/a\rb" in [area.path for area in found]
