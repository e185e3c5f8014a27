"""Where users find the VFIO devices of this host: one vfio-user socket an mdev, one user at a time.

`Endpoints` is the registrar of ``vfio_mdev`` in a host process. An idle mdev costs a listening socket and no thread;
a user costs one thread.
"""

import logging
import os
import select
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Condition, Lock, Thread
from uuid import UUID

from typing_extensions import override

from mdev_user.errors import Busy, NoDevice
from mdev_user.host import SOCKET_NAME
from mdev_user.host.job_thread import JobThread
from mdev_user.host.jobs import Jobs
from mdev_user.host.poll import PollThread
from mdev_user.host.region_file import RegionFile
from mdev_user.host.steps import step
from mdev_user.host.trace import Tracer
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio_user.guest_memory import GuestMemory
from mdev_user.vfio_user.server import Session

_log = logging.getLogger(__name__)

REQUEST_PERIOD = 10.0
"""Seconds between two requests to a driver to let go of an mdev that is being removed (as Linux does)."""
_GRACE = 0.5
"""Seconds that a user whose program has just ended needs until its device is closed."""
_HANDOVER = 2.0
"""Seconds that a new user may wait for the end of one whose socket is closed already."""
_PEERCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a socket, as the kernel knows it."""

    pid: int
    uid: int
    name: str

    @override
    def __str__(self) -> str:
        return f"pid {self.pid} ({self.name})"


class Endpoint:
    """The socket of one VfioDevice and whoever uses it."""

    def __init__(self, device: VfioDevice, folder: Path, host: "Endpoints") -> None:
        self.device = device
        self.lock = Lock()
        """The step lock of this mdev."""
        self.peer: Peer | None = None
        self.session: Session | None = None
        self.last_disconnect = ""
        self.tracer = Tracer(device, self.lock, lambda: str(self.peer))
        self._host = host
        self._folder = folder
        self._changed = Condition()
        self._users = 0
        self._registered = True
        self._listener = self._listen()
        host.poll.add(self._listener.fileno(), self._accept)

    def disconnect(self) -> None:
        """End the user's connection now."""
        with self._changed:
            session = self.session
        if session is not None:
            session.close("disconnected by the operator")

    def unregister(self) -> None:
        """No new user; ask the driver to let go of the one there is, and return when it is gone."""
        with self._changed:
            self._registered = False
        self._host.poll.remove(self._listener.fileno())
        self._listener.close()
        self._unlink()
        asked = 0
        while not self._wait_until_closed(REQUEST_PERIOD if asked else _GRACE):
            with step(self.lock, self.device.counters, "request"):
                self.device.ops.request(asked)
            asked += 1
            if asked == 1:
                _log.warning("%s: in use by %s; its remove waits", self.device.uuid, self.peer)
        with suppress(OSError):
            self._folder.rmdir()

    def _wait_until_closed(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._users, seconds)

    def _listen(self) -> socket.socket:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / SOCKET_NAME
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # Before bind, which gives the file this mode: by the path it could be another file's, if the folder is
            # somebody else's by now.
            os.fchmod(listener.fileno(), stat.S_IRUSR | stat.S_IWUSR)
            listener.bind(str(path))
            listener.listen(16)
        except OSError:
            listener.close()
            raise
        return listener

    def _unlink(self) -> None:
        with suppress(OSError):
            (self._folder / SOCKET_NAME).unlink()

    def _accept(self) -> None:
        try:
            connection, _address = self._listener.accept()
        except OSError:  # gone again, or the socket was closed under us
            return
        connection.setblocking(True)  # noqa: FBT003 - accept4 without it inherits nothing, but say so
        Thread(target=self._use, args=(connection,), name=f"mdev {self.device.uuid}", daemon=True).start()

    def _use(self, connection: socket.socket) -> None:
        """One user, from connect to disconnect, in a thread of its own."""
        with connection:
            try:
                self._take_over()
            except (Busy, NoDevice) as error:
                _log.warning("%s: refused %s: %s", self.device.uuid, _peer_of(connection), error)
                return
            try:
                self._serve(connection)
            finally:
                self._leave()

    def _take_over(self) -> None:
        with self._changed:
            if self._users and self.session is not None and not self.session.hung_up():
                raise Busy(f"in use by {self.peer}")
            free = self._changed.wait_for(lambda: not self._users, _HANDOVER)
            if not free:
                raise Busy(f"still being closed by {self.peer}")
            if not self._registered:
                raise NoDevice("being removed")
            self._users += 1

    def _leave(self) -> None:
        with self._changed:
            self._users -= 1
            self.peer = self.session = None
            self._changed.notify_all()

    def _serve(self, connection: socket.socket) -> None:
        device = self.device
        memory = RegionFile(f"mdev-{device.uuid}")
        watcher = _Watcher(self._host.poll)
        session = Session(connection, device, self.lock, self._host.memory, watcher)
        watcher.jobs = jobs = Jobs(self._host.jobs, self.lock, device, session, session.fail)
        try:
            with self._changed:  # before the driver opens it: who waits for a slow driver is told, too
                self.peer, self.session = _peer_of(connection), session
            with step(self.lock, device.counters, "open"):
                device.open(jobs, memory)
            _log.info("%s: opened by %s", device.uuid, self.peer)
            session.run()
            self.last_disconnect = session.reason
        except Exception as error:  # noqa: BLE001 - driver code: its error ends this user's connection only
            self.last_disconnect = f"{type(error).__name__}: {error}"
            _log.exception("%s: the driver failed", device.uuid)
        finally:
            self._close()
            memory.close()
            _log.info("%s: closed (%s)", device.uuid, self.last_disconnect)

    def _close(self) -> None:
        try:
            with step(self.lock, self.device.counters, "close"):
                self.device.close()
        except Exception:  # noqa: BLE001 - driver code: the user is gone whatever it says
            _log.exception("%s: the driver failed to close", self.device.uuid)


class Endpoints:
    """The registrar of a host: an endpoint for every registered VFIO device, and the threads that serve them all."""

    def __init__(self, folder: Path) -> None:
        """``folder`` holds one folder an mdev, named by its UUID."""
        self.folder = folder
        self.poll = PollThread()
        self.jobs = JobThread()
        self.memory = GuestMemory()
        self._endpoints: dict[UUID, Endpoint] = {}

    def register(self, device: VfioDevice) -> None:
        self._endpoints[device.uuid] = Endpoint(device, self.folder / str(device.uuid), self)

    def unregister(self, device: VfioDevice) -> None:
        """Blocks while the device is in use."""
        self._endpoints[device.uuid].unregister()
        del self._endpoints[device.uuid]

    def endpoint(self, uuid: UUID) -> Endpoint:
        """ENODEV when no VFIO device of this UUID is registered."""
        if uuid in self._endpoints:
            return self._endpoints[uuid]
        raise NoDevice(f"no vfio device {uuid} here")

    def has(self, uuid: UUID) -> bool:
        """Whether a VFIO device of this UUID is registered."""
        return uuid in self._endpoints

    def stop(self) -> None:
        """Disconnect everybody and take the sockets away."""
        for endpoint in list(self._endpoints.values()):
            endpoint.disconnect()
            endpoint.unregister()
        self.jobs.stop()
        self.poll.stop()


class _Watcher:
    """Calls back as a step of the mdev when the user signals one of its eventfds.

    The poll thread serves every mdev of the host, so it never reads a user's eventfd (which the user may have made
    empty again), and however often the user signals, one step waits.
    """

    jobs: Jobs

    def __init__(self, poll: PollThread) -> None:
        self._poll = poll
        self._waiting: set[int] = set()

    def add(self, fd: int, signalled: Callable[[], None]) -> None:
        self._poll.add(fd, partial(self._signalled, fd, signalled), select.EPOLLIN | select.EPOLLET)

    def remove(self, fd: int) -> None:
        self._poll.remove(fd)
        self._waiting.discard(fd)  # the number may soon be another eventfd's

    def _signalled(self, fd: int, signalled: Callable[[], None]) -> None:
        if fd not in self._waiting:
            self._waiting.add(fd)
            self.jobs.submit(partial(self._step, fd, signalled))

    def _step(self, fd: int, signalled: Callable[[], None]) -> None:
        self._waiting.discard(fd)  # first: a signal from now on is one more
        signalled()


def _peer_of(connection: socket.socket) -> Peer:
    pid, uid, _gid = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    with suppress(OSError):
        return Peer(pid, uid, Path(f"/proc/{pid}/comm").read_text(errors="replace").strip())
    return Peer(pid, uid, "?")
