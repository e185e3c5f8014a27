"""What a process of an mdev's own prints: lines of the host's log, no more of them than a reader can use."""

import logging
import os
import select
from time import monotonic

LONGEST_LINE = 500
MOST_PIECES, PAUSE = 16, 0.1
"""Pieces of output that are read at once, and seconds until the next: who prints without end waits for us."""
_PIECE = 4096

_log = logging.getLogger(__name__)


class Output:
    """The reading end of a pipe."""

    def __init__(self, owner: str, name: str) -> None:
        self._owner, self._name = owner, name
        self.fd, self._writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.fd, False)
        self._rest = b""
        self._read = 0
        self._paused_until = 0.0

    @property
    def patience(self) -> float:
        """Seconds until there is something to do."""
        return max(0.0, self._paused_until - monotonic()) if self._paused_until else PAUSE * 1000

    def writer(self) -> int:
        """The other end; the caller's to close."""
        writer, self._writer = self._writer, -1
        return writer

    def watch(self, poll: select.poll) -> None:
        """Be looked at again after a pause."""
        if self.fd >= 0 and self._paused_until <= monotonic():
            if self._paused_until:
                self._paused_until, self._read = 0.0, 0
            poll.register(self.fd, select.POLLIN)

    def read(self, poll: select.poll) -> None:
        """One piece."""
        data = self._piece()
        if not data:
            poll.unregister(self.fd)
            os.close(self.fd)
            self.fd = -1
            return
        self._log(data)
        self._read += 1
        if self._read >= MOST_PIECES:
            self._paused_until = monotonic() + PAUSE
            poll.unregister(self.fd)

    def drain(self) -> None:
        """The process is gone: what it said last."""
        for _ in range(MOST_PIECES):
            if self.fd < 0 or not (data := self._piece()):
                break
            self._log(data)
        if self._rest:
            self._log(b"\n")

    def close(self) -> None:
        for fd in (self.fd, self._writer):
            if fd >= 0:
                os.close(fd)
        self.fd = self._writer = -1

    def _piece(self) -> bytes:
        try:
            return os.read(self.fd, _PIECE)
        except BlockingIOError:
            return b""

    def _log(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            text = line[:LONGEST_LINE].decode(errors="replace")
            _log.warning("%s: %s: %s", self._owner, self._name, "".join(c if c.isprintable() else "?" for c in text))
