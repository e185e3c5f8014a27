"""Moves: the second socket of an mdev, made when somebody wants to move its state, and gone when that is over.

It lies in a folder of the daemon's own, not in the mdev's, which may be given to another user: who can put a socket of
his own in this one's place would be given the guest's state.
"""

import logging
import os
import select
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic
from typing import Protocol

from mdev_user.errors import Busy
from mdev_user.host.door import Peer, peer_of
from mdev_user.host.mover_session import MoverSession
from mdev_user.host.moving import MOST_HELD, Loading, Move, Place, Saving
from mdev_user.host.purpose import Purpose

_log = logging.getLogger(__name__)

_FAREWELL = 1.0
"""Seconds for a mover to hang up after a hand-over. Its guest waits until then, so there is nothing else to be done."""
MOST_ABSENT = 10.0
"""Seconds that the socket waits for its mover."""


class MovedPlace(Place, Protocol):
    """The mdev whose state is moved, as it is for its users."""

    def begin_load(self) -> None:
        """Open the device for a mover. EBUSY while somebody uses it, and while it holds a state that was loaded."""
        ...

    def end_load(self, *, keep: bool) -> None:
        """The mover is gone: the device waits for its user, if it is to be kept, or is closed."""
        ...

    def loaded_by(self, peer: Peer) -> None:
        """Who it is that loads it."""
        ...


class Moves:
    """The movers of one mdev, one at a time."""

    def __init__(self, place: MovedPlace, folder: Path) -> None:
        """``folder`` is the daemon's, for the sockets of all mdevs; it is made when it is needed."""
        self.last = ""
        """What the last mover was refused, or why it was sent away; empty while all is well."""
        self._place = place
        self._folder = folder
        self._lock = Lock()
        self._visit: _Visit | None = None

    def begin(self, purpose: Purpose) -> Path:
        """Make the socket for one mover and return its path.

        EBUSY while there is another, and for what the mdev's use does not allow; ENODEV for a state that is not there.
        """
        with self._lock:
            if self._visit is not None:
                raise Busy(f"{self._uuid} is being moved by {self._visit.who}: wait until that has ended")
            move = self._move(purpose)
            self.last = ""
            try:
                visit = _Visit(self._place, move, self._folder / f"{self._uuid}.sock", self._tell, self._ended)
                self._visit = visit
                visit.start()
            except BaseException:
                self._visit = None
                self._finish(move)
                raise
            return visit.path

    def hand_over(self, close: Callable[[], None]) -> None:
        """`Saving.hand_over` for the mover who has the device stopped, done when this returns. EBUSY without one."""
        visit = self._visit
        if visit is None or not isinstance(visit.move, Saving):
            raise Busy(f"{self._uuid} is not stopped for a mover: nothing was saved of it")
        visit.move.hand_over(close)
        visit.interrupt("handed over")
        visit.over.wait(MOST_HELD)

    def end(self, reason: str) -> None:
        """Send the mover away, if there is one."""
        visit = self._visit
        if visit is not None:
            visit.close(reason)

    def _move(self, purpose: Purpose) -> Move:
        if purpose is Purpose.SAVE:
            return Saving(self._place)
        self._place.begin_load()
        try:
            return Loading(self._place)
        except BaseException:
            self._place.end_load(keep=False)
            raise

    def _ended(self, visit: "_Visit") -> None:
        try:
            self._finish(visit.move)
        finally:
            self._visit = None

    def _finish(self, move: Move) -> None:
        move.end()
        if isinstance(move, Loading):
            self._place.end_load(keep=move.confirmed)

    def _tell(self, text: str) -> None:
        self.last = text

    @property
    def _uuid(self) -> str:
        return str(self._place.device.uuid)


class _Visit:
    """One mover, from the moment that its socket is there; in a thread of its own."""

    def __init__(
        self,
        place: MovedPlace,
        move: Move,
        path: Path,
        tell: Callable[[str], None],
        ended: Callable[["_Visit"], None],
    ) -> None:
        self.move = move
        self.path = path
        self.who = "somebody who has yet to connect"
        self.over = Event()
        """Set when the device is whatever it is to be from now on."""
        self._place = place
        self._tell = tell
        self._ended = ended
        self._session: MoverSession | None = None
        self._reason = ""
        self._hangs_up = False
        self._guard = Lock()
        """Nobody uses a file descriptor that is closed meanwhile."""
        self._listener = _listen(path)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)

    def start(self) -> None:
        try:
            Thread(target=self._run, name=f"mdev {self._place.device.uuid} mover", daemon=True).start()
        except RuntimeError:  # no more threads
            self._stop_listening()
            raise

    def interrupt(self, reason: str) -> None:
        """End what a mover who has come does here, from any thread, and let it hang up itself."""
        self._hangs_up = True
        if self._session is not None:
            self._session.interrupt(reason)

    def close(self, reason: str) -> None:
        """End it, from any thread."""
        with self._guard:
            self._reason = self._reason or reason
            if self._session is not None:
                self._session.close(reason)
            elif self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        try:
            session, peer = self._accept()
        except OSError as error:
            self._tell(self._reason or str(error))
            _log.warning("%s: no mover came: %s", self._place.device.uuid, self._reason or error)
            self._finish()
            return
        try:
            self._serve(session, peer)
        finally:
            self._finish()  # before the connection is closed: who waits for that finds all as it will be
            if self._hangs_up:
                session.wait_for_hang_up(_FAREWELL)
            session.end()
            self.move.forget()

    def _serve(self, session: MoverSession, peer: Peer) -> None:
        uuid = self._place.device.uuid
        with self._guard:
            self.who, self._session = str(peer), session
            if self._reason:  # `close` came in between
                session.close(self._reason)
        if isinstance(self.move, Loading):
            self._place.loaded_by(peer)
        _log.info("%s: %s moves it", uuid, peer)
        session.run()
        _log.info("%s: its mover is gone (%s)", uuid, session.reason or "done")

    def _finish(self) -> None:
        try:
            self._ended(self)
        except Exception:  # noqa: BLE001 - driver code: the mover is gone whatever it says
            _log.exception("%s: the driver failed after a move", self._place.device.uuid)
        finally:
            self.over.set()

    def _accept(self) -> tuple[MoverSession, Peer]:
        """The first who may. The socket is there for no other."""
        deadline = monotonic() + MOST_ABSENT
        try:
            while self._is_awaited(deadline - monotonic()):
                connection, _address = self._listener.accept()
                peer = peer_of(connection)
                if peer.uid in {0, os.geteuid()}:
                    return self._session_of(connection), peer
                connection.close()
            raise TimeoutError(f"nobody connected within {MOST_ABSENT:.0f} s")
        finally:
            self._stop_listening()

    def _session_of(self, connection: socket.socket) -> MoverSession:
        try:
            return MoverSession(connection, self.move, self._tell)
        except OSError:  # too many open files
            connection.close()
            raise

    def _stop_listening(self) -> None:
        with self._guard:
            os.close(self._wake)
            self._wake = -1
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _is_awaited(self, seconds: float) -> bool:
        """Whether somebody connects in time; OSError when `close` comes first."""
        poll = select.poll()  # and not select(): a host may have more than 1024 files
        for fd in (self._listener.fileno(), self._wake):
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _events in poll.poll(max(seconds, 0) * 1000)}
        if self._wake in ready:
            raise ConnectionAbortedError("nobody is awaited any more")
        return bool(ready)


def _listen(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)  # a dead daemon's
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), stat.S_IRUSR | stat.S_IWUSR)  # before bind, which gives the file this mode
        listener.bind(str(path))
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener
