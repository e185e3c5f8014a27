"""What a session has in the place of its socket: a script that is asked for bytes wherever the session would wait.

The native loop receives and sends without Python, so its socket is a real one, which never waits: where the session
would, it is given the next piece of the script first. All of it happens in one thread.
"""

import errno
import os
import socket
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from typing_extensions import override

from mdev_user.vfio_user.access_loop import AccessLoop, Received
from mdev_user.vfio_user.framing import MOST_FDS
from mdev_user.vfio_user.transport import Ancillary, close_fds

Chunk = tuple[bytes, tuple[int, ...]]
"""Bytes of one receive and the fds that came with them, which are then the session's."""
_RIGHTS = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
_LARGEST = 1 << 20


class Script(Protocol):
    """The peer."""

    def next_chunk(self) -> Chunk | None:
        """The next bytes that the peer sends; None: it goes."""

    def took(self, data: bytes | memoryview) -> None:
        """The session has sent this."""

    def takes(self, size: int) -> int:
        """How many of ``size`` bytes the socket takes now; 0: it would block."""


class ScriptedSocket:
    """What a session needs of a socket."""

    def __init__(self, script: Script, waits: Callable[[], None]) -> None:
        """``waits`` is called whenever the session waits for its peer."""
        self._script = script
        self._waits = waits
        self._rest: Chunk = (b"", ())
        self._ready = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def recvmsg_into(
        self, buffers: Sequence[bytearray], _ancillary: int, _flags: int = 0
    ) -> tuple[int, Ancillary, int, object]:
        if not self._rest[0]:
            self._waits()
            self._rest = self._script.next_chunk() or (b"", ())
        data, fds = self._rest
        size = min(len(data), len(buffers[0]))
        buffers[0][:size] = data[:size]
        self._rest = data[size:], ()
        close_fds(fds[MOST_FDS:])
        ancillary = [(*_RIGHTS, array("i", fds[:MOST_FDS]).tobytes())] if fds else []
        return size, ancillary, int(socket.MSG_CTRUNC) if len(fds) > MOST_FDS else 0, None

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        self._flush()
        size = len(data)
        if flags & socket.MSG_DONTWAIT:
            size = self._script.takes(size)
            if not size:
                raise BlockingIOError(errno.EAGAIN, "the peer does not read")
        self._script.took(data[:size])
        return size

    def sendmsg(self, buffers: Sequence[bytes | memoryview], rights: object, flags: int = 0) -> int:
        return self.send(buffers[0], flags)

    def sendall(self, data: bytes | memoryview) -> None:
        self._flush()
        self._script.took(data)

    def getsockopt(self, _level: int, _option: int, size: int) -> bytes:
        """Of its credentials: nobody."""
        return b"\xff" * size

    def fileno(self) -> int:
        """Of something that can be polled: to write there is never to wait."""
        return self._ready

    def shutdown(self, _how: int) -> None:
        self._rest = b"", self._rest[1]

    def recv(self, _size: int, _flags: int = 0) -> bytes:
        """Of what is unread when it was shut down: nothing, that is gone then."""
        return b""

    def close(self) -> None:
        os.close(self._ready)
        close_fds(self._rest[1])

    def _flush(self) -> None:
        """The script has seen all that was sent."""


class RealSocket(ScriptedSocket):
    """One that the native loop can use."""

    def __init__(self, script: Script, waits: Callable[[], None]) -> None:
        super().__init__(script, waits)
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        self._native = False

    def serve_natively(self) -> None:
        """From here on the file descriptor is the socket's own."""
        self._native = True

    def feed(self) -> None:
        """Have something there to be received, where nothing is."""
        self._flush()
        data, fds = self._rest
        if not data:
            self._waits()
            data, fds = self._script.next_chunk() or (b"", ())
        if not data:
            self._far.shutdown(socket.SHUT_WR)
            return
        try:
            sent = self._far.sendmsg([data], [(*_RIGHTS, array("i", fds))] if fds else [])
        finally:
            close_fds(fds)
        self._rest = data[sent:], ()

    @override
    def recvmsg_into(
        self, buffers: Sequence[bytearray], _ancillary: int, _flags: int = 0
    ) -> tuple[int, Ancillary, int, object]:
        while True:
            try:
                return self._near.recvmsg_into(buffers, _ancillary, _flags)
            except BlockingIOError:
                self.feed()

    @override
    def fileno(self) -> int:
        return self._near.fileno() if self._native else super().fileno()

    @override
    def shutdown(self, _how: int) -> None:
        self._flush()
        self._near.shutdown(_how)

    @override
    def close(self) -> None:
        super().close()
        self._near.close()
        self._far.close()

    @override
    def _flush(self) -> None:
        """What the native loop has sent by itself comes before all that follows."""
        with suppress(BlockingIOError):
            while data := self._far.recv(_LARGEST):
                self._script.took(data)


class Fed:
    """The native loop over such a socket."""

    def __init__(self, loop: AccessLoop, wire: RealSocket) -> None:
        self._loop, self._wire = loop, wire
        wire.serve_natively()

    def serve(self) -> Received:
        while True:
            try:
                return self._loop.serve()
            except BlockingIOError:
                self._wire.feed()
