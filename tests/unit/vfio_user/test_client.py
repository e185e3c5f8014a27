"""The client: connecting, being refused, and servers that misbehave."""

import os
import select
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mdev_user.errors import DmaFault, PeerError
from mdev_user.vfio_user.client import Client, NoMemory
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.framing import HEADER, Command, Header, command_message, error_message, reply_message
from mdev_user.vfio_user.messages import DeviceReset, DmaRead
from mdev_user.vfio_user.version import Version
from protocol.served import open_fds

Script = Callable[[Header, bytes], bytes]


class ScriptedServer:
    """Answers every message by what a function says; VERSION well, unless the function says otherwise."""

    def __init__(self, script: Script, fd: int = -1) -> None:
        self.folder = Path(tempfile.mkdtemp(dir="/tmp"))
        self.path = self.folder / "s"
        self.script = script
        self.fd = fd
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(1)
        self.listener.settimeout(10)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        connection, _ = self.listener.accept()
        connection.settimeout(10)
        with connection:
            while head := connection.recv(HEADER.size):
                header = Header.decode(head)
                payload = connection.recv(header.size - HEADER.size) if header.size > HEADER.size else b""
                reply = self.script(header, payload)
                if not reply:
                    return
                fds = [self.fd] if self.fd >= 0 and header.command != Command.VERSION else []
                socket.send_fds(connection, [reply], fds)

    def close(self) -> None:
        self.thread.join(10)
        self.listener.close()
        shutil.rmtree(self.folder)


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedServer]]:
    servers: list[ScriptedServer] = []

    def start(script: Script, fd: int = -1) -> ScriptedServer:
        servers.append(ScriptedServer(script, fd))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def polite(answer: Script) -> Script:
    def script(header: Header, payload: bytes) -> bytes:
        if header.command == Command.VERSION:
            return reply_message(header.id, header.command, Version().encode())
        return answer(header, payload)

    return script


def test_nobody_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Client(tmp_path / "nobody")


def test_a_context_closes_the_connection(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(polite(lambda header, _payload: reply_message(header.id, header.command)))
    with Client(server.path, timeout=10) as client:
        client.reset()
    assert client.socket.fileno() == -1


def test_a_refused_version_is_the_servers_errno(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(lambda header, _payload: error_message(header.id, header.command, 13))
    with pytest.raises(RemoteError, match="VERSION") as refused:
        Client(server.path, timeout=10)
    assert refused.value.errno == 13


def test_a_bad_version_is_said(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(lambda header, _payload: reply_message(header.id, header.command, b"\7\0\0\0"))
    with pytest.raises(Exception, match=r"VERSION 7\.0"):
        Client(server.path, timeout=10)


def test_a_server_that_closes_is_a_connection_error(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(polite(lambda _header, _payload: b""))
    client = Client(server.path, timeout=10)
    with pytest.raises(ConnectionResetError, match="closed"):
        client.reset()
    client.close()


def test_a_server_that_says_nothing_is_a_timeout(scripted: Callable[..., ScriptedServer]) -> None:
    released = threading.Event()

    def silent(_header: Header, _payload: bytes) -> bytes:
        released.wait(10)
        return b""

    with Client(scripted(polite(silent)).path, timeout=0.1) as client:
        with pytest.raises(TimeoutError):
            client.reset()
        released.set()


def test_a_reply_that_is_none_is_said(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(polite(lambda header, _payload: reply_message(header.id, header.command, b"abc")))
    with Client(server.path, timeout=10) as client, pytest.raises(PeerError, match="reply to DEVICE_GET_INFO"):
        client.device_info()


def test_a_reply_to_another_is_said(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(polite(lambda header, _payload: reply_message(header.id + 1, header.command)))
    with Client(server.path, timeout=10) as client, pytest.raises(PeerError, match="nobody asked for"):
        client.reset()


def test_fds_that_come_uncalled_are_closed(scripted: Callable[..., ScriptedServer]) -> None:
    fd = os.eventfd(0)
    server = scripted(polite(lambda header, _payload: reply_message(header.id, header.command)), fd)
    with Client(server.path, timeout=10) as client:
        before = open_fds()
        with pytest.raises(PeerError, match="file descriptors"):
            client.reset()
        assert open_fds() == before
    os.close(fd)


def test_file_descriptors_for_parts_of_a_region_are_counted_and_closed(scripted: Callable[..., ScriptedServer]) -> None:
    """As a server of libvfio-user's offers them, 48 bytes each."""
    fd = os.eventfd(0)
    offer = struct.pack("=IIII", 16 + 48, 0, 0, 1) + bytes(48)
    server = scripted(polite(lambda header, _payload: reply_message(header.id, header.command, offer)), fd)
    with Client(server.path, timeout=10) as client:
        before = open_fds()
        assert client.region_io_fds(0) == 1
        assert open_fds() == before
    os.close(fd)


FEATURE_REPLIES = {
    "no data": b"",
    "too little": bytes(7),
    "no state": struct.pack("=Ii", 99, -1),
}


@pytest.mark.parametrize("name", FEATURE_REPLIES)
def test_a_feature_that_tells_nonsense_is_the_servers_fault(scripted: Callable[..., ScriptedServer], name: str) -> None:
    def tell(header: Header, payload: bytes) -> bytes:
        return reply_message(header.id, header.command, payload[:8] + FEATURE_REPLIES[name])

    with Client(scripted(polite(tell)).path, timeout=10) as client, pytest.raises(PeerError, match="DEVICE_FEATURE"):
        client.migration_state()


def test_a_bitmap_of_the_wrong_size_is_the_servers_fault(scripted: Callable[..., ScriptedServer]) -> None:
    def tell(header: Header, payload: bytes) -> bytes:
        return reply_message(header.id, header.command, payload + bytes(7))

    with Client(scripted(polite(tell)).path, timeout=10) as client, pytest.raises(PeerError, match="bitmap"):
        client.report_dma_logging(0, 4096, 4096)


def test_a_region_that_claims_endless_information_is_not_asked_again(scripted: Callable[..., ScriptedServer]) -> None:
    asked = []

    def endless(header: Header, payload: bytes) -> bytes:
        asked.append(payload)
        return reply_message(header.id, header.command, b"\xff\xff\xff\xff" + payload[4:])

    with Client(scripted(polite(endless)).path, timeout=10) as client:
        assert client.region_info(0).fd == -1
    assert len(asked) == 1


def test_a_reply_while_serving_is_refused(scripted: Callable[..., ScriptedServer]) -> None:
    server = scripted(polite(lambda header, _payload: reply_message(header.id, header.command) * 2))
    with Client(server.path, timeout=10) as client:
        client.reset()
        with pytest.raises(PeerError, match="nobody asked for"):
            client.serve()


def test_what_comes_behind_a_reply_leaves_the_socket_readable(scripted: Callable[..., ScriptedServer]) -> None:
    """Whoever waits for the socket serves it: a request that the client kept to itself nobody would answer."""
    asks = command_message(7, Command.DMA_READ, DmaRead(0x1000, 4).encode())
    heard: list[Header] = []

    def script(header: Header, _payload: bytes) -> bytes:
        heard.append(header)
        return b"" if header.command == Command.DMA_READ else reply_message(header.id, header.command) + asks

    server = scripted(polite(script))
    with Client(server.path, timeout=10) as client:
        client.reset()
        assert select.select([client.socket], [], [], 10)[0]
        client.serve()
        while len(heard) < 2:
            time.sleep(0.001)
    assert (heard[1].id, heard[1].command, heard[1].failed) == (7, Command.DMA_READ, True)


def test_a_client_without_memory_has_none() -> None:
    memory = NoMemory()
    with pytest.raises(DmaFault):
        memory.read(0, 4)
    with pytest.raises(DmaFault):
        memory.write(0, b"abcd")


def test_an_answer_in_place_of_a_question_is_said(scripted: Callable[..., ScriptedServer]) -> None:
    """Two requests are under way, by hand: the answer to one comes while the client serves."""
    server = scripted(polite(lambda header, _payload: reply_message(header.id, header.command)))
    with Client(server.path, timeout=10) as client:
        client.socket.sendall(client.connection.ask(DeviceReset())[1])
        with pytest.raises(PeerError, match="nobody waits for"):
            client.serve()
