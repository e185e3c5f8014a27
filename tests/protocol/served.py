"""A device served to a test over a socketpair, and the wire at its other end: raw messages, sent and received."""

import mmap
import os
import socket
import struct
import threading
from array import array
from collections.abc import Callable, Coroutine, Sequence
from typing import NamedTuple, Self
from uuid import UUID

from typing_extensions import override

from mdev_user.errors import DmaFault
from mdev_user.host.job_thread import JobThread
from mdev_user.host.jobs import Jobs as HostJobs
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.dma import DmaRead, DmaWrite
from mdev_user.vfio.ops import DeviceOps, JobRunner
from mdev_user.vfio.requests import region_offset
from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio.work import Spent
from mdev_user.vfio_user.commands import Role
from mdev_user.vfio_user.connection import Connection
from mdev_user.vfio_user.framing import ERROR, HEADER, NO_REPLY, Command, Header, command_message
from mdev_user.vfio_user.guest_memory import GuestMemory
from mdev_user.vfio_user.loops import chosen
from mdev_user.vfio_user.server import Session
from mdev_user.vfio_user.version import OURS, Capabilities
from protocol.device import TestDevice

PATIENCE = 60.0
"""Seconds after which a test that waits gives up."""


class RegionFile:
    """The sealed file of the mappable regions, as a host makes it."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("regions", os.MFD_CLOEXEC)
        self._maps: dict[int, mmap.mmap] = {}

    def view(self, index: int, size: int) -> memoryview:
        end = region_offset(index) + size
        if os.fstat(self.fd).st_size < end:
            os.ftruncate(self.fd, end)
        if index not in self._maps:
            self._maps[index] = mmap.mmap(self.fd, size, offset=region_offset(index))
        return memoryview(self._maps[index])

    def close(self) -> None:
        os.close(self.fd)
        self._maps.clear()


class Jobs:
    """Runs coroutines whose DMA goes by the session's messages: begun in a thread, as a step, like a host's."""

    def __init__(self, step_lock: StepLock) -> None:
        self.session: Session | None = None
        self.cancelled = 0
        self._step_lock = step_lock
        self._threads: list[threading.Thread] = []

    now = 0.0

    def spent(self) -> Spent:
        return Spent(0.0, 0.0)

    def spawn(self, work: Coroutine[object, bytes, None], name: str) -> None:
        thread = threading.Thread(target=self._begin, args=(work,))
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)

    def _begin(self, work: Coroutine[object, bytes, None]) -> None:
        with self._step_lock:
            self._advance(work, None)

    def cancel(self, work: Coroutine[object, bytes, None]) -> None:
        raise NotImplementedError(work)

    def cancel_all(self) -> None:
        self.cancelled += 1

    def pause(self) -> None:
        """They only go on when the client answers."""

    def resume(self) -> None: ...

    def _advance(self, work: Coroutine[object, bytes, None], outcome: bytes | Exception | None) -> None:
        try:
            request = _resume(work, outcome)
        except StopIteration:
            return
        try:
            self._send(work, request)
        except DmaFault as error:
            self._advance(work, error)

    def _send(self, work: Coroutine[object, bytes, None], request: object) -> None:
        assert self.session is not None
        if isinstance(request, DmaRead):
            self.session.send_dma_read(request.iova, request.length, lambda result: self._advance(work, result))
        elif isinstance(request, DmaWrite):
            self.session.send_dma_write(request.iova, request.data, lambda result: self._advance(work, result))


def _resume(work: Coroutine[object, bytes, None], outcome: bytes | Exception | None) -> object:
    if isinstance(outcome, Exception):
        return work.throw(outcome)
    return work.send(outcome)  # type: ignore[arg-type]  # None starts a coroutine


class Watcher:
    """Calls back when the test says so."""

    def __init__(self) -> None:
        self.callbacks: dict[int, Callable[[], None]] = {}

    def add(self, fd: int, signalled: Callable[[], None]) -> None:
        self.callbacks[fd] = signalled

    def remove(self, fd: int) -> None:
        del self.callbacks[fd]


class Served:
    """A device open behind one end of a socketpair, with a session in a thread; ``socket`` is the client's end."""

    busy_poll = 0
    """Nanoseconds."""

    def __init__(self, ops: DeviceOps | None = None) -> None:
        self.ops = ops or TestDevice()
        self.device = VfioDevice(UUID(int=1), "test/type", self.ops)
        self.step_lock, plain = chosen().new()
        self.device.serve_plain(plain)
        self.memory = GuestMemory()
        self.watcher = Watcher()
        self.region_file = RegionFile()
        self.socket, server_end = self._socketpair()
        self.socket.settimeout(PATIENCE)
        self.session = Session(server_end, self.device, self.step_lock, self.memory, self.watcher, self.busy_poll)
        self.jobs = Jobs(self.step_lock)
        self.jobs.session = self.session
        with self.step_lock:
            self.device.open(self._runner(), self.region_file)
        self.thread = threading.Thread(target=self._run, name="session")
        self.thread.start()

    def _socketpair(self) -> tuple[socket.socket, socket.socket]:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def _runner(self) -> JobRunner:
        return self.jobs

    def _run(self) -> None:
        try:
            self.session.run()
        finally:
            with self.step_lock:
                self.device.close()

    def ended(self) -> str:
        """Why the session ended; it must end by itself."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the session is still running"
        return self.session.reason

    def close(self) -> None:
        self.socket.close()
        self.session.close()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the session did not end"
        self.jobs.join()
        self.region_file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class CountingLock:
    """A step lock that counts how often it was taken so."""

    def __init__(self, lock: StepLock) -> None:
        self.taken = 0
        self._lock = lock
        self.acquire, self.release, self.locked = lock.acquire, lock.release, lock.locked
        self.is_wanted = lock.is_wanted

    def __enter__(self) -> bool:
        self.taken += 1
        return self._lock.__enter__()

    def __exit__(self, *_error: object) -> None:
        self._lock.release()


class ServedByHost(Served):
    """Its jobs are a host's: they sleep, pause, and their DMA is logged."""

    @override
    def _runner(self) -> JobRunner:
        self.job_thread = JobThread()
        return HostJobs(self.job_thread, self.step_lock, self.device, self.session, self.session.fail)

    @override
    def close(self) -> None:
        super().close()
        self.job_thread.stop()


class Answer(NamedTuple):
    """A message that the wire received."""

    header: Header
    payload: bytes
    fds: tuple[int, ...]

    @property
    def errno(self) -> int:
        """0 for a reply that is no error."""
        return self.header.errno if self.header.flags & ERROR else 0


class Wire:
    """Raw messages over a socket: nothing checks what is sent."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        if not data:
            return
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        sent = self.socket.sendmsg([data], rights)
        if sent != len(data):  # or the server may have closed already, as it should
            self.socket.sendall(data[sent:])

    def receive(self) -> Answer:
        """The next message. EOFError when the other end is closed."""
        data, fds = b"", array("i")
        wanted = HEADER.size
        while len(data) < wanted:
            part, ancillary, _flags, _ = self.socket.recvmsg(wanted - len(data), socket.CMSG_SPACE(256))
            for _level, _kind, numbers in ancillary:
                fds.frombytes(numbers)
            if not part:
                raise EOFError(f"closed after {len(data)} bytes")
            data += part
            if len(data) == HEADER.size:
                wanted = Header.decode(data).size
        return Answer(Header.decode(data), data[HEADER.size :], tuple(fds))

    def ask(self, command: int, payload: bytes = b"", fds: Sequence[int] = (), identity: int = 7) -> Answer:
        self.send(command_message(identity, command, payload), fds)
        answer = self.receive()
        assert (answer.header.id, answer.header.command) == (identity, command)
        return answer

    def hello(self, offer: Capabilities = OURS) -> Answer:
        self.send(Connection(Role.CLIENT, offer).hello())
        return self.receive()

    def post(self, command: int, payload: bytes = b"") -> None:
        self.send(command_message(9, command, payload, NO_REPLY))

    def works(self) -> bool:
        """Whether a valid request is answered properly, whatever came before it."""
        answer = self.ask(Command.REGION_READ, struct.pack("=QII", 0x10, 7, 4), identity=0xBEEF)
        return not answer.errno and answer.payload[16:] == bytes(range(0x10, 0x14))

    def closed(self) -> bool:
        """Whether the server has closed: everything it still says is read first."""
        try:
            while True:
                os.sched_yield()
                for fd in self.receive().fds:
                    os.close(fd)
        except (EOFError, ConnectionResetError):
            return True


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are all that is wanted
