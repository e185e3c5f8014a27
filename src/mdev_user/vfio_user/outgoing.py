"""What a session sends: at once where the socket takes it, else queued and sent outside the step lock.

A reply is sent under the step lock, so that messages leave in the order of the steps that made them. But a peer that
does not read must not hold up the steps of its mdev, nor the thread of a job: a send under the lock never blocks.
What it leaves over waits here until `drain` sends it, in a thread that has nothing better to do. A peer that says
something instead of reading is heard first: it may be unable to read before it has said it.
"""

import select
import socket
from collections import deque
from collections.abc import Sized
from contextlib import suppress
from threading import Lock, Thread
from typing import Protocol

from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio_user.message_dma import MOST_UNDER_WAY
from mdev_user.vfio_user.transport import send_all, send_with_fds

MOST_LEFT = MOST_UNDER_WAY + 1
"""Messages that wait while a peer is heard that does not read: those of jobs, and the reply to what it asked."""
_DONT_WAIT = int(socket.MSG_DONTWAIT)


class Sender(Protocol):
    """Where a conversation sends; used under the step lock but for `drain`. `Outgoing` tells what each is."""

    @property
    def waiting(self) -> Sized: ...

    def send(self, message: bytes) -> None: ...

    def send_with(self, message: bytes, fds: tuple[int, ...]) -> None: ...

    def drain(self) -> None: ...

    def drain_in_background(self) -> None: ...


class Outgoing:
    """The sending side of one session's socket."""

    __slots__ = ("_background", "_draining", "_poll", "_send", "_socket", "_step_lock", "stuck", "waiting")

    def __init__(self, sock: socket.socket, step_lock: StepLock) -> None:
        self._socket = sock
        self._send = sock.send
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN | select.POLLOUT)
        self._step_lock = step_lock
        self._draining = Lock()
        self._background: Thread | None = None
        self.waiting: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        """Not sent yet. The first stays until all of it is sent, so whoever finds this empty may send at once."""
        self.stuck = bytearray(1)
        """Not 0 while something is waiting: for the native loop, which sees bytes only."""

    def send(self, message: bytes) -> None:
        """Send or queue, under the step lock. Whoever leaves something waiting sees to it that it is drained."""
        try:
            sent = 0 if self.waiting else self._send(message, _DONT_WAIT)
        except BlockingIOError:
            sent = 0
        if sent != len(message):
            self.leave(message, sent)

    def send_in_passing(self, message: bytes) -> None:
        """`send`, under the step lock, for a caller that does not drain."""
        try:
            sent = 0 if self.waiting else self._send(message, _DONT_WAIT)
        except BlockingIOError:
            sent = 0
        if sent != len(message):
            self.leave(message, sent)
            self.drain_in_background()

    def leave(self, message: bytes, sent: int, fds: tuple[int, ...] = ()) -> None:
        """Queue what a caller that sends by itself has left over, under the step lock."""
        self.waiting.append((memoryview(message)[sent:], fds))
        self.stuck[0] = 1

    def send_with(self, message: bytes, fds: tuple[int, ...]) -> None:
        """Like `send`, with fds that stay the caller's and open until the session ends."""
        try:
            sent = 0 if self.waiting else send_with_fds(self._socket, message, fds, _DONT_WAIT)
        except BlockingIOError:
            sent = 0
        if sent != len(message):
            self.leave(message, sent, () if sent else fds)

    def drain(self) -> None:
        """Send what waits, without the step lock. OSError when the peer is gone.

        This waits for the peer to read; once it says something, only while more than `MOST_LEFT` messages wait: the
        caller hears it, and drains again before it waits for more.
        """
        if len(self.waiting) > MOST_LEFT:
            self.drain_all()
            return
        if not self._draining.acquire(blocking=False):
            return  # the background does it
        try:
            while self._can_send():
                self._send_some()
        finally:
            self._draining.release()

    def drain_all(self) -> None:
        """Send what waits, blocking; without the step lock. OSError when the peer is gone."""
        with self._draining:
            while True:
                with self._step_lock:
                    if not self.waiting:
                        return
                    message, fds = self.waiting[0]
                send_all(self._socket, message, fds)
                with self._step_lock:
                    self.waiting.popleft()
                    self.stuck[0] = bool(self.waiting)

    def _can_send(self) -> bool:
        """Wait until something can be sent: False when the peer says something first, or nothing waits."""
        return bool(self.waiting) and any(events & ~select.POLLIN for _fd, events in self._poll.poll())

    def _send_some(self) -> None:
        with self._step_lock, suppress(BlockingIOError):
            message, fds = self.waiting[0]
            sent = send_with_fds(self._socket, message, fds, _DONT_WAIT)
            if sent == len(message):
                self.waiting.popleft()
            else:
                self.waiting[0] = message[sent:], ()
            self.stuck[0] = bool(self.waiting)

    def drain_in_background(self) -> None:
        """Like `drain_all`, for a caller that has the step lock: rare, so a thread of its own is cheap enough."""
        if self._background is None:
            self._background = Thread(target=self._drain_or_end, name="vfio-user-send", daemon=True)
            self._background.start()

    def finish(self, seconds: float) -> None:
        """The peer says nothing any more, but may still read what waits, for so long. No step lock held."""
        with self._step_lock:
            if self.waiting:
                self.drain_in_background()
            background = self._background
        if background is not None:
            background.join(seconds)

    def end(self) -> None:
        """The socket is shut down: wait for the background and forget what nobody will read. No step lock held."""
        with self._step_lock:
            background = self._background
        if background is not None:
            background.join()
        self.waiting.clear()

    def _drain_or_end(self) -> None:
        try:
            while not self._background_is_done():
                self.drain_all()
        except OSError:
            with suppress(OSError):  # the session's thread sees the end in any case
                self._socket.shutdown(socket.SHUT_RDWR)

    def _background_is_done(self) -> bool:
        """Whoever leaves something after this starts another thread."""
        with self._step_lock:
            if not self.waiting:
                self._background = None
            return self._background is None
