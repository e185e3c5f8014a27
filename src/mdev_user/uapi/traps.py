"""Which process's accesses to a device its server answers by itself, so that they need not come back through here.

The server is given the supervisor's listener and that process's memory; from then on the native receiver only says
which call an access is (`vfio_user.messages.traps`). One process at a time: the one that used the device last. When the
server is gone, whatever it had of calls fails here.
"""

import os
from collections.abc import Hashable
from contextlib import suppress
from errno import EIO
from typing import TYPE_CHECKING

from mdev_user.errors import PeerError
from mdev_user.uapi.program_memory import stamp
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.transport import credentials_of

if TYPE_CHECKING:
    from mdev_user.uapi.call import Serving
    from mdev_user.uapi.program import Program
    from mdev_user.vfio.step_lock import StepLock
    from mdev_user.vfio_user._native import Line
    from mdev_user.vfio_user.client import Client


class Traps:
    """Of one device, whose ``lock`` is held while its ``client`` is used; without a ``line`` there are none."""

    def __init__(self, client: "Client", lock: "StepLock", line: "Line | None", serving: "Serving") -> None:
        self._client = client
        self._lock = lock
        self._line = line
        self._serving = serving
        self._process: Hashable | None = None
        self._watching = False

    def begin(self, program: "Program") -> None:
        """Ask the server whether it will, with the lock.

        It does for root and the user that it runs as; and nobody else's server is given a program's memory.
        """
        if self._line is None or credentials_of(self._client.socket)[1] not in {0, os.geteuid()}:
            return
        with suppress(RemoteError, PermissionError):  # refused, or the memory is not ours to open
            self._give(program)
            self._serving.watch_end(self._client.socket.fileno(), self._ended)
            self._watching = True

    def of(self, program: "Program") -> bool:
        """Whether the server answers this process, from now on; never waits."""
        if not self._watching:
            return False
        process = stamp(program)
        if process != self._process and self._lock.acquire(blocking=False):
            try:
                with suppress(OSError, PeerError):
                    self._give(program)
            finally:
                self._lock.release()
        return process == self._process

    def end(self) -> None:
        """The device is released, with the tables and the lock: calls that are under way fail."""
        if self._watching:
            self._watching = False
            self._serving.unwatch_end(self._client.socket.fileno())
        self._fail()

    def _give(self, program: "Program") -> None:
        process, memory = stamp(program), program.memory()
        try:
            if self._watching:
                self._client.post_traps(self._serving.listener, memory)
            else:
                self._client.set_traps(self._serving.listener, memory)
        finally:
            os.close(memory)
        if self._line is not None:
            self._line.trap()
        self._process = process

    def _ended(self) -> None:
        with self._serving.tables:
            if not self._watching:
                return
            self._watching = False
            self._serving.unwatch_end(self._client.socket.fileno())
        with self._lock:
            self._fail()

    def _fail(self) -> None:
        if self._line is not None:
            self._line.fail(self._serving.listener, EIO)
