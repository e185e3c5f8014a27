"""A supervisor ends with its program and says what it failed with, and no device keeps it from answering calls."""

import fcntl
import select
import socket
import termios
from collections.abc import Iterator
from time import sleep

import pytest
from typing_extensions import override

from core import core_skip
from daemon.support import eventually
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.client import NoMemory
from mdev_user.vfio_user.framing import NO_REPLY, Command, command_message
from mdev_user.vfio_user.loops import CHOICE, why_not_native
from unit.uapi.traced import PATIENCE, Traced

OPEN = "os.close(os.open(os.devnull, os.O_RDWR)) or 5"


@pytest.fixture(params=["python", "native"])
def traced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    name: str = request.param
    if name == "native" and (absent := why_not_native()):
        core_skip(absent)
    monkeypatch.setenv(CHOICE, name)
    traced = Traced()
    yield traced
    traced.close()


def test_a_program_ends_its_supervisor_whatever_that_waits_for(traced: Traced) -> None:
    """One that is killed while the supervisor waits: for a server, for a file system, or for a mistake of its own."""
    with traced.supervisor.tables:
        assert traced.ask("os.close(4000) or os.close(fd) or 1") == 1  # a release is due, which waits for this lock
        traced.process.kill()
        traced.process.wait(PATIENCE)
        traced.thread.join(PATIENCE)
        assert not traced.thread.is_alive()


class SlowMemory(NoMemory):
    """Counts what a device asked for."""

    def __init__(self) -> None:
        self.asked = 0

    @override
    def write(self, address: int, data: bytes) -> None:
        self.asked += 1
        sleep(0.002)


def listening(traced: Traced) -> SlowMemory:
    memory = traced.device.client.memory = SlowMemory()
    with traced.supervisor.tables:
        traced.device.listen(wanted=True)
    return memory


def server_of(traced: Traced) -> socket.socket:
    return traced.served.session._socket


DMA_WRITE = command_message(7, Command.DMA_WRITE, m.DmaWrite(0, b"8 bytes.").encode(), NO_REPLY)


def unread(sock: socket.socket) -> int:
    """Bytes that its peer has not read yet."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), "little")


def test_a_server_that_says_half_of_something_does_not_delay_calls(traced: Traced) -> None:
    memory, server = listening(traced), server_of(traced)
    server.send(DMA_WRITE[:20])
    eventually(lambda: not unread(server), "the first half is read")
    traced.begin(OPEN)
    assert traced.process.stdout is not None
    in_time = select.select([traced.process.stdout], [], [], PATIENCE / 2)[0]
    server.send(DMA_WRITE[20:])
    assert in_time
    assert traced.answer() == 5
    eventually(lambda: memory.asked == 1, "the second half is read")


def test_a_device_that_asks_without_end_does_not_delay_calls(traced: Traced) -> None:
    count = 200
    memory = listening(traced)
    server_of(traced).sendall(DMA_WRITE * count)
    for _ in range(3):
        assert traced.ask(OPEN) == 5
    assert memory.asked < count
    eventually(lambda: memory.asked == count, "everything is answered")
