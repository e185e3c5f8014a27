"""File descriptors that a peer may send: of what it should send, and of everything else that there is."""

import fcntl
import os
import select
import socket
import tempfile
from enum import IntEnum, auto
from pathlib import Path

KIB, TIB = 1 << 10, 1 << 40
SHARED = 64 * KIB
"""Bytes of the memory that is as it should be."""


class FdKind(IntEnum):
    """What a file descriptor is of."""

    MEMORY = 0
    """A memfd that cannot shrink, of `SHARED` bytes."""
    EVENTFD = auto()
    LOOSE = auto()
    """A memfd without seals."""
    HUGE = auto()
    """A sealed memfd of terabytes, all of it a hole."""
    SEALED_WRITE = auto()
    READ_ONLY = auto()
    WRITE_ONLY = auto()
    APPEND = auto()
    EMPTY = auto()
    PIPE = auto()
    SOCKET = auto()
    DEVICE = auto()
    FOLDER = auto()
    PATH = auto()
    """Opened with O_PATH: for nothing but its name."""
    EPOLL = auto()


class Stock:
    """One of each kind; what a peer sends is a duplicate, which then belongs to whoever receives it."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="fuzz-", dir="/tmp")
        path = Path(self.folder.name) / "file"
        path.write_bytes(bytes(SHARED))
        self._near, self._far = socket.socketpair()
        self._pipe = os.pipe()
        self._fds = {
            FdKind.MEMORY: _memory(SHARED, fcntl.F_SEAL_SHRINK),
            FdKind.EVENTFD: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC),
            FdKind.LOOSE: _memory(SHARED, 0),
            FdKind.HUGE: _memory(2 * TIB, fcntl.F_SEAL_SHRINK),
            FdKind.SEALED_WRITE: _memory(SHARED, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE),
            FdKind.READ_ONLY: os.open(path, os.O_RDONLY),
            FdKind.WRITE_ONLY: os.open(path, os.O_WRONLY),
            FdKind.APPEND: os.open(path, os.O_RDWR | os.O_APPEND),
            FdKind.EMPTY: _memory(0, fcntl.F_SEAL_SHRINK),
            FdKind.PIPE: self._pipe[0],
            FdKind.SOCKET: self._near.fileno(),
            FdKind.DEVICE: os.open("/dev/null", os.O_RDWR),
            FdKind.FOLDER: os.open(self.folder.name, os.O_RDONLY | os.O_DIRECTORY),
            FdKind.PATH: os.open(path, os.O_PATH),
            FdKind.EPOLL: os.dup(_EPOLL.fileno()),
        }

    def clear(self) -> None:
        """The memory is as it was, as far as devices reach it."""
        for kind in (FdKind.MEMORY, FdKind.LOOSE, FdKind.HUGE):
            os.pwrite(self._fds[kind], bytes(SHARED), 0)

    def give(self, kind: FdKind) -> int:
        """One that is the receiver's to close."""
        return os.dup(self._fds[kind])

    def lend(self, kind: FdKind) -> int:
        """One to send over a socket, which makes the duplicate itself."""
        return self._fds[kind]


def _memory(size: int, seals: int) -> int:
    fd = os.memfd_create("fuzz", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


_EPOLL = select.epoll()
