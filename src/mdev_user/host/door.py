"""Where the users of one mdev come in: its listening sockets, who may come, and one newcomer at a time.

Newcomers are looked at one after the other, in a thread that is there only while there are any; the one that is let in
goes on in that thread. So an mdev costs one thread for its user and one for all who knock meanwhile, and the rest of
them wait in the kernel.
"""

import logging
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from uuid import UUID

from typing_extensions import override

from mdev_user.errors import Busy, NoDevice, NotPermitted, errno_of
from mdev_user.host import SOCKET_NAME
from mdev_user.host.poll import PollThread
from mdev_user.vfio_user.farewell import refuse
from mdev_user.vfio_user.transport import credentials_of

_log = logging.getLogger(__name__)

BACKLOG = 16
"""Connections that the kernel keeps for us; who connects after that waits, in its own time."""
PAUSE = 0.005
"""Seconds between a newcomer that is refused and the next: whoever connects without end takes little of our time."""
_TROUBLE = 0.1
"""Seconds until the next try when a connection cannot be accepted (too many open files)."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a socket, as the kernel knows it."""

    pid: int
    uid: int
    name: str

    @override
    def __str__(self) -> str:
        return f"pid {self.pid} ({self.name})"


class Door:
    """The sockets of one mdev. ``enter`` lets a newcomer in or raises Busy or NoDevice; then ``use`` serves it.

    May come: root, the user that the daemon runs as, and the owner of the mdev's folder, whoever that is when somebody
    connects. The permissions of a socket's file say the same, but they can be loosened, and a socket that somebody
    else made has others.
    """

    def __init__(
        self,
        uuid: UUID,
        folder: Path,
        poll: PollThread,
        enter: Callable[[], None],
        use: Callable[[socket.socket, Peer], None],
        lent: socket.socket | None = None,
    ) -> None:
        """Listens in ``folder``, which it makes, and at ``lent``, which it owns: a listening socket, non-blocking."""
        self._uuid = uuid
        self._folder = folder
        self._poll = poll
        self._enter = enter
        self._use = use
        self._lock = Lock()
        """Nobody accepts from a socket, or watches it, that another thread is about to close."""
        self._closed = Event()
        self._listeners = [_listen(folder), *([] if lent is None else [lent])]
        self._watch()

    def close(self) -> None:
        """Let nobody in any more, and take the socket's file away."""
        with self._lock:
            self._closed.set()
            self._ignore()
            for listener in self._listeners:
                listener.close()
        with suppress(OSError):
            (self._folder / SOCKET_NAME).unlink()

    def _watch(self) -> None:
        with self._lock:
            if not self._closed.is_set():
                for listener in self._listeners:
                    self._poll.add(listener.fileno(), self._knocked)

    def _ignore(self) -> None:
        for listener in self._listeners:
            self._poll.remove(listener.fileno())

    def _knocked(self) -> None:
        with self._lock:
            if self._closed.is_set():
                return
            self._ignore()
        try:
            Thread(target=self._attend, name=f"mdev {self._uuid}", daemon=True).start()
        except RuntimeError:  # no more threads
            self._watch()
            raise

    def _attend(self) -> None:
        """Until one is let in (another thread looks after the next then) or nobody is there."""
        while (connection := self._next()) is not None:
            with connection:
                if self._let_in(connection):
                    return
            self._closed.wait(PAUSE)
        self._watch()

    def _next(self) -> socket.socket | None:
        while not self._closed.is_set():
            try:
                connection = self._accept()
            except OSError as error:
                _log.warning("%s: a connection cannot be accepted: %s", self._uuid, error)
                self._closed.wait(_TROUBLE)
                continue
            if connection is not None:
                connection.setblocking(True)  # noqa: FBT003 - accept4 without it inherits nothing, but say so
            return connection
        return None

    def _accept(self) -> socket.socket | None:
        with self._lock:
            for listener in self._listeners:
                with suppress(BlockingIOError, ConnectionAbortedError):
                    return listener.accept()[0]
        return None

    def _let_in(self, connection: socket.socket) -> bool:
        peer = peer_of(connection)
        try:
            self._check(peer)
            self._enter()
        except (NotPermitted, Busy, NoDevice) as error:
            _log.warning("%s: refused %s: %s", self._uuid, peer, error)
            refuse(connection, errno_of(error))
            return False
        self._watch()
        try:
            self._use(connection, peer)
        except OSError as error:  # no file descriptors left, say
            _log.warning("%s: cannot serve %s: %s", self._uuid, peer, error)
            refuse(connection, errno_of(error))
        return True

    def _check(self, peer: Peer) -> None:
        owner = _owner_of(self._folder)
        if peer.uid not in {0, os.geteuid(), owner}:
            raise NotPermitted(f"it runs as user {peer.uid}; the mdev is user {owner}'s: chown its folder in sysfs")


def peer_of(connection: socket.socket) -> Peer:
    """Whoever connected; its name is "?" when it is gone, or not ours to see."""
    pid, uid = credentials_of(connection)
    with suppress(OSError):
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
        return Peer(pid, uid, name if name.isprintable() else repr(name))  # it may be meant to look like a log line
    return Peer(pid, uid, "?")


def _owner_of(folder: Path) -> int:
    try:
        return folder.lstat().st_uid
    except FileNotFoundError:
        return os.geteuid()


def _listen(folder: Path) -> socket.socket:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # It may be there still, and its owner's: whoever had an mdev of this UUID has left files in it.
    os.chown(folder, os.geteuid(), os.getegid(), follow_symlinks=False)
    folder.chmod(0o700)
    path = folder / SOCKET_NAME
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # Before bind, which gives the file this mode: by the path it could be another file's, if the folder is
        # somebody else's by now.
        os.fchmod(listener.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
