"""How a connection ends: the peer hears an errno, or reads its end, and is never reset."""

import errno
import socket
import time
from collections.abc import Callable, Iterator
from threading import Thread

import pytest

from mdev_user.vfio_user import farewell
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.framing import HEADER, command_message
from mdev_user.vfio_user.transport import send_all

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Our end, and the peer's."""
    ours, peers = socket.socketpair()
    with ours, peers:
        yield ours, peers


def left_unread(pair: Pair, close: Callable[[socket.socket], object]) -> bytes:
    """What the peer reads at the end of a connection in which something of its own was not read."""
    ours, peers = pair
    send_all(peers, command_message(1, 9, bytes(100)), [peers.fileno()])
    ours.shutdown(socket.SHUT_RDWR)
    close(ours)
    return peers.recv(1)


def test_the_peer_is_not_reset(pair: Pair) -> None:
    assert left_unread(pair, farewell.close) == b""
    with pytest.raises(BrokenPipeError):
        pair[1].send(b"more")


def test_it_would_be_reset(pair: Pair) -> None:
    """The negative control: at which QEMU aborts."""
    with pytest.raises(ConnectionResetError):
        left_unread(pair, socket.socket.close)


def test_who_is_refused_hears_why(pair: Pair) -> None:
    ours, peers = pair
    refusing = Thread(target=farewell.refuse, args=(ours, errno.EBUSY))
    refusing.start()
    with pytest.raises(RemoteError, match="refused VERSION") as refused:
        Client.over(peers)
    assert refused.value.errno == errno.EBUSY
    refusing.join(60)


@pytest.mark.parametrize("said", [b"", bytes(HEADER.size - 1)])
def test_who_says_nothing_is_not_waited_for(pair: Pair, said: bytes) -> None:
    ours, peers = pair
    peers.send(said)
    began = time.monotonic()
    farewell.refuse(ours, errno.EBUSY)
    assert time.monotonic() - began < 10
    assert peers.recv(1) == b""


def test_who_is_gone_is_nobodys_trouble(pair: Pair) -> None:
    ours, peers = pair
    peers.close()
    farewell.refuse(ours, errno.EBUSY)
    assert ours.fileno() < 0
