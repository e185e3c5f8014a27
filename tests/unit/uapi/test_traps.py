"""Accesses that the server ends by itself: made once, for the right process, ended whatever happens."""

import os
from collections.abc import Iterator
from errno import EFAULT, EIO, EPERM
from pathlib import Path

import pytest

from core import core_skip
from daemon.support import eventually
from mdev_user.errors import GuestError, NotPermitted
from mdev_user.uapi import traps as uapi_traps
from mdev_user.vfio_user.loops import CHOICE, why_not_native
from mdev_user.vfio_user.traps import Traps
from unit.uapi.traced import BAR0, PATIENCE, Traced

WAYS = """
import ctypes, threading

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p

def read_to(at, count, offset):
    done = libc.pread(4000, ctypes.c_void_p(at), ctypes.c_size_t(count), ctypes.c_long(BAR0 + offset))
    return ctypes.string_at(at, done) if done >= 0 else -ctypes.get_errno()

def memory(protection):
    return libc.mmap(None, ctypes.c_size_t(4096), protection, 0x22, -1, ctypes.c_long(0))

def read(count, offset, times=1):
    at = memory(3)
    known = [read_to(at, 4, 0) for _ in range(3)]
    found = {read_to(at, count, offset) for _ in range(times)}
    return found.pop() if len(found) == 1 else found

def read_only():
    at = memory(1)
    return read_to(at, 4, 8), ctypes.string_at(at, 4)

def start(*args):
    thread = threading.Thread(target=lambda: results.append(read(*args)))
    thread.start()
    return thread

def in_child(offset):
    pid = os.fork()
    if not pid:
        os._exit(0 if read(4, offset, 10) == b"abcd" else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

results = []
"""


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor's kind: another asks for every access, and hands the reply on."""
    if absent := why_not_native():
        core_skip(absent)
    monkeypatch.setenv(CHOICE, "native")


@pytest.fixture(params=["python", "native"])
def traced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    """With a server of either kind."""
    traced = Traced(request.param)
    traced.trap()
    begin(traced)
    yield traced
    traced.close()


def begin(traced: Traced) -> None:
    traced.ask(f"exec({WAYS.replace('BAR0', str(BAR0))!r}, globals()) or 0")


def is_waited_for(traced: Traced) -> bool:
    """Whether a thread of the supervisor waits for the server's reply: it has the lock for more than moments."""
    free = traced.device.lock.acquire(timeout=0.5)
    if free:
        traced.device.lock.release()
    return not free


def test_each_access_is_made_once_and_has_its_value(traced: Traced) -> None:
    assert traced.ask(f"os.pwrite(4000, b'abcd', {BAR0} + 8)") == 4
    before = traced.ops.accesses
    assert traced.ask("read(4, 8, 500)") == b"abcd"
    assert traced.ops.accesses - before == 503
    assert traced.supervisor.calls < 100
    writes = f"[os.pwrite(4000, bytes([number]) * 8, {BAR0} + 16) for number in range(200)] == [8] * 200"
    assert traced.ask(writes) is True
    assert traced.ask("read(8, 16)") == bytes([199]) * 8


def test_a_refused_access_has_the_devices_errno(traced: Traced) -> None:
    assert traced.ask("read(4, 72)") == -EPERM
    assert traced.ask("read(4, 4096)") == -EFAULT
    assert traced.ask("read(4, 0)") == bytes(4)
    assert traced.supervisor.begun == 0


def test_nobody_waits_for_the_server_but_the_caller(traced: Traced) -> None:
    traced.begin("read(4, 64)")
    assert traced.ops.reading.wait(PATIENCE)
    assert not is_waited_for(traced)
    traced.ops.may_go_on.set()
    assert traced.answer() == bytes(4)


def test_without_traps_somebody_would() -> None:
    """The negative control."""
    with_replies = Traced()
    begin(with_replies)
    with_replies.begin("read(4, 64)")
    assert with_replies.ops.reading.wait(PATIENCE)
    assert is_waited_for(with_replies)
    with_replies.ops.may_go_on.set()
    assert with_replies.answer() == bytes(4)
    with_replies.close()


def test_a_child_has_its_own_memory(traced: Traced) -> None:
    traced.ask(f"os.pwrite(4000, b'abcd', {BAR0} + 8)")
    assert traced.ask("read(4, 8)") == b"abcd"
    assert [traced.ask("in_child(8)") for _ in range(3)] == [0, 0, 0]
    assert traced.ask("read(4, 8)") == b"abcd"


def test_memory_that_the_program_cannot_write_stays(traced: Traced) -> None:
    """The server could, by /proc/PID/mem."""
    traced.ask(f"os.pwrite(4000, b'abcd', {BAR0} + 8)")
    assert traced.ask("read(4, 8)") == b"abcd"
    assert traced.ask("read_only()") == (-EFAULT, bytes(4))


def test_more_threads_may_wait_than_are_noted(traced: Traced) -> None:
    traced.ask("exec('threads = [start(4, 64) for _ in range(80)]', globals()) or 0")
    assert traced.ops.reading.wait(PATIENCE)
    traced.ops.may_go_on.set()
    assert traced.ask("[each.join() for each in threads] and len(results)") == 80
    assert traced.ask("set(results)") == {bytes(4)}


def waiting(traced: Traced) -> None:
    """A thread of the program waits for the device."""
    traced.ask("exec('thread = start(4, 64)', globals()) or 0")
    assert traced.ops.reading.wait(PATIENCE)


def test_when_the_server_is_gone_its_calls_fail(traced: Traced) -> None:
    waiting(traced)
    hang_up(traced)
    assert traced.ask("thread.join() or results[-1]") == -EIO
    traced.ops.may_go_on.set()
    assert traced.ask("read(4, 0)") == -EIO


def test_calls_of_a_server_that_is_gone_would_wait_for_ever(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    failed: list[int] = []
    monkeypatch.setattr(uapi_traps.Traps, "_fail", lambda _self: failed.append(1))
    waiting(traced)
    hang_up(traced)
    eventually(lambda: failed, "the end is seen")
    assert traced.ask("thread.join(0.2) or thread.is_alive()") is True
    assert traced.device.line is not None
    traced.device.line.fail(traced.supervisor.listener, EIO)
    assert traced.ask("thread.join() or results[-1]") == -EIO
    traced.ops.may_go_on.set()


def test_a_device_that_is_closed_fails_what_waits(traced: Traced) -> None:
    """The call has not begun for Linux, so it keeps nothing open."""
    waiting(traced)
    assert traced.ask("os.close(fd) or os.close(4000) or 0") == 0
    assert traced.ask("thread.join() or results[-1]") == -EIO
    assert not traced.ops.impatient
    traced.ops.may_go_on.set()


def hang_up(traced: Traced) -> None:
    """As a host that dies: the driver is still at it."""
    traced.served.session.close()


# --- whose traps a server takes ---------------------------------------------------------------------------------------


def number_of_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_another_users_traps_are_not_taken() -> None:
    before = number_of_fds()
    with pytest.raises(NotPermitted):
        Traps(os.geteuid() + 1).set((os.dup(0), os.dup(0)))
    assert number_of_fds() == before


@pytest.mark.parametrize("paths", [("/dev/null", "/dev/null"), ("/proc/self/mem",), ("/proc/self/mem",) * 3])
def test_what_are_no_traps_are_refused_and_closed(paths: tuple[str, ...]) -> None:
    before = number_of_fds()
    with pytest.raises(GuestError, match="seccomp listener"):
        Traps(os.geteuid()).set(tuple(os.open(path, os.O_RDWR) for path in paths))
    assert number_of_fds() == before
