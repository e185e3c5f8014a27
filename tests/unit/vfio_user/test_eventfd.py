"""Eventfds of a client: adopted, signalled, watched, closed."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from mdev_user.errors import GuestError, TooManyFiles
from mdev_user.vfio_user import signalling
from mdev_user.vfio_user.eventfd import Eventfds
from mdev_user.vfio_user.shares import ASSURED_FILES, HostShare, Share

FULL = (1 << 64) - 2
"""The counter of an eventfd to which nobody can add."""


class Watcher:
    """Remembers what is watched."""

    def __init__(self) -> None:
        self.callbacks: dict[int, Callable[[], None]] = {}

    def add(self, fd: int, signalled: Callable[[], None]) -> None:
        self.callbacks[fd] = signalled

    def remove(self, fd: int) -> None:
        del self.callbacks[fd]


@pytest.fixture
def failures() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def eventfds(watcher: Watcher, failures: list[tuple[str, str]]) -> Eventfds:
    return Eventfds(watcher, lambda error, step: failures.append((str(error), step)))


def test_a_signal_reaches_the_client(eventfds: Eventfds) -> None:
    fd = os.eventfd(0)
    (eventfd,) = eventfds.adopt([os.dup(fd)])
    eventfd.signal()
    eventfd.signal()
    assert os.eventfd_read(fd) == 2
    eventfds.close_all()
    eventfd.signal()
    assert not eventfds.held
    os.close(fd)


def full() -> int:
    """A blocking eventfd: who writes one more waits."""
    fd = os.eventfd(0)
    os.eventfd_write(fd, FULL)
    return fd


def test_a_full_counter_makes_nobody_wait(eventfds: Eventfds) -> None:
    fd = full()
    (eventfd,) = eventfds.adopt([os.dup(fd)])
    for _ in range(10):
        eventfd.signal()
    assert os.eventfd_read(fd) >= FULL
    eventfd.signal()
    assert os.eventfd_read(fd) == 1
    eventfd.close()
    os.close(fd)


def test_looking_before_writing_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without AIO, a client that fills its counter between the two calls is waited for."""
    fd = os.eventfd(0)
    write = os.eventfd_write

    def after_the_client(number: int, value: int) -> None:
        write(number, FULL)
        write(number, value)

    monkeypatch.setattr(os, "eventfd_write", after_the_client)
    signalling_thread = threading.Thread(target=signalling._waiting_signal_of(fd))
    signalling_thread.start()
    signalling_thread.join(0.2)
    assert signalling_thread.is_alive()
    assert os.eventfd_read(fd) == FULL
    signalling_thread.join(20)
    os.close(fd)


def test_where_there_is_no_aio_a_full_counter_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise OSError("not in this container")

    monkeypatch.setattr(signalling, "Signaller", none)
    fd = full()
    signal = signalling._Signallers().signal_of(fd)
    signal()
    assert os.eventfd_read(fd) == FULL
    signal()
    assert os.eventfd_read(fd) == 1
    os.close(fd)


def test_a_machine_whose_system_calls_are_not_known_has_no_aio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "pdp11")
    with pytest.raises(OSError, match="pdp11"):
        signalling.Signaller()


def test_a_fork_makes_its_own(eventfds: Eventfds) -> None:
    """As the hosts of tests are forked; here in a process without threads."""
    code = """
import os
from mdev_user.vfio_user.signalling import signal_of
first = os.eventfd(0)
signal_of(first)()
pid = os.fork()
fd = os.eventfd(0)
signal_of(fd)()
assert os.eventfd_read(fd) == 1
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=20)


def test_eventfds_are_of_the_users_share(watcher: Watcher) -> None:
    share = Share(HostShare(files=3))
    eventfds = Eventfds(watcher, lambda _error, _step: None, share)
    held = eventfds.adopt([os.eventfd(0) for _ in range(ASSURED_FILES + 2)])
    more = [os.eventfd(0), os.eventfd(0)]
    with pytest.raises(TooManyFiles):
        eventfds.adopt(more)
    for fd in more:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    held[0].close()
    held[0].close()
    assert share.files == ASSURED_FILES + 1
    eventfds.adopt([os.eventfd(0), os.eventfd(0)])
    eventfds.close_all()
    assert share.files == 0


@pytest.mark.parametrize("other", ["pipe", "file", "closed"])
def test_anything_else_is_refused_and_all_are_closed(eventfds: Eventfds, other: str) -> None:
    good = os.eventfd(0)
    reading, writing = os.pipe()
    os.close(writing)
    if other != "pipe":
        os.close(reading)
    if other == "file":
        reading = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(GuestError, match="expected eventfds"):
        eventfds.adopt([good, reading])
    for fd in (good, reading):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert not eventfds.held


def test_a_watched_eventfd_is_read_by_its_step(eventfds: Eventfds, watcher: Watcher) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    (eventfd,) = eventfds.adopt([os.dup(fd)])
    calls: list[int] = []
    eventfd.watch(lambda: calls.append(1))
    (step,) = watcher.callbacks.values()
    os.eventfd_write(fd, 5)
    step()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fd)
    eventfd.close()
    assert not watcher.callbacks
    step()
    assert calls == [1]
    os.close(fd)


def test_a_step_that_fails_is_reported(eventfds: Eventfds, watcher: Watcher, failures: list[tuple[str, str]]) -> None:
    def fails() -> None:
        raise ZeroDivisionError("author's mistake")

    (eventfd,) = eventfds.adopt([os.eventfd(0)])
    eventfd.watch(fails)
    (step,) = watcher.callbacks.values()
    step()
    assert failures == [("author's mistake", "unmask")]
    eventfds.close_all()
