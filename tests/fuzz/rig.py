"""A session of a real device, run in the caller's thread by a script instead of a socket and threads.

The script is asked for bytes wherever the session would wait for its peer, so that everything happens in one thread
and the same input always does the same. Jobs are the host's own (`Jobs`), their stretches run when the script says so.
"""

import gc
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, cast
from unittest.mock import patch

from typing_extensions import override

from fuzz.target import expect
from fuzz.wire import Fed, RealSocket, Script, ScriptedSocket
from mdev_user.host.jobs import Jobs
from mdev_user.host.region_file import RegionFile
from mdev_user.testing.ram import Ram
from mdev_user.testing.stretches import Stretches
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.plain import NoTable
from mdev_user.vfio.plain import PlainTable as Table
from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio_user import outgoing
from mdev_user.vfio_user.framing import LARGEST_MESSAGE, MOST_FDS
from mdev_user.vfio_user.guest_memory import GuestMemory
from mdev_user.vfio_user.loops import _new_native as new_native
from mdev_user.vfio_user.loops import why_not_native
from mdev_user.vfio_user.plain_table import PlainTable
from mdev_user.vfio_user.server import Session
from mdev_user.vfio_user.token_lock import TokenLock

if TYPE_CHECKING:
    import socket

_ENDS = ("the client went away", "the client broke the protocol", "closed by", "the connection broke")
MOST_STEPS = 200
LOOPS: dict[str, Callable[[], tuple[StepLock, Table]]] = {
    "python": lambda: (TokenLock(), PlainTable()),
    "none": lambda: (TokenLock(), NoTable()),
}
"""What answers plain accesses: a loop, or nothing but the general way. The native one where it is built."""
if not why_not_native():
    LOOPS["native"] = new_native


class Watcher:
    """Eventfds that the session looks at; the script signals them."""

    def __init__(self) -> None:
        self.watched: dict[int, Callable[[], None]] = {}

    def add(self, fd: int, signalled: Callable[[], None]) -> None:
        self.watched[fd] = signalled

    def remove(self, fd: int) -> None:
        del self.watched[fd]


class _Complaints(logging.Handler):
    """What is logged as an error is one: a session may warn of its peer as it likes."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


COMPLAINTS = _Complaints()
_logger = logging.getLogger("mdev_user")
_logger.addHandler(COMPLAINTS)
_logger.propagate = False


class Later:
    """In the place of a thread: its work is done where the session waits next, or is waited for."""

    def __init__(self, target: Callable[[], None], **_named: object) -> None:
        self._work: Callable[[], None] | None = target

    def start(self) -> None:
        _WORKERS.append(self)

    def is_alive(self) -> bool:
        return self._work is not None

    def join(self, _seconds: float | None = None) -> None:
        work, self._work = self._work, None
        if work is not None:
            work()


_WORKERS: list[Later] = []


class Rig:
    """One use of a device."""

    def __init__(self, vfio: VfioDevice, script: Script, loop: str = "python") -> None:
        """``loop``: which of `LOOPS`."""
        COMPLAINTS.texts.clear()
        self._fds = open_fds()
        self.vfio = vfio
        self.lock, table = LOOPS[loop]()
        vfio.serve_plain(table)
        self.memory = GuestMemory()
        self.watcher = Watcher()
        self.stretches = Stretches(Ram())
        self._regions = RegionFile("fuzz")
        wire = RealSocket(script, self._waits) if loop == "native" else ScriptedSocket(script, self._waits)
        self.session = Session(cast("socket.socket", wire), vfio, self.lock, self.memory, self.watcher)
        if isinstance(wire, RealSocket) and self.session._loop is not None:
            self.session._loop = Fed(self.session._loop, wire)
        # Typed as what it stands for: of a schedule `Jobs` uses what `Stretches` has.
        jobs = Jobs(self.stretches, self.lock, vfio, self.session, self.session.fail)
        with self.lock:
            vfio.open(jobs, self._regions)

    def run(self) -> None:
        """The session from its first to its last byte, and then everything that must hold after it."""
        _WORKERS.clear()
        try:
            with patch.object(outgoing, "Thread", Later):
                self.session.run()
        finally:
            self._close()
        reason = self.session.reason
        expect(not COMPLAINTS.texts, f"the session ended with {reason!r}: {COMPLAINTS.texts}")
        expect(reason.startswith(_ENDS), f"the session ended with {reason!r}")
        expect(not self.watcher.watched, f"{len(self.watcher.watched)} eventfds are watched for ever")
        expect(not self.memory.mapped_files, f"{self.memory.mapped_files} files stay mapped")
        expect(not self.memory.open_files, f"{self.memory.open_files} files are kept open")
        left = open_fds()
        if left != self._fds:  # a view in a cycle keeps its mapping for a while
            gc.collect()
            left = open_fds()
        expect(left == self._fds, f"{left} file descriptors are open, {self._fds} were")

    def tick(self, seconds: float) -> None:
        """Let time pass, and one job run to its next await."""
        self.stretches.wait_until(self.stretches.now + seconds)
        if self.stretches.has_ready:
            with self.lock:
                self.stretches.step()
        self._work()

    def settle(self) -> None:
        """All jobs run until they wait for something."""
        for _ in range(MOST_STEPS):
            with self.lock:
                if not self.stretches.has_ready:
                    return
                self.stretches.step()

    def signal(self, which: int) -> None:
        """The peer signals one of the eventfds that the session looks at."""
        watched = list(self.watcher.watched.values())
        if watched:
            with self.lock:
                watched[which % len(watched)]()

    def _work(self) -> None:
        """What other threads would do."""
        while _WORKERS:
            _WORKERS.pop().join()

    def _waits(self) -> None:
        """The invariants between two receives: nobody holds the lock, and what a peer made us keep has an end."""
        self._work()
        expect(not self.lock.locked(), "the step lock is held while the session waits for its peer")
        connection = self.session.connection
        expect(len(connection._buffer) <= LARGEST_MESSAGE, f"{len(connection._buffer)} bytes are kept")
        kept = sum(len(each) for _end, each in connection._fds)
        expect(kept <= MOST_FDS, f"{kept} fds of an unfinished message are kept")

    def _close(self) -> None:
        expect(not self.lock.locked(), "the step lock is held after the session")
        with self.lock:
            self.vfio.close()
        self.vfio.serve_plain(NoTable())
        self._regions.close()


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are all that is wanted
