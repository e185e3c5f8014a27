"""Files of a client whose file system is the client itself, and does not answer: nobody waits for it."""

import os
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from errno import EINVAL
from pathlib import Path

import pytest

from core import core_skip
from mdev_user.sysfs import mountpoint
from mdev_user.vfio_user import transport
from mdev_user.vfio_user.framing import Command, command_message
from protocol.served import Served, Wire
from protocol.test_sending import until


def map_at(page: int) -> bytes:
    return struct.pack("=IIQQQ", 32, 3, 0, page << 12, 4096)


MAP = map_at(0)


class StrangeFile:
    """A file in FUSE that nobody serves any more once it is open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        program = str(Path(__file__).with_name("unanswering.py"))
        self._server = subprocess.Popen([sys.executable, program, str(folder)], stdout=subprocess.PIPE)
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"mounted\n"
        self.fd = os.open(folder / "file", os.O_RDWR | os.O_CLOEXEC)

    def end(self) -> None:
        """With its server the file system is gone, and whoever waits for it goes on."""
        if self._server.poll() is None:
            self._server.kill()
            self._server.communicate()
            with suppress(OSError):  # ENOTCONN: its file system is gone
                os.close(self.fd)
            mountpoint.detach(self._folder)


@pytest.fixture
def strange() -> Iterator[StrangeFile]:
    if os.getuid() != 0 or not Path("/dev/fuse").exists():
        core_skip("a file system of one's own takes root and /dev/fuse here")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        file = StrangeFile(Path(name))
        try:
            yield file
        finally:
            file.end()
            until(lambda: not closers())


@pytest.fixture(autouse=True)
def no_fd_is_left(strange: StrangeFile) -> None:
    """Instead of the other tests': here one is left until its file system is gone."""


def free(served: Served) -> bool:
    """Whether the step lock is to be had soon."""
    taken = served.step_lock.acquire(timeout=0.3)
    if taken:
        served.step_lock.release()
    return taken


def closers() -> int:
    return sum(each.name == "close" for each in threading.enumerate())


def test_memory_in_such_a_file_is_asked_for_by_messages(strange: StrangeFile) -> None:
    with Served() as served:
        wire = Wire(served.socket)
        wire.hello()
        for number in range(transport._MOST_CLOSING):
            assert not wire.ask(Command.DMA_MAP, map_at(number), [strange.fd]).errno
            assert closers() == number + 1
        assert wire.works()
        assert all(each.backing is None for each in served.device.dma)


def test_it_is_closed_elsewhere_with_any_message(strange: StrangeFile) -> None:
    with Served() as served:
        wire = Wire(served.socket)
        wire.hello()
        assert wire.ask(Command.DEVICE_RESET, b"", [strange.fd] * 16).errno == EINVAL
        assert closers() == 1
        assert wire.works()
        wire.send(command_message(1, Command.DMA_MAP, MAP)[:9], [strange.fd])
        served.session.close("removed by force")
        assert served.ended() == "removed by force"


def test_without_that_the_device_would_wait_for_its_client(
    strange: StrangeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: with a plain close the step lock is held for as long as the client likes."""
    monkeypatch.setattr(transport, "_may_wait", lambda _number: False)
    with Served() as served:
        wire = Wire(served.socket)
        wire.hello()
        wire.send(command_message(1, Command.DMA_MAP, MAP), [strange.fd])
        until(lambda: not free(served))
        strange.end()
        assert not wire.receive().errno


def test_threads_that_wait_have_an_end(strange: StrangeFile) -> None:
    """Then the one that closes waits: the thread of the client who sent it."""
    with Served() as served:
        wire = Wire(served.socket)
        wire.hello()
        for _ in range(transport._MOST_CLOSING + 3):
            wire.send(command_message(1, Command.DMA_MAP, MAP), [strange.fd])
        until(lambda: closers() == transport._MOST_CLOSING)
        strange.end()
        until(lambda: not closers())
        assert not wire.receive().errno
