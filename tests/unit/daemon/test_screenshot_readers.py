"""Clients that ask for screenshots and do not read them: a few pictures for a bounded time, and nobody else waits."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import UUID

import pytest
from typing_extensions import override

from mdev_user.daemon import control, sending
from mdev_user.daemon.client import Client
from mdev_user.daemon.png import Bytes, Png
from mdev_user.daemon.run_dir import RunDir
from mdev_user.units import MiB
from unit.daemon.fake_operations import USED, FakeOperations, served

READERS = 20
SIZE = 8 * MiB
REQUEST = b"GET /v1/mdevs/%s/screenshot HTTP/1.1\r\nHost: x\r\n\r\n" % str(USED).encode()


class LargePictures(FakeOperations):
    """Counts the pictures that are being looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.made = self.held = self.most = 0
        self._lock = threading.Lock()

    @override
    def screenshot(self, uuid: UUID, head: int, level: int, *, pointer: bool) -> Png:
        with self._lock:
            self.made += 1
            self.held += 1
            self.most = max(self.most, self.held)
        return Png(SIZE, self._pieces())

    def _pieces(self) -> Iterator[Bytes]:
        try:
            for _ in range(SIZE // MiB):
                yield bytes(MiB)
        finally:
            with self._lock:
                self.held -= 1


@pytest.fixture
def operations() -> LargePictures:
    return LargePictures()


def asking(run_dir: RunDir, request: bytes = REQUEST) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(str(run_dir.control))
    connection.sendall(request)
    return connection


def eventually(look: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize(("places", "most"), [(8, 8), (100, READERS)])
def test_who_does_not_read_holds_few_pictures(
    operations: LargePictures, monkeypatch: pytest.MonkeyPatch, places: int, most: int
) -> None:
    """Other requests are answered meanwhile. Without so few places, the second row, everybody holds one."""
    monkeypatch.setattr(control, "MOST_SENDING", places)
    with served(operations) as run_dir, ExitStack() as stack:
        for _ in range(READERS):
            stack.enter_context(asking(run_dir))
        eventually(lambda: operations.held == most)
        assert Client(run_dir).mdevs()
        assert operations.most == most
        stack.close()  # they hang up
        eventually(lambda: operations.held == 0)
        assert operations.most == most
        assert len(Client(run_dir).screenshot(USED)) == SIZE


def test_their_time_ends_and_they_are_hung_up_on(operations: LargePictures, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads has its turn then."""
    monkeypatch.setattr(sending, "SEND_SECONDS", 0.3)
    monkeypatch.setattr(control, "MOST_SENDING", 2)
    with served(operations) as run_dir, ExitStack() as stack:
        stuck = [stack.enter_context(asking(run_dir)) for _ in range(4)]
        assert len(Client(run_dir).screenshot(USED)) == SIZE
        eventually(lambda: operations.held == 0)
        for each in stuck:
            assert _received(each) < SIZE


def test_who_did_not_read_what_came_before_is_hung_up_on(
    operations: LargePictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture goes past the web server: it must not overtake an answer, nor be mixed with one."""
    with served(operations) as run_dir, asking(run_dir, REQUEST * 3) as connection:
        assert _received(connection) < SIZE + MiB
        eventually(lambda: operations.held == 0)


def test_daemon_that_ends_waits_for_no_reader(operations: LargePictures) -> None:
    with ExitStack() as stack:
        with served(operations) as run_dir:
            for _ in range(12):
                stack.enter_context(asking(run_dir))
            eventually(lambda: operations.held == 8)
            began = time.monotonic()
        assert time.monotonic() - began < sending.SEND_SECONDS / 2
    assert operations.held == 0


def _received(connection: socket.socket) -> int:
    """Bytes, until its end."""
    size = 0
    try:
        while data := connection.recv(MiB):
            size += len(data)
    except ConnectionResetError:
        pass
    return size


def test_who_reads_a_little_all_the_time_has_no_more_time(
    operations: LargePictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does he keep the thread from looking at the clock."""
    monkeypatch.setattr(sending, "SEND_SECONDS", 0.3)
    with served(operations) as run_dir, asking(run_dir) as connection:
        received, until = 0, time.monotonic() + 20
        while data := connection.recv(64 << 10):
            received += len(data)
            assert time.monotonic() < until
            time.sleep(0.02)  # 3 MiB in a second
        assert received < SIZE / 2
