"""Where `run` may not do what it takes: one line says what is missing and what works instead, and nothing starts."""

import os
import signal
import sys
from collections.abc import Iterator
from errno import ENOSYS, EPERM

import pytest

from mdev_user.testing.daemon import RunningDaemon
from tools.running import command, finished, printed

pytestmark = pytest.mark.fuse

SECCOMP, PROCESS_VM_READV, PIDFD_GETFD = 317, 310, 438  # <asm/unistd_64.h>
INSTEAD = "; `mdev-user run --sysfs-only` shows ", "QEMU 10.1 or later uses an mdev by its socket"

FORBIDDING = """
import ctypes, os, struct, sys
number, errno = int(sys.argv[1]), int(sys.argv[2])
code = struct.pack("<HBBI", 0x20, 0, 0, 0) + struct.pack("<HBBI", 0x15, 0, 1, number)
code += struct.pack("<HBBI", 0x06, 0, 0, 0x50000 | errno) + struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))
assert libc.syscall(317, 1, 0, ctypes.byref(Program(4, code))) == 0
os.execvp(sys.argv[3], sys.argv[3:])
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty") as daemon:
        yield daemon


def under_a_policy(words: list[str], number: int, errno: int) -> list[str]:
    """A command whose system call of this number fails, as in a container."""
    return [sys.executable, "-c", FORBIDDING, str(number), str(errno), *words]


def refusal(words: list[str]) -> str:
    done = finished(words)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.count("\n") == 1
    assert all(each in done.stderr for each in INSTEAD)
    return done.stderr


@pytest.mark.parametrize("errno", [EPERM, ENOSYS])
def test_a_policy_that_forbids_seccomp_is_told_of(daemon: RunningDaemon, errno: int) -> None:
    run = command(daemon, "--", "echo", "started")
    said = refusal(under_a_policy(run, SECCOMP, errno))
    assert f"seccomp(2) is forbidden, as in some containers (seccomp: {os.strerror(errno)})" in said


@pytest.mark.parametrize("number", [PROCESS_VM_READV, PIDFD_GETFD])
def test_a_policy_that_forbids_to_look_into_programs_is_told_of(daemon: RunningDaemon, number: int) -> None:
    run = command(daemon, "--", "echo", "started")
    said = refusal(under_a_policy(run, number, EPERM))
    assert "expected the right to trace programs of one's own (ptrace(2)), given: " in said
    assert os.strerror(EPERM) in said


def test_what_works_instead_works_under_the_policy(daemon: RunningDaemon) -> None:
    for number in (SECCOMP, PROCESS_VM_READV):
        run = command(daemon, "--sysfs-only", "--", "ls", "/sys/bus/mdev")
        assert "devices" in printed(under_a_policy(run, number, EPERM))


DIES = """
import mdev_user.uapi.launcher as launcher, os, select

def die(link, *_more):
    select.select([link], [], [])
    os.kill(os.getpid(), 9)

launcher._supervise = die
"""


def test_a_supervisor_that_dies_before_it_serves_is_told_of(daemon: RunningDaemon) -> None:
    """Who is first tells of it: the guard, which ends the program, or the program, which does not begin."""
    done = finished(command(daemon, "--", "echo", "started", preamble=DIES))
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    if done.returncode == 1:
        assert "its supervisor died" in done.stderr
    else:
        assert done.returncode == -signal.SIGKILL
        assert "was killed by signal 9" in done.stderr
