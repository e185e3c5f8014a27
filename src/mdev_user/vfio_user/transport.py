"""File descriptors across a UNIX socket: what a receive brought, what a send takes along."""

import os
import socket
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from struct import Struct
from threading import BoundedSemaphore, Thread

from mdev_user.vfio_user.connection import Fds
from mdev_user.vfio_user.file_status import file_status
from mdev_user.vfio_user.framing import MOST_FDS

_CREDENTIALS = Struct("=3i")
"""struct ucred: process, user, group."""

Ancillary = list[tuple[int, int, bytes]]

ANCILLARY_SIZE = socket.CMSG_SPACE(MOST_FDS * array("i").itemsize)
"""Room for the fds of one message. The kernel closes what does not fit and says so (MSG_CTRUNC)."""
RECEIVE_FLAGS = socket.MSG_CMSG_CLOEXEC
"""Python marks its own fds close-on-exec, but not those that a recvmsg brings."""


def received_fds(ancillary: Ancillary, flags: int) -> Fds:
    """The fds of one recvmsg, which are the caller's to close."""
    numbers = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    return Fds(tuple(numbers), truncated=bool(flags & socket.MSG_CTRUNC))


def send_with_fds(sock: socket.socket, data: bytes | memoryview, fds: Sequence[int], flags: int = 0) -> int:
    """Send as much as goes; the fds travel with the first byte. Returns the number of bytes sent."""
    if not fds:
        return sock.send(data, flags)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))
    return sock.sendmsg([data], [rights], flags)


def send_all(sock: socket.socket, data: bytes | memoryview, fds: Sequence[int] = ()) -> None:
    """Send everything, blocking; the fds travel with the first byte."""
    sent = send_with_fds(sock, data, fds)
    if sent != len(data):  # sending nothing would fail where the peer has answered and closed already
        sock.sendall(memoryview(data)[sent:])


def credentials_of(sock: socket.socket) -> tuple[int, int]:
    """The process and the user at the other end of a UNIX socket, as they were when it was connected (unix(7))."""
    pid, uid, _gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


def close_fds(numbers: Iterable[int]) -> None:
    """Close what a stranger has sent, without waiting for his file system (`file_status`): FUSE is asked at a close.

    It is waited for in a thread, but of those there are a few; after that whoever closes waits, which is the session of
    the client who sent it.
    """
    slow = []
    for number in numbers:
        if _may_wait(number):
            slow.append(number)
        else:
            _close((number,))
    if slow:
        _close_elsewhere(slow)


_MOST_CLOSING = 8
"""Threads that wait for a file system. Each has the file descriptors of one message."""
_MOMENT = 0.02
"""Seconds that a close may take."""
_closing = BoundedSemaphore(_MOST_CLOSING)


def _may_wait(number: int) -> bool:
    try:
        status = file_status(number)
    except OSError:
        return False
    return status.regular and not status.answers_at_once


def _close(numbers: Iterable[int]) -> None:
    for number in numbers:
        with suppress(OSError):
            os.close(number)


def _close_elsewhere(numbers: Sequence[int]) -> None:
    if not _closing.acquire(blocking=False):
        _close(numbers)
        return

    def close() -> None:
        try:
            _close(numbers)
        finally:
            _closing.release()

    closing = Thread(target=close, name="close", daemon=True)
    closing.start()
    closing.join(_MOMENT)
