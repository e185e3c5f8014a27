"""A program of a device's own, and the device: what the tests of processes have in common."""

import ctypes
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from typing_extensions import override

from mdev_user.driver import (
    RO,
    U32,
    WO,
    Bar,
    Function,
    GuestError,
    Parent,
    PciId,
    Pending,
    Pool,
    Process,
    ProcessEnded,
    Profile,
    Program,
    Session,
    job,
    on_write,
)
from mdev_user.units import MiB


class Summary(NamedTuple):
    pid: int
    text: str


class Renderer(Program):
    """Keeps a number, and does whatever a renderer may do wrong."""

    def __init__(self, first: int) -> None:
        self._total = first
        self._fences: list[Pending[int]] = []
        self._reader, self._writer = os.pipe()
        self.watch(self._reader, self._read)

    def add(self, number: int) -> int:
        self._total += number
        return self._total

    def summary(self) -> Summary:
        return Summary(os.getpid(), "summary")

    def fence(self) -> Pending[int]:
        self._fences.append(Pending[int]())
        return self._fences[-1]

    def signal_last(self, number: int) -> None:
        """Answered by the fence that was asked for last."""
        self._fences.pop().done(number)

    def signal_soon(self, seconds: float) -> None:
        self.after(seconds, lambda: self.signal_last(-1))

    def signal_by_pipe(self) -> None:
        os.write(self._writer, b"7")

    def refuse(self) -> None:
        raise GuestError("no such context")

    def refuse_fence(self) -> None:
        self._fences.pop().fail(GuestError("lost"))

    def fail(self) -> None:
        raise RuntimeError("a bug")

    def hang(self) -> None:
        while True:
            time.sleep(1)

    def leave(self, status: int) -> None:
        os._exit(status)

    @override
    def unmapped(self, address: int, length: int) -> None:
        if address == 0x30000:
            raise RuntimeError(f"{length} bytes are missed")

    def abort(self) -> None:
        os.abort()

    def touch_nothing(self) -> None:
        ctypes.string_at(0)

    def lie(self) -> int:
        """Its answer is not what it says."""
        return "text"  # type: ignore[return-value]  # as told

    def flood(self, size: int) -> bytes:
        return bytes(size)

    def say_to_host(self, data: bytes) -> None:
        os.write(int(sys.argv[1]), data)
        time.sleep(60)

    def spin(self, seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    def rest(self, seconds: float) -> None:
        time.sleep(seconds)

    def say_endlessly(self) -> None:
        while True:
            print("x" * 1000)

    def say(self, text: str) -> None:
        print(text)

    def read_guest(self, address: int, length: int) -> bytes:
        return b"".join(bytes(each.view) for each in self.memory.pieces(address, length))

    def write_guest(self, address: int, data: bytes) -> None:
        for piece in self.memory.pieces(address, len(data), write=True):
            piece.view[:] = data[: len(piece.view)]
            data = data[len(piece.view) :]

    def keep_writing(self, address: int) -> None:
        """As a renderer that does not forget what was unmapped."""
        (piece,) = self.memory.pieces(address, 4, write=True)
        threading.Thread(target=_write, args=(piece.view,), daemon=True).start()

    def paint(self, value: int) -> int:
        self.buffer[:] = bytes([value]) * len(self.buffer)
        return len(self.buffer)

    def attempt(self, what: str) -> str:
        """What comes of something that it is not allowed to do."""
        try:
            _ATTEMPTS[what]()
        except OSError as error:
            return type(error).__name__
        return "done"

    def allocate(self, size: int) -> int:
        try:
            return len(bytearray(size))
        except MemoryError:
            return -1

    def _read(self) -> None:
        self._fences.pop().done(int(os.read(self._reader, 1)))


def _write(view: memoryview) -> None:
    while True:
        view[:] = b"evil"
        time.sleep(0.0001)


_ATTEMPTS: dict[str, Callable[[], object]] = {
    "read a file": Path("/etc/passwd").read_bytes,
    "write a file": Path("/tmp/escaped").touch,
    "fork": lambda: os.fork() or os._exit(0),
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getppid(), 0),
    "connect": socket.socket,
    "thread": lambda: threading.Thread(target=int).start(),
}


class Regs(Bar, index=0, size=4096):
    number, fails = U32(0, WO), U32(4, WO)
    total, ended, told = U32(8, RO), U32(12, RO), U32(16, RO)


@dataclass(frozen=True)
class Slice(Profile):
    first: int
    buffer: int


class Card(Function[Slice]):
    """Adds up in its process what is written to it; ``results`` is for tests that ask by hand."""

    identity = PciId(vendor=0x1DE5, device=0x28, class_code=0x120000)
    regs = Regs()
    renderer = Process(
        Renderer,
        arguments=lambda profile: (profile.first,),
        memory=lambda _profile: 256 * MiB,
        buffer=lambda profile: profile.buffer,
        seconds=1.0,
        pending_seconds=2.0,
        largest=MiB,
    )
    results: Session[list[object]] = Session(list)

    @renderer.ended
    def renderer_ended(self, error: ProcessEnded) -> None:
        self.regs.ended += 1
        self.results.append(str(error))

    @on_write(Regs.number)
    def add(self, value: int) -> None:
        self.adding(value)

    @job(limit=1000)
    async def adding(self, value: int) -> None:
        self.regs.total = await self.renderer.call(Renderer.add, value)

    @on_write(Regs.fails)
    def fail(self, _value: int) -> None:
        self.failing()

    @job(limit=1000)
    async def failing(self) -> None:
        try:
            await self.renderer.call(Renderer.fail)
        except ProcessEnded:
            self.regs.told += 1
            raise

    @override
    def opened(self) -> None:
        self.results = []


class Cards(Parent[Slice]):
    function = Card
    first = Pool(1000)
    buffer = Pool(64 * MiB)
    types: ClassVar[Mapping[str, Slice]] = {"one": Slice(first=100, buffer=MiB)}  # type: ignore[misc]  # as Parent says
