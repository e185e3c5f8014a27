"""Eventfds of a client: adopted, signalled, watched, closed."""

import os
from collections.abc import Callable

import pytest

from mdev_user.errors import GuestError
from mdev_user.vfio_user.eventfd import Eventfds


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


def test_a_race_for_the_last_count_is_lost_quietly(eventfds: Eventfds, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _value: int) -> None:
        raise BlockingIOError

    (eventfd,) = eventfds.adopt([os.eventfd(0)])
    monkeypatch.setattr(os, "eventfd_write", full)
    eventfd.signal()
    eventfd.close()


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
