"""The poll thread: who is called when, and that one bad callback ends nothing."""

import logging
import os
import select
from collections.abc import Iterator

import pytest

from mdev_user.host.poll import PollThread
from unit.host.parts import eventually


@pytest.fixture
def poll() -> Iterator[PollThread]:
    thread = PollThread()
    yield thread
    thread.stop()


@pytest.fixture
def eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def test_a_readable_fd_calls_back(poll: PollThread, eventfd: int) -> None:
    values: list[int] = []
    poll.add(eventfd, lambda: values.append(os.eventfd_read(eventfd)))
    os.eventfd_write(eventfd, 3)
    eventually(lambda: values == [3])


def test_an_fd_that_was_removed_does_not_call_back(poll: PollThread, eventfd: int) -> None:
    values: list[int] = []
    poll.add(eventfd, lambda: values.append(1))
    poll.remove(eventfd)
    poll.remove(eventfd)  # twice is harmless
    os.eventfd_write(eventfd, 1)
    other = os.eventfd(1, os.EFD_CLOEXEC)
    poll.add(other, lambda: values.append(os.eventfd_read(other) + 1))
    eventually(lambda: values)
    poll.remove(other)
    os.close(other)
    assert values == [2]


def test_an_edge_is_told_once_for_each_signal_without_reading(poll: PollThread, eventfd: int) -> None:
    edges: list[int] = []
    poll.add(eventfd, lambda: edges.append(1), select.EPOLLIN | select.EPOLLET)
    for number in range(1, 4):
        os.eventfd_write(eventfd, 1)
        eventually(lambda number=number: len(edges) == number)  # type: ignore[misc]  # bound at once
    assert os.eventfd_read(eventfd) == 3


def test_a_callback_that_fails_does_not_end_the_thread(
    poll: PollThread, eventfd: int, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(os.eventfd_read(eventfd))
        raise ValueError("a bug")

    with caplog.at_level(logging.CRITICAL):
        poll.add(eventfd, fail)
        for number in range(1, 3):
            os.eventfd_write(eventfd, 1)
            eventually(lambda number=number: len(calls) == number)  # type: ignore[misc]  # bound at once


def test_stop_leaves_no_fd() -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - names are enough
    PollThread().stop()
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208 - names are enough
