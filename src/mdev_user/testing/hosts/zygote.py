"""Where hosts come from: a process that has imported everything, done nothing, and forks hosts.

``python -m mdev_user.testing.hosts.zygote FD PID`` serves until the other end of the socket is closed, or the test's
process PID ends (a child that the test forked may hold that end). It watches over its hosts: what one that was killed
leaves behind is taken away.
"""

import fcntl
import gc
import os
import resource
import select
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from time import monotonic, time

from mdev_user.host.loader import ENTRY_POINT_GROUP
from mdev_user.sysfs.mount import preload
from mdev_user.testing.hosts.served import live, take_away
from mdev_user.testing.hosts.wire import LARGEST

PREFIX = "mdev-host-"
PLACE = Path("/tmp").resolve()  # noqa: S108 - a test's own folder is too deep: a socket's path has at most 107 bytes
_MOST_SECONDS = 10.0
"""That hosts may need to end after their test's process; then they are killed."""
_FORGOTTEN = 60.0
"""Seconds: a folder of this age that nobody holds is nobody's."""


@dataclass(frozen=True)
class _Child:
    pid: int
    folder: Path
    held: int
    """The folder, open and locked: nobody else takes it away."""


class Zygote:
    """Forks hosts and watches over them."""

    def __init__(self, asking: socket.socket, test: int) -> None:
        """``test`` is a pidfd of the process that asks."""
        self._asking = asking
        self._test = test
        self._children: dict[int, _Child] = {}
        """By a pidfd of theirs."""
        self._poll = select.poll()
        self._poll.register(asking, select.POLLIN)
        self._poll.register(test, select.POLLIN)

    def run(self) -> None:
        """Until nobody asks any more and every host has ended."""
        while self._look(None):
            pass
        self._poll.unregister(self._asking)
        self._poll.unregister(self._test)
        deadline = monotonic() + _MOST_SECONDS
        while self._children and monotonic() < deadline:
            self._look(deadline - monotonic())
        for pidfd in list(self._children):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            self._bury(pidfd)

    def _look(self, seconds: float | None) -> bool:
        """Do what there is to do, or wait for it. False when nobody asks any more."""
        ready = {fd for fd, _events in self._poll.poll(None if seconds is None else seconds * 1000)}
        for pidfd in ready & self._children.keys():
            self._bury(pidfd)
        if self._test in ready:
            return False
        return self._asking.fileno() not in ready or self._bear()

    def _bear(self) -> bool:
        """Fork a host that gets the three files which came: its channel, its birth and its log. False at the end.

        The message names the drivers that other hosts have had.
        """
        data, fds, _flags, _address = socket.recv_fds(self._asking, LARGEST, 3)
        if not data:
            return False
        for name in data.decode().split():
            _preload_driver(name)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PLACE))
        folder.chmod(0o711)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
        pid = os.fork()
        if pid == 0:
            self._become_host(fds, folder)
        for fd in fds:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = _Child(pid, folder, held)
        self._poll.register(pidfd, select.POLLIN)
        return True

    def _become_host(self, fds: list[int], folder: Path) -> None:
        status = 1
        try:
            self._asking.close()
            os.close(self._test)
            for pidfd, child in self._children.items():
                os.close(pidfd)
                os.close(child.held)
            channel, birth, log = fds
            live(socket.socket(fileno=channel), birth, log, folder)
            status = 0
        finally:
            os._exit(status)

    def _bury(self, pidfd: int) -> None:
        child = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.waitpid(child.pid, 0)
        os.close(pidfd)
        if child.folder.exists():
            take_away(child.folder)
        os.close(child.held)


def forgotten() -> Iterator[Path]:
    """Folders of hosts that were killed together with their zygote."""
    for folder in PLACE.glob(f"{PREFIX}*"):
        with suppress(OSError):  # somebody else's, or taken away meanwhile
            found = folder.lstat()
            ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            if ours and time() - found.st_mtime > _FORGOTTEN and _is_free(folder):
                yield folder


def _is_free(folder: Path) -> bool:
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(held)
    return True


def _preload_driver(name: str) -> None:
    """Import one of ours for all hosts to come. Who knows what another's does when it is imported."""
    for each in entry_points(group=ENTRY_POINT_GROUP, name=name):
        if each.module.startswith("mdev_user."):
            each.load()


def main() -> None:
    asking, test = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    try:
        watched = os.pidfd_open(test)
    except ProcessLookupError:  # it was killed before we came to it
        return
    os.setsid()  # Ctrl-C is for the test, whose end is ours
    os.chdir("/")
    _most, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # every mdev has a socket
    for folder in forgotten():
        take_away(folder)
    preload()
    gc.collect()
    gc.freeze()  # a host then shares its pages with us for longer
    Zygote(asking, watched).run()


if __name__ == "__main__":
    main()
