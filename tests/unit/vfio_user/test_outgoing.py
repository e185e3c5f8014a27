"""What is sent at once, what waits, and in which order all of it leaves."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from typing_extensions import override

from mdev_user.vfio_user.outgoing import Outgoing
from mdev_user.vfio_user.token_lock import TokenLock


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    far.settimeout(10)
    with near, far:
        yield near, far


@pytest.fixture
def lock() -> TokenLock:
    return TokenLock()


def read(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        data += sock.recv(length - len(data))
    return data


def fill(sock: socket.socket) -> int:
    """Make the socket take nothing any more."""
    sent = 0
    try:
        while True:
            sent += sock.send(bytes(4096), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return sent


def test_a_message_leaves_at_once(ends: tuple[socket.socket, socket.socket], lock: TokenLock) -> None:
    outgoing = Outgoing(ends[0], lock)
    outgoing.send(b"message")
    assert not outgoing.waiting
    assert read(ends[1], 7) == b"message"
    outgoing.drain()
    outgoing.end()


def test_what_does_not_fit_waits_in_order_with_its_fds(
    ends: tuple[socket.socket, socket.socket], lock: TokenLock
) -> None:
    near, far = ends
    outgoing = Outgoing(near, lock)
    filled = fill(near)
    fd = os.eventfd(0)
    outgoing.send(b"first")
    outgoing.send_with(b"second", (fd,))
    outgoing.send(b"third")
    assert len(outgoing.waiting) == 3
    outgoing.drain_in_background()
    outgoing.drain_in_background()
    assert read(far, filled + 5).endswith(b"first")
    message, fds, _flags, _ = socket.recv_fds(far, 6, 4)
    assert message == b"second"
    assert read(far, 5) == b"third"
    outgoing.end()
    assert not outgoing.waiting
    for each in (fd, *fds):
        os.close(each)


def test_a_message_with_an_fd_that_does_not_fit_waits_whole(
    ends: tuple[socket.socket, socket.socket], lock: TokenLock
) -> None:
    near, _far = ends
    outgoing = Outgoing(near, lock)
    fill(near)
    outgoing.send_with(b"message", (0,))
    ((message, fds),) = outgoing.waiting
    assert (bytes(message), fds) == (b"message", (0,))


def test_fds_travel_once_with_the_first_bytes(ends: tuple[socket.socket, socket.socket], lock: TokenLock) -> None:
    near, far = ends
    outgoing = Outgoing(near, lock)
    fd = os.eventfd(0)
    outgoing.send_with(bytes(1 << 20), (fd,))
    assert outgoing.waiting[0][1] == ()
    outgoing.drain_in_background()
    _message, fds, _flags, _ = socket.recv_fds(far, 1, 4)
    read(far, (1 << 20) - 1)
    outgoing.end()
    assert len(fds) == 1
    for each in (fd, *fds):
        os.close(each)


class EndsLate(threading.Thread):
    """Alive for a while after it has done its work."""

    late = threading.Event()

    @override
    def run(self) -> None:
        super().run()
        self.late.wait(10)


def test_what_is_left_when_the_background_is_about_to_end_is_sent_too(
    ends: tuple[socket.socket, socket.socket], lock: TokenLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = ends
    outgoing = Outgoing(near, lock)
    monkeypatch.setattr("mdev_user.vfio_user.outgoing.Thread", EndsLate)
    try:
        for message in (b"first", b"second"):
            filled = fill(near)
            with lock:
                outgoing.send(message)
                outgoing.drain_in_background()
            assert read(far, filled + len(message)).endswith(message)
    finally:
        EndsLate.late.set()
    outgoing.end()


def test_a_peer_that_is_gone_ends_the_background(ends: tuple[socket.socket, socket.socket], lock: TokenLock) -> None:
    near, far = ends
    outgoing = Outgoing(near, lock)
    fill(near)
    outgoing.send(b"message")
    outgoing.drain_in_background()
    far.close()
    outgoing.end()
    with pytest.raises(BrokenPipeError):
        outgoing.send(b"message")
