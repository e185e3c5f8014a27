"""A process with a renderer, for tests: calls go in by a pipe, and what comes of them, or its end, comes out.

``python child.py FD MEMORY`` performs what is asked on the pipe FD with the file MEMORY as the guest's memory.
"""

import os
import pickle  # noqa: TID251 - between a test and its own child
import select
import subprocess
import sys
from collections.abc import Callable
from mmap import mmap
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mdev_user.driver import GuestError, NotSupported
from mdev_user.drivers.vgpu.virgl.binding import Library, address_of
from mdev_user.drivers.vgpu.virgl.renderer import Renderer

SIZE = 16 << 20
PATIENCE = 60


class Gone(Exception):
    """The process has ended, with this exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the renderer's process has ended with {status}")
        self.status = status


class Child:
    """The renderer as if it were here; addresses are offsets in ``memory``."""

    def __init__(self) -> None:
        fd = os.memfd_create("virgl-test")
        os.ftruncate(fd, SIZE)
        self.memory = mmap(fd, SIZE)
        self._pipe, theirs = Pipe()
        command = [sys.executable, __file__, str(theirs.fileno()), str(fd)]
        self.process = subprocess.Popen(command, pass_fds=(theirs.fileno(), fd))
        theirs.close()
        os.close(fd)
        self.capsets = self("capsets")

    def __call__(self, method: str, *arguments: object) -> Any:
        """Call a method of the renderer's. GuestError for what it refuses, Gone when it dies of it."""
        self._pipe.send_bytes(pickle.dumps((method, arguments)))
        if not self._pipe.poll(PATIENCE):
            raise TimeoutError(f"{method}{arguments}")
        try:
            outcome = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            raise Gone(self.process.wait(PATIENCE)) from None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self._pipe.close()
        self.memory.close()


class _Calls:
    """What is called by name: the renderer's methods, and two that need this process' addresses or time."""

    def __init__(self, memory: mmap) -> None:
        self._renderer = Renderer(Library())
        self._address = address_of(memoryview(memory))
        self._others: dict[str, Callable[..., object]] = {
            "attach_pieces": self._attach_pieces,
            "picture": self._picture,
            "fences": self._fences,
            "resident": lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096,
            "exit": os._exit,
        }

    def call(self, method: str, arguments: tuple[Any, ...]) -> object:
        try:
            return self._others.get(method, getattr(self._renderer, method, None))(*arguments)  # type: ignore[misc]  # one of them has it
        except GuestError as error:
            return error

    def _attach_pieces(self, resource: int, pieces: list[tuple[int, int]]) -> None:
        self._renderer.attach_pieces(resource, [(self._address + offset, length) for offset, length in pieces])

    def _picture(self, resource: int, box: tuple[int, ...], offset: int, length: int) -> int:
        return self._renderer.picture(resource, box, (self._address + offset, length))  # type: ignore[arg-type]  # a box's

    def _fences(self, count: int, after: str, *arguments: object) -> list[int]:
        """Make fences, each after a call, and wait for them: their numbers in the order in which they passed."""
        passed: list[int] = []
        for number in range(count):
            getattr(self._renderer, after)(*arguments)
            self._renderer.fence(lambda number=number: passed.append(number))  # type: ignore[misc]  # its own default
        while self._renderer.waits:
            if not select.select([self._renderer.fence_fd], [], [], PATIENCE)[0]:
                break
            self._renderer.poll()
        return passed


def _main() -> None:
    pipe, memory = Connection(int(sys.argv[1])), mmap(int(sys.argv[2]), SIZE)
    try:
        calls = _Calls(memory)
    except NotSupported as error:
        pipe.recv_bytes()
        pipe.send_bytes(pickle.dumps(error))
        return
    while True:
        try:
            method, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        pipe.send_bytes(pickle.dumps(calls.call(method, arguments)))


if __name__ == "__main__":
    _main()
