"""Where users find the VFIO devices of this host: one vfio-user socket an mdev, one user at a time.

`Endpoints` is the registrar of ``vfio_mdev`` in a host process. An idle mdev costs a listening socket and no thread;
a user costs one thread.
"""

import logging
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Condition
from uuid import UUID

from mdev_user.errors import Busy, DmaFault, NoDevice, errno_of
from mdev_user.host import MIGRATION_FOLDER
from mdev_user.host.door import Door, Peer
from mdev_user.host.job_thread import JobThread
from mdev_user.host.jobs import Done, Jobs, Transport
from mdev_user.host.moves import Moves
from mdev_user.host.moving import Use
from mdev_user.host.poll import PollThread
from mdev_user.host.region_file import RegionFile
from mdev_user.host.steps import step, step_within
from mdev_user.host.trace import Tracer
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio_user.farewell import refuse
from mdev_user.vfio_user.guest_memory import GuestMemory
from mdev_user.vfio_user.loops import chosen
from mdev_user.vfio_user.server import Session
from mdev_user.vfio_user.shares import HostShare, Share

_log = logging.getLogger(__name__)

REQUEST_PERIOD = 10.0
"""Seconds between two requests to a driver to let go of an mdev that is being removed (as Linux does)."""
_GRACE = 0.5
"""Seconds that a user whose program has just ended needs until its device is closed."""
_LOOK = 0.2
"""Seconds that somebody who only looks waits for a step."""
_HANDOVER = 2.0
"""Seconds that a new user may wait for the end of one whose socket is closed already."""


class Endpoint:
    """The socket of one VfioDevice and whoever uses it."""

    def __init__(self, device: VfioDevice, folder: Path, host: "Endpoints") -> None:
        self.device = device
        self.lock, plain = host.loop.new()
        """The step lock of this mdev."""
        device.serve_plain(plain)
        self.peer: Peer | None = None
        self.session: Session | None = None
        self.last_disconnect = ""
        self.use: Use | None = None
        """Of the open device."""
        self.parked = False
        """Whether the device was loaded and waits for its user."""
        self.tracer = Tracer(device, self.lock, lambda: str(self.peer or "a mover"))
        self.moves = Moves(self, folder.parent / MIGRATION_FOLDER)
        self._host = host
        self._folder = folder
        self._changed = Condition()
        self._users = 0
        """One, be it a user or a mover that loads."""
        self._loading = False
        self._gone = ""
        """Why nobody comes in any more; empty while somebody may."""
        self._door = Door(device.uuid, folder, host.poll, self._take_over, self._use, host.lent.pop(device.uuid, None))

    def disconnect(self) -> None:
        """End the user's connection now, and that of a mover."""
        self.moves.end("disconnected by the operator")
        with self._changed:
            session = self.session
        if session is not None:
            session.close("disconnected by the operator")

    def unmigratable(self) -> str:
        """Why the device cannot be saved at the moment; empty when it can, or does not say so at once."""
        if not self.lock.acquire(timeout=_LOOK):
            return ""
        try:
            return (self.device.opened and self.device.ops.unmigratable()) or ""
        except Exception as error:  # noqa: BLE001 - driver code: who looks must not suffer from it
            return f"its driver failed: {type(error).__name__}: {error}"
        finally:
            self.lock.release()

    def unregister(self) -> None:
        """No new user; ask the driver to let go of the one there is, and return when it is gone."""
        with self._changed:
            self._gone = "being removed"
        self.moves.end("the mdev is being removed")
        self._door.close()
        asked = 0
        while not self._wait_until_closed(REQUEST_PERIOD if asked else _GRACE):
            with step(self.lock, self.device.counters, "request"):
                self.device.ops.request(asked)
            asked += 1
            if asked == 1:
                _log.warning("%s: in use by %s; its remove waits", self.device.uuid, self.peer)
        self._close(self.use)  # if it was loaded for a user who never came
        with suppress(OSError):
            self._folder.rmdir()

    # --- what movers need -----------------------------------------------------------------------------------

    def begin_load(self) -> None:
        """Open the device for a mover. EBUSY while somebody uses it, and while it holds a state that was loaded."""
        with self._changed:
            self._check_free_for_load()
            self._users += 1
            self._loading = True
        try:
            with step_within(self.lock, self.device.counters, "open"):
                use = self._new_use(_NoUser(), self._failed_without_user)
                use.jobs.pause()
                self._open(use)
        except BaseException:
            self.end_load(keep=False)
            raise

    def loaded_by(self, peer: Peer) -> None:
        """Who it is that loads it."""
        self.peer = peer

    def end_load(self, *, keep: bool) -> None:
        """The mover is gone: the device is parked until a user comes, if it is to be kept, or is closed."""
        if not keep:
            self._close(self.use)
        with self._changed:
            self.parked = keep and self.use is not None
            self._loading = False
        self._leave()

    def hand_over(self, place: str) -> None:
        """The state that a mover saved is at home in ``place``: end all use here, for good.

        EBUSY, and nothing has changed, unless the device is stopped for the mover.
        """
        parked = self.use if self.parked else None
        self.moves.hand_over(partial(self._leave_for, place))
        _log.info("%s: moved to %s", self.device.uuid, place)
        self._close(parked)  # its memory; a user's thread does the same for what was in use

    def _leave_for(self, place: str) -> None:
        """A part of a step."""
        with self._changed:
            self._gone = f"moved to {place}"
            session = self.session
        if session is not None:
            session.close(self._gone)
        self._close_now()

    def _check_free_for_load(self) -> None:
        if self._gone:
            raise NoDevice(f"{self.device.uuid} is {self._gone}")
        if self.parked:
            raise Busy(
                f"{self.device.uuid} holds a state that was loaded and that nobody has used yet: use it, or remove the "
                "mdev and create it again"
            )
        if self._users:
            raise Busy(
                f"{self.device.uuid} is in use by {self.peer}: a state can only be loaded before the mdev is used; "
                "stop its user and try again"
            )

    def _failed_without_user(self, error: Exception, where: str) -> None:
        _log.error("%s: the driver failed in %s: %s", self.device.uuid, where, error)

    # --- inside ---------------------------------------------------------------------------------------------

    def _wait_until_closed(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._users, seconds)

    def _use(self, connection: socket.socket, peer: Peer) -> None:
        """One user, who was let in, until it leaves; in a thread of its own."""
        try:
            self._serve(connection, peer)
        finally:
            self._leave()

    def _take_over(self) -> None:
        with self._changed:
            if self._users and self.session is not None and not self.session.hung_up():
                raise Busy(f"in use by {self.peer}")
            free = self._changed.wait_for(lambda: not self._users, _HANDOVER)
            if not free:
                raise Busy(f"still being {'loaded' if self._loading else 'closed'} by {self.peer or 'a mover'}")
            if self._gone:
                raise NoDevice(self._gone)
            self._users += 1

    def _leave(self) -> None:
        with self._changed:
            self._users -= 1
            self.peer = self.session = None
            self._changed.notify_all()

    def _serve(self, connection: socket.socket, peer: Peer) -> None:
        device = self.device
        use: Use | None = None
        watcher = _Watcher(self._host.poll)
        memory = GuestMemory(Share(self._host.share), keep_files=device.ops.has_programs())
        busy_poll = self._host.busy_poll.get(device.name.partition("/")[0], 0)
        session = Session(connection, device, self.lock, memory, watcher, busy_poll)
        try:
            with self._changed:  # before the driver opens it: who waits for a slow driver is told, too
                self.peer, self.session = peer, session
                if self._gone:  # since it was let in
                    session.close(self._gone)
            with step(self.lock, device.counters, "open"):
                use = self._begin_use(session)
            watcher.jobs = use.jobs
            _log.info("%s: opened by %s", device.uuid, self.peer)
            session.run()
            self.last_disconnect = session.reason
        except Exception as error:  # noqa: BLE001 - driver code: its error ends this user's connection only
            self.last_disconnect = f"{type(error).__name__}: {error}"
            _log.exception("%s: the driver failed", device.uuid)
            refuse(connection, errno_of(error))
        finally:
            if not self._park_again(use):
                self._close(use)
            _log.info("%s: closed (%s)", device.uuid, self.last_disconnect)

    def _begin_use(self, session: Session) -> Use:
        """Open the device, or take the one that was loaded for whoever comes. A part of a step."""
        if self.use is None:
            return self._open(self._new_use(session, session.fail))
        self.parked = False
        self.use.jobs.attach(session, session.fail)
        self.device.wait_for_use()
        return self.use

    def _new_use(self, transport: Transport, failed: Callable[[Exception, str], None]) -> Use:
        memory = RegionFile(f"mdev-{self.device.uuid}")
        return Use(memory, Jobs(self._host.jobs, self.lock, self.device, transport, failed))

    def _open(self, use: Use) -> Use:
        try:
            self.device.open(use.jobs, use.memory)
        except BaseException:
            use.memory.close()
            raise
        self.use = use
        return use

    def _park_again(self, use: Use | None) -> bool:
        """Keep a state that was loaded for a user who came, looked, and went: it may be the only one there is."""
        if use is None:
            return False
        with step(self.lock, self.device.counters, "close"):
            self.parked = self.use is use and self.device.leave_unused()
            if self.parked:
                use.jobs.attach(_NoUser(), self._failed_without_user)
            return self.parked

    def _close(self, use: Use | None) -> None:
        """Close the device, if it still is that one, and let go of its memory."""
        if use is None:
            return
        with step(self.lock, self.device.counters, "close"):
            if self.use is use:
                self._close_now()
        use.memory.close()

    def _close_now(self) -> None:
        """A part of a step. To let go of memory takes as long as there is of it, and is done when nobody waits."""
        self.use, self.parked = None, False
        try:
            self.device.close()
        except Exception:  # noqa: BLE001 - driver code: the user is gone whatever it says
            _log.exception("%s: the driver failed to close", self.device.uuid)


class _NoUser:
    """The DMA of a device that has no user yet. Its jobs are paused, so this is for what a driver does against that."""

    def send_dma_read(self, iova: int, length: int, done: Done, _wanted: Callable[[], bool]) -> None:
        done(DmaFault(f"nobody uses the mdev yet: there is no memory, {length} bytes at {iova:#x}"))

    def send_dma_write(self, iova: int, data: bytes, done: Done, _wanted: Callable[[], bool]) -> None:
        done(DmaFault(f"nobody uses the mdev yet: there is no memory, {len(data)} bytes at {iova:#x}"))


class Endpoints:
    """The registrar of a host: an endpoint for every registered VFIO device, and the threads that serve them all."""

    def __init__(self, folder: Path) -> None:
        """``folder`` holds one folder an mdev, named by its UUID."""
        self.folder = folder
        self.poll = PollThread()
        self.jobs = JobThread()
        self.share = HostShare()
        self.loop = chosen()
        """How accesses to mdevs are answered."""
        self.busy_poll: dict[str, int] = {}
        """Nanoseconds, by parent, for which a session looks for the next access before it sleeps."""
        self.lent: dict[UUID, socket.socket] = {}
        """Listening sockets that somebody else made, for the mdevs that are registered next."""
        self._endpoints: dict[UUID, Endpoint] = {}

    def lend(self, uuid: UUID, listener: socket.socket) -> None:
        """Let the mdev that is registered with this UUID next be reached at ``listener``, too. Owns it from here on."""
        if (unused := self.lent.pop(uuid, None)) is not None:
            unused.close()
        self.lent[uuid] = listener

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
        with suppress(OSError):  # there is none, or another host's mdevs are being moved
            (self.folder / MIGRATION_FOLDER).rmdir()
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
