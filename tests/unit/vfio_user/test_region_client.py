"""A region access of a client, lean; and what else a server may say while it is waited for."""

import socket
import threading
from collections.abc import Callable, Iterator
from errno import EPERM

import pytest

from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.commands import Role
from mdev_user.vfio_user.connection import Connection, Negotiated, RemoteError
from mdev_user.vfio_user.framing import Command, command_message, error_message, reply_message
from mdev_user.vfio_user.region_client import IDENTITY, RegionClient

REQUEST = 32
Answer = Callable[[socket.socket, bytes], None]


class Memory:
    def read(self, address: int, count: int) -> bytes:
        return bytes([address & 0xFF]) * count

    def write(self, address: int, data: bytes) -> None:
        raise NotImplementedError


class Wire:
    """A client whose server answers each access as the test says."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        ours.settimeout(10)
        greeter = threading.Thread(target=self._greet)
        greeter.start()
        self.client = Client.over(ours, Memory())
        greeter.join()
        ours.settimeout(None)
        self.peer.settimeout(10)
        self.lates = 0
        self.late = threading.Event()
        self.regions = RegionClient(self.client, self._late)
        self.threads: list[threading.Thread] = []

    def _greet(self) -> None:
        connection = Connection(Role.SERVER)
        event = None
        while event is None:
            connection.receive(self.peer.recv(4096))
            event = connection.next_event()
        assert isinstance(event, Negotiated)
        self.peer.sendall(event.reply)

    def _late(self) -> None:
        self.lates += 1
        self.late.set()

    def answers(self, answer: Answer) -> None:
        thread = threading.Thread(target=lambda: answer(self.peer, self.peer.recv(64)))
        thread.start()
        self.threads.append(thread)

    def close(self) -> None:
        for each in self.threads:
            each.join()
        self.client.close()
        self.peer.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


def good(peer: socket.socket, request: bytes, data: bytes = b"\x01\x02\x03\x04") -> None:
    peer.sendall(reply_message(IDENTITY, Command.REGION_READ, request[16:32] + data))


def test_a_read_gives_what_the_server_says(wire: Wire) -> None:
    wire.answers(good)
    assert wire.regions.read(2, 8, 4) == b"\x01\x02\x03\x04"
    assert not wire.lates


def test_a_write_says_what_it_is_given(wire: Wire) -> None:
    seen: list[bytes] = []

    def answer(peer: socket.socket, request: bytes) -> None:
        seen.append(request)
        peer.sendall(reply_message(IDENTITY, Command.REGION_WRITE, request[16:32]))

    wire.answers(answer)
    wire.regions.write(2, 8, b"abcd")
    assert seen == [command_message(IDENTITY, Command.REGION_WRITE, m.RegionWrite(8, 2, b"abcd").encode())]


def test_an_errno_of_the_server_is_raised(wire: Wire) -> None:
    wire.answers(lambda peer, _request: peer.sendall(error_message(IDENTITY, Command.REGION_READ, EPERM)))
    with pytest.raises(RemoteError) as raised:
        wire.regions.read(2, 8, 4)
    assert raised.value.errno == EPERM
    wire.answers(good)
    assert wire.regions.read(2, 8, 4) == b"\x01\x02\x03\x04"


def test_a_request_of_the_servers_in_between_is_served(wire: Wire) -> None:
    served: list[bytes] = []

    def answer(peer: socket.socket, request: bytes) -> None:
        peer.sendall(command_message(7, Command.DMA_READ, m.DmaRead(0x5A, 4).encode()))
        served.append(peer.recv(64)[-4:])
        good(peer, request)

    wire.answers(answer)
    assert wire.regions.read(2, 8, 4) == b"\x01\x02\x03\x04"
    assert served == [b"\x5a" * 4]


def test_a_reply_may_come_in_parts(wire: Wire) -> None:
    def answer(peer: socket.socket, request: bytes) -> None:
        reply = reply_message(IDENTITY, Command.REGION_READ, request[16:32] + b"abcd")
        peer.sendall(reply[:20])
        wire.late.wait(10)
        peer.sendall(reply[20:])

    wire.answers(answer)
    assert wire.regions.read(2, 8, 4) == b"abcd"


def test_a_slow_server_is_told_of_and_waited_for(wire: Wire) -> None:
    def answer(peer: socket.socket, request: bytes) -> None:
        wire.late.wait(10)
        good(peer, request)

    wire.answers(answer)
    assert wire.regions.read(2, 8, 4) == b"\x01\x02\x03\x04"
    assert wire.lates


def test_the_reply_to_another_access_is_not_taken(wire: Wire) -> None:
    wire.answers(lambda peer, request: good(peer, request[:16] + m.ACCESS.pack(12, 2, 4)))
    with pytest.raises(Exception, match="REGION_READ"):
        wire.regions.read(2, 8, 4)


def test_a_server_that_goes_is_an_error(wire: Wire) -> None:
    wire.answers(lambda peer, _request: peer.shutdown(socket.SHUT_RDWR))
    with pytest.raises(ConnectionResetError):
        wire.regions.read(2, 8, 4)
