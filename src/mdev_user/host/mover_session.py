"""A mover's session: vfio-user over the second socket of an mdev, and nothing of it but migration.

A mover may be slow, silent, gone or hostile. It costs one thread, and no guest more than `MOST_HELD` seconds.
"""

import logging
import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import Any

from mdev_user.errors import GuestError, MdevUserError, PeerError, errno_of
from mdev_user.host.moving import MOST_HELD, Move
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.commands import Request, Role
from mdev_user.vfio_user.connection import Asked, Connection, Event, Negotiated, Refused
from mdev_user.vfio_user.device_features import DeviceFeatures
from mdev_user.vfio_user.framing import error_message, reply_message
from mdev_user.vfio_user.transport import ANCILLARY_SIZE, RECEIVE_FLAGS, close_fds, received_fds

_log = logging.getLogger(__name__)

MOST_SILENT = 30.0
"""Seconds without a message (its file may be on a slow disk) after which a mover is taken for dead."""
_BUFFER_SIZE = 256 << 10
_SHORTEST = 0.001
"""Seconds. A timeout of 0 would mean not to wait at all, and raise something else."""


class _Late(Exception):
    """The mover was too slow, or said nothing."""


class MoverSession:
    """One mover's connection. ``reason`` tells why it ended and is empty until then."""

    def __init__(self, sock: socket.socket, move: Move, tell: Callable[[str], None]) -> None:
        """``tell`` is given what a request was refused for, before its sender gets the errno, and ``reason``."""
        self.reason = ""
        self._socket = sock
        self._move = move
        self._tell = tell
        self._connection = Connection(Role.SERVER)
        self._buffer = bytearray(_BUFFER_SIZE)
        self._guard = Lock()
        """Nobody uses a file descriptor that is closed meanwhile."""
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll = select.poll()
        for fd in (sock.fileno(), self._wake):
            self._poll.register(fd, select.POLLIN)
        self._features = DeviceFeatures(lambda: move)
        # Any: the key says which request a method takes, and a dictionary's type cannot say that.
        self._methods: dict[type[Request], Callable[[Any], bytes]] = {
            m.DeviceFeature: self._feature,
            m.MigDataRead: self._read,
            m.MigDataWrite: self._write,
        }

    def run(self) -> None:
        """Serve, in this thread, until the mover goes, is late, breaks the protocol, or `close`. Raises nothing."""
        try:
            self._serve()
        except _Late as error:
            self._because(str(error))
        except PeerError as error:
            self._because(f"it broke the protocol: {error}")
        except OSError as error:
            self._because(f"the connection broke: {error}")
        except Exception as error:  # noqa: BLE001 - driver code, or our own bug: it ends this move only
            _log.exception("a move failed; its mdev goes on")
            self._because(f"the driver failed: {type(error).__name__}: {error}")

    def end(self) -> None:
        """Close the connection, after `run`."""
        close_fds(self._connection.take_fds())
        with self._guard:
            self._socket.close()
            os.close(self._wake)
            self._wake = -1

    def wait_for_hang_up(self, seconds: float) -> None:
        """Until the mover has nothing more to say, after `run`."""
        self._poll.unregister(self._wake)
        with suppress(OSError):
            self._poll.poll(seconds * 1000)

    def interrupt(self, reason: str) -> None:
        """End `run` at its next wait for a message, from any thread. The mover may not know it yet."""
        self._because(reason)
        with self._guard:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def close(self, reason: str) -> None:
        """End `run` and the connection, from any thread."""
        self.interrupt(reason)
        with self._guard, suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        view = memoryview(self._buffer)
        while self._receive(view):
            while (event := self._connection.next_event()) is not None:
                try:
                    reply = self._reply_to(event)
                finally:
                    close_fds(event.fds.take())
                self._send(reply)
        midway = " in the middle of a message" if self._connection.midway else ""
        if midway or self._move.deadline is not None:
            self._because(f"it went away{midway}")

    def _receive(self, view: memoryview) -> int:
        """How much; nothing at the end, or when `interrupt` came first."""
        self._wait_no_longer()
        ready = {fd for fd, _events in self._poll.poll((self._socket.gettimeout() or 0) * 1000)}
        if self._wake in ready:
            return 0
        if not ready:
            raise self._late()
        size, ancillary, flags, _ = self._socket.recvmsg_into([view], ANCILLARY_SIZE, RECEIVE_FLAGS)
        self._connection.receive(view[:size], received_fds(ancillary, flags))
        return size

    def _send(self, reply: bytes) -> None:
        self._wait_no_longer()
        try:
            self._socket.sendall(reply)
        except TimeoutError:
            raise self._late() from None

    def _wait_no_longer(self) -> None:
        """Than until the device goes on by itself."""
        deadline = self._move.deadline
        if deadline is None:
            self._socket.settimeout(MOST_SILENT)
        elif self._move.goes_on_late():
            raise self._late_for_guest()
        else:
            self._socket.settimeout(max(deadline - monotonic(), _SHORTEST))

    def _late(self) -> _Late:
        if self._move.deadline is None:
            return _Late(f"it said nothing for {MOST_SILENT:.0f} s")
        self._move.end()
        return self._late_for_guest()

    def _late_for_guest(self) -> _Late:
        return _Late(f"it had the mdev stopped for {MOST_HELD:.0f} s, the most that a guest waits: the mdev goes on")

    def _reply_to(self, event: Event) -> bytes:
        match event:
            case Asked():
                reply = self._asked(event)
                return b"" if event.no_reply else reply
            case Negotiated():
                return event.reply
            case Refused():
                self._tell(str(event.error))
                return event.reply
            case _:
                raise PeerError("a reply that nobody asked for")

    def _asked(self, event: Asked) -> bytes:
        method = self._methods.get(type(event.request))
        try:
            if method is None:
                raise GuestError(f"{type(event.request).__name__}: this socket is for migration and nothing else")
            return reply_message(event.id, event.command, method(event.request))
        except (MdevUserError, OSError) as error:
            self._tell(str(error))
            return error_message(event.id, event.command, errno_of(error))

    def _feature(self, request: m.DeviceFeature) -> bytes:
        return self._features.perform(request).encode()

    def _read(self, request: m.MigDataRead) -> bytes:
        """As much as was asked for, since less says that there is no more; a piece of it each step."""
        data = bytearray()
        while len(data) < request.size and (piece := self._move.read(request.size - len(data))):
            data += piece
        return m.MigDataReadReply(bytes(data)).encode()

    def _write(self, request: m.MigDataWrite) -> bytes:
        self._move.write(request.data)
        return b""

    def _because(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason
            self._tell(reason)
