"""The system calls of a test program (program.c), as typed calls of Python; the addresses are the program's own."""

import os
import select
import socket
import struct
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import EAGAIN, errorcode
from pathlib import Path
from typing import IO

from typing_extensions import override

from uapi import numbers

SECONDS = 60.0
"""How long one answer may take, on a machine that is busy with others."""
BAD_POINTER = 8
_CHUNK = 1 << 16
_SCRATCH = 1 << 19
"""Bytes of the program's own memory for the arguments of one call; the rest is for `Calls.place`."""


@dataclass(frozen=True)
class Result:
    """What a system call returned: -1 with the name of the errno, or what else and None; and the bytes it left."""

    rc: int
    errno: str | None = None
    data: bytes = b""

    @property
    def ok(self) -> int:
        """``rc``, of a call that must not fail."""
        assert self.errno is None, self
        return self.rc


class ProgramEnded(Exception):
    """There is no answer: the program, or `run` before it, came to an end. The message has its stderr."""


class Calls:
    """One process that is told which system calls to make. ``folder``: where the FIFOs to its children may be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[Child] = []

    @property
    def stderr(self) -> str:
        """What the process complained of so far."""
        raise NotImplementedError

    # --- the conversation ---------------------------------------------------------------------------------------

    def _attach(self, to: IO[bytes], source: IO[bytes]) -> None:
        self._to, self._from = to, source
        self._greeted()

    def _greeted(self) -> None:
        word, start, size = self._heard().split()
        assert word == "ready"
        self._memory, self._free = int(start), int(start) + _SCRATCH
        self._end_of_memory = int(start) + int(size)

    def _told(self, line: str) -> str:
        data = f"{line}\n".encode()
        try:
            while data:  # the pipe's other end is unbuffered, and a pipe takes 64 KiB
                data = data[os.write(self._to.fileno(), data) :]
        except BrokenPipeError:
            raise ProgramEnded(self.stderr) from None
        return self._heard()

    def _heard(self) -> str:
        text = b""
        while not text.endswith(b"\n"):
            if not select.select([self._from], [], [], SECONDS)[0]:
                raise TimeoutError(f"no answer within {SECONDS:.0f} s; so far: {text!r}; {self.stderr}")
            more = os.read(self._from.fileno(), _CHUNK)
            if not more:
                raise ProgramEnded(self.stderr)
            text += more
        return text.decode()

    def call(self, number: int, *arguments: int) -> Result:
        """Any system call."""
        rc, error = self._told(f"call {number} {_words(arguments)}").split()
        return _result(int(rc), int(error))

    def many(self, count: int, number: int, *arguments: int) -> tuple[int, str | None]:
        """The same call ``count`` times without asking back: how many did not fail, and the last errno."""
        well, error = self._told(f"many {count} {number} {_words(arguments)}").split()
        return int(well), errorcode.get(int(error))

    def poke(self, address: int, data: bytes) -> None:
        """Store bytes, by plain stores of the program."""
        for at in range(0, len(data), _CHUNK):
            self._told(f"poke {address + at} {data[at : at + _CHUNK].hex()}")

    def peek(self, address: int, count: int) -> bytes:
        parts = [self._told(f"peek {address + at} {min(_CHUNK, count - at)}").strip() for at in range(0, count, _CHUNK)]
        return bytes.fromhex("".join(parts))

    def load(self, width: int, address: int) -> int:
        """One load of 1, 2, 4 or 8 bytes."""
        return int(self._told(f"load {width} {address}"))

    def store(self, width: int, address: int, value: int) -> None:
        self._told(f"store {width} {address} {value}")

    def place(self, data: bytes) -> int:
        """The address of a copy of ``data`` in the program's own memory, which nothing else uses."""
        address = self._free
        self._free += -(-len(data) // 16) * 16
        assert self._free <= self._end_of_memory
        self.poke(address, data)
        return address

    def _lent(self, data: bytes) -> int:
        """An address for the time of one call."""
        assert len(data) <= _SCRATCH
        self.poke(self._memory, data)
        return self._memory

    # --- files --------------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int = os.O_RDWR) -> Result:
        return self.call(numbers.OPEN, self._lent(f"{path}\0".encode()), flags, 0o600)

    def openat(self, folder: int, path: str, flags: int = os.O_RDWR) -> Result:
        return self.call(numbers.OPENAT, folder, self._lent(f"{path}\0".encode()), flags, 0o600)

    def openat2(self, folder: int, path: str, flags: int = os.O_RDWR, resolve: int = 0) -> Result:
        how = struct.pack("<QQQ", flags, 0, resolve)
        address = self._lent(how + f"{path}\0".encode())
        return self.call(numbers.OPENAT2, folder, address + len(how), address, len(how))

    def close(self, fd: int) -> Result:
        return self.call(numbers.CLOSE, fd)

    def ioctl(self, fd: int, number: int, argument: int | bytes = 0) -> Result:
        """``argument``: the number itself, or the bytes it leads to; ``data`` is then what is there afterwards."""
        if isinstance(argument, int):
            return self.call(numbers.IOCTL, fd, number, argument)
        return self._with_data(len(argument), numbers.IOCTL, fd, number, self._lent(argument))

    def read(self, fd: int, count: int, fill: int = 0) -> Result:
        """``data`` is the whole buffer, in which every byte was ``fill``."""
        return self._with_data(count, numbers.READ, fd, self._lent(bytes([fill]) * count), count)

    def pread(self, fd: int, count: int, offset: int, fill: int = 0) -> Result:
        return self._with_data(count, numbers.PREAD64, fd, self._lent(bytes([fill]) * count), count, offset)

    def write(self, fd: int, data: bytes) -> Result:
        return self.call(numbers.WRITE, fd, self._lent(data), len(data))

    def pwrite(self, fd: int, data: bytes, offset: int) -> Result:
        return self.call(numbers.PWRITE64, fd, self._lent(data), len(data), offset)

    def preadv(self, fd: int, counts: Sequence[int], offset: int) -> Result:
        """``data`` is the buffers, one after the other."""
        vector = self._vector([bytes(count) for count in counts])
        done = self.call(numbers.PREADV, fd, self._memory, len(counts), offset, 0)
        return Result(done.rc, done.errno, self.peek(self._memory + vector, sum(counts)))

    def pwritev(self, fd: int, parts: Sequence[bytes], offset: int) -> Result:
        self._vector(parts)
        return self.call(numbers.PWRITEV, fd, self._memory, len(parts), offset, 0)

    def _vector(self, parts: Sequence[bytes]) -> int:
        """Lend an iovec and what it points at, in this order; the size of the iovec."""
        size, at, table = 16 * len(parts), 16 * len(parts), b""
        for part in parts:
            table += struct.pack("<QQ", self._memory + at, len(part))
            at += len(part)
        self._lent(table + b"".join(parts))
        return size

    def lseek(self, fd: int, offset: int, whence: int = os.SEEK_SET) -> Result:
        return self.call(numbers.LSEEK, fd, offset, whence)

    def fstat(self, fd: int) -> Result:
        """``data`` is the struct stat; see `file_status`."""
        return self._with_data(_STAT.size, numbers.FSTAT, fd, self._lent(bytes(_STAT.size)))

    def stat(self, path: str) -> Result:
        data = bytes(_STAT.size) + f"{path}\0".encode()
        address = self._lent(data)
        return self._with_data(_STAT.size, numbers.NEWFSTATAT, _AT_FDCWD, address + _STAT.size, address, 0)

    def dup(self, fd: int) -> Result:
        return self.call(numbers.DUP, fd)

    def dup2(self, fd: int, other: int) -> Result:
        return self.call(numbers.DUP2, fd, other)

    def dup3(self, fd: int, other: int, flags: int = 0) -> Result:
        return self.call(numbers.DUP3, fd, other, flags)

    def fcntl(self, fd: int, number: int, argument: int = 0) -> Result:
        return self.call(numbers.FCNTL, fd, number, argument)

    # --- memory -------------------------------------------------------------------------------------------------

    def mmap(self, length: int, protection: int, flags: int, fd: int = -1, offset: int = 0) -> Result:
        """``rc`` is the address."""
        return self.call(numbers.MMAP, 0, length, protection, flags, fd, offset)

    def munmap(self, address: int, length: int) -> Result:
        return self.call(numbers.MUNMAP, address, length)

    def anonymous(self, size: int) -> int:
        """The address of private memory of its own."""
        return self.mmap(size, numbers.PROT_READ_WRITE, numbers.MAP_PRIVATE | numbers.MAP_ANONYMOUS).ok

    def memfd(self, size: int) -> tuple[int, int]:
        """A memfd and the address where all of it is mapped shared."""
        fd = self.call(numbers.MEMFD_CREATE, self._lent(b"test\0"), 0).ok
        _ = self.call(numbers.FTRUNCATE, fd, size).ok
        return fd, self.mmap(size, numbers.PROT_READ_WRITE, numbers.MAP_SHARED, fd).ok

    # --- eventfds, sockets, processes ---------------------------------------------------------------------------

    def eventfd(self, initial: int = 0, flags: int = os.EFD_NONBLOCK) -> int:
        return self.call(numbers.EVENTFD2, initial, flags).ok

    def count(self, eventfd: int) -> int:
        """What a non-blocking eventfd has counted since it was asked last."""
        got = self.read(eventfd, 8)
        return 0 if got.errno == errorcode[EAGAIN] else int.from_bytes(got.data[: got.ok], "little")

    def counts_to(self, eventfd: int, seconds: float = SECONDS) -> int:
        """As `count`, of an eventfd that will count within ``seconds``; else 0."""
        wanted = struct.pack("<ihh", eventfd, select.POLLIN, 0)
        _ = self.call(numbers.POLL, self._lent(wanted), 1, int(seconds * 1000)).ok
        return self.count(eventfd)

    def socketpair(self) -> tuple[int, int]:
        address = self._lent(bytes(8))
        done = self._with_data(8, numbers.SOCKETPAIR, socket.AF_UNIX, socket.SOCK_STREAM, 0, address)
        assert done.errno is None, done
        first, second = struct.unpack("<ii", done.data)
        return first, second

    def send_fd(self, sock: int, fd: int) -> Result:
        """SCM_RIGHTS with one byte."""
        return self.call(numbers.SENDMSG, sock, self._message(fd), 0)

    def receive_fd(self, sock: int) -> int:
        """The number under which a descriptor came."""
        address = self._message(-1)
        _ = self.call(numbers.RECVMSG, sock, address, 0).ok
        fd = int.from_bytes(self.peek(address + _FD_AT, 4), "little", signed=True)
        assert fd >= 0, "no descriptor came"
        return fd

    def _message(self, fd: int) -> int:
        start = self._memory
        header = struct.pack("<QIxxxxQQQQIxxxx", 0, 0, start + _VECTOR_AT, 1, start + _CONTROL_AT, 24, 0)
        vector = struct.pack("<QQ", start + _BYTE_AT, 1)
        control = struct.pack("<QIIixxxx", 20, socket.SOL_SOCKET, socket.SCM_RIGHTS, fd)
        return self._lent(header + vector + control + b"x")

    def fork(self) -> "Child":
        """A child, which makes calls as this does, until it is closed."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        folder.chmod(0o711)
        paths = folder / "in", folder / "out"
        for path in paths:
            os.mkfifo(path)
            path.chmod(0o666)
        pid, error = (int(word) for word in self._told(f"fork {paths[0]} {paths[1]}").split())
        assert pid > 0, os.strerror(error)
        child = Child(self, pid, *paths)
        self._children.append(child)
        return child

    def _close_children(self) -> None:
        for each in self._children:
            each.close_child()

    def execute(self) -> None:
        """execve(2) of itself: what has no O_CLOEXEC stays open."""
        path = self.place(b"/proc/self/exe\0")
        table = self.place(struct.pack("<QQ", path, 0))
        self._told_to_become(f"call {numbers.EXECVE} {_words((path, table, table + 8))}")

    def _told_to_become(self, line: str) -> None:
        os.write(self._to.fileno(), f"{line}\n".encode())
        self._greeted()

    def _with_data(self, count: int, number: int, *arguments: int) -> Result:
        """A call, and what is in the first ``count`` bytes of its lent memory afterwards."""
        done = self.call(number, *arguments)
        return Result(done.rc, done.errno, self.peek(self._memory, count))


class Child(Calls):
    """A child of the program; it ends when it is closed, or its parent is left."""

    def __init__(self, parent: Calls, pid: int, to: Path, source: Path) -> None:
        super().__init__(to.parent)
        self._parent, self.pid = parent, pid
        self._closed = False
        self._attach(to.open("wb", buffering=0), source.open("rb", buffering=0))

    @property
    @override
    def stderr(self) -> str:
        return self._parent.stderr

    def close_child(self) -> None:
        """Let it exit, and have its parent wait for it."""
        if self._closed:
            return
        self._closed = True
        self._close_children()
        self._to.close()
        self._from.close()
        with suppress(ProgramEnded):
            _ = self._parent.call(numbers.WAIT4, self.pid, 0, 0, 0)


def file_status(data: bytes) -> tuple[int, int, int, int]:
    """Of a struct stat: mode, uid, gid, rdev."""
    fields = _STAT.unpack(data)
    return fields[3], fields[4], fields[5], fields[6]


_STAT = struct.Struct("<QQQIIIxxxxQqqq9Q")
"""struct stat of x86-64: dev, ino, nlink, mode, uid, gid, rdev, size, ... (arch/x86/include/uapi/asm/stat.h)"""
_AT_FDCWD = -100
_VECTOR_AT, _CONTROL_AT, _BYTE_AT = 56, 72, 96
_FD_AT = _CONTROL_AT + 16


def _words(arguments: Sequence[int]) -> str:
    given = [each & 0xFFFFFFFFFFFFFFFF for each in arguments]
    return " ".join(map(str, [*given, *[0] * (6 - len(given))]))


def _result(rc: int, error: int) -> Result:
    return Result(rc, errorcode.get(error, str(error)) if rc == -1 else None)
