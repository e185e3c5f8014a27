"""The client's side of a vfio-user connection, blocking: what a VMM does, for tests, guests of ours and `uapi`.

One thread uses a client at a time. While it waits for a reply it serves what the server asks for (DMA_READ,
DMA_WRITE); `serve` does that without a request of its own.
"""

import os
import select
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from mdev_user.errors import DmaFault, GuestError, MdevUserError, PeerError, UnknownRequest, errno_of
from mdev_user.vfio.dma import DmaFlags
from mdev_user.vfio.migration_states import MigrationFlags, MigrationState
from mdev_user.vfio.planes import Plane, PlaneType
from mdev_user.vfio.requests import (
    Area,
    DeviceFlags,
    DeviceInfo,
    Irq,
    IrqAction,
    IrqFlags,
    IrqInfo,
    RegionFlags,
    RegionType,
)
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.commands import NUMBERS, Reply, Request, Role
from mdev_user.vfio_user.connection import Answered, Asked, Connection, Event, Fds, Refused, RemoteError
from mdev_user.vfio_user.framing import LARGEST_DATA, error_message, reply_message
from mdev_user.vfio_user.transport import ANCILLARY_SIZE, RECEIVE_FLAGS, close_fds, received_fds, send_all
from mdev_user.vfio_user.version import Capabilities

_BUFFER_SIZE = 64 << 10
_MOST_REGION_INFO = 64 << 10
"""Bytes of a region's information that we ask for, whatever a server says it needs."""

_R = TypeVar("_R", bound=Reply)
_A = TypeVar("_A")
_D = TypeVar("_D")


class ServedMemory(Protocol):
    """The guest's memory as the server's DMA messages see it. Raises DmaFault for what is not there."""

    def read(self, address: int, count: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...


def _go_on() -> None:
    """Nobody has to know that the server is slow."""


class NoMemory:
    """No guest memory: every DMA message is answered by EFAULT."""

    def read(self, address: int, count: int) -> bytes:
        raise DmaFault(f"there is no memory: {count} bytes at {address:#x}")

    def write(self, address: int, data: bytes) -> None:
        raise DmaFault(f"there is no memory: {len(data)} bytes at {address:#x}")


@dataclass(frozen=True, slots=True)
class ClientRegion:
    """A region as the server describes it; ``fd`` (-1 for none) is the caller's to close.

    ``areas`` may be mapped at ``offset + area.offset`` of the fd; without any, a region with MMAP all of it.
    """

    index: int
    flags: RegionFlags
    size: int
    offset: int
    areas: tuple[Area, ...]
    fd: int
    type: RegionType | None = None


class Client:
    """One connection to a vfio-user server. Every request raises `RemoteError` with the errno that the server gave.

    ``carried`` is one byte, not 0 while part of a message has been received: then a new request is not alone on the
    connection. Whole messages stay in the socket until somebody serves them, so that it is readable.
    """

    def __init__(self, path: str | Path, memory: ServedMemory | None = None, timeout: float | None = None) -> None:
        """Connect and negotiate. ``timeout`` in seconds bounds every wait (TimeoutError); None waits for ever."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(os.fspath(path))
        except BaseException:
            sock.close()
            raise
        self._begin(sock, memory)

    @classmethod
    def over(cls, sock: socket.socket, memory: ServedMemory | None = None) -> Self:
        """A client on a connected socket, which it owns from here on."""
        client = cls.__new__(cls)
        client._begin(sock, memory)  # noqa: SLF001 - our own
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        close_fds(self.connection.take_fds())
        self.socket.close()

    def device_info(self) -> DeviceInfo:
        reply = self._ask(m.DeviceGetInfo(), m.DeviceInfoReply)
        return DeviceInfo(DeviceFlags(reply.flags), reply.num_regions, reply.num_irqs)

    def region_info(self, index: int) -> ClientRegion:
        """Asks again with more room when the server says that its answer takes it, as QEMU does."""
        reply, fds = self._ask_with(m.DeviceGetRegionInfo(index), m.RegionInfoReply)
        argsz = m.DeviceGetRegionInfo(index).argsz
        if argsz < reply.argsz <= _MOST_REGION_INFO:
            close_fds(fds.take())
            reply, fds = self._ask_with(m.DeviceGetRegionInfo(index, reply.argsz), m.RegionInfoReply)
        fd = next(iter(fds.take()), -1)
        return ClientRegion(index, RegionFlags(reply.flags), reply.size, reply.offset, reply.areas, fd, reply.type)

    def irq_info(self, index: int) -> IrqInfo:
        reply = self._ask(m.DeviceGetIrqInfo(index), m.IrqInfoReply)
        return IrqInfo(reply.index, IrqFlags(reply.flags), reply.count)

    def arm(self, index: Irq, eventfds: Sequence[int], start: int = 0) -> None:
        """Let the vectors from ``start`` on signal these eventfds, which stay the caller's."""
        request = m.DeviceSetIrqs(index, start, len(eventfds), IrqAction.TRIGGER, m.IrqData.EVENTFD)
        self._ask_with(request, m.Done, eventfds)

    def disarm(self, index: Irq) -> None:
        """Take every eventfd of the index away."""
        self._ask(m.DeviceSetIrqs(index, 0, 0, IrqAction.TRIGGER), m.Done)

    def mask(self, index: Irq = Irq.INTX, start: int = 0, count: int = 1) -> None:
        """Let these vectors not fire until they are unmasked."""
        self._ask(m.DeviceSetIrqs(index, start, count, IrqAction.MASK), m.Done)

    def unmask(self, index: Irq = Irq.INTX, start: int = 0, count: int = 1) -> None:
        """Tell the device that the level interrupt has been dealt with."""
        self._ask(m.DeviceSetIrqs(index, start, count, IrqAction.UNMASK), m.Done)

    def trigger(self, index: Irq, start: int = 0, count: int = 1) -> None:
        """Fire these vectors, as the device would: a test of the way that an interrupt takes."""
        self._ask(m.DeviceSetIrqs(index, start, count, IrqAction.TRIGGER), m.Done)

    def set_irqs(self, request: m.DeviceSetIrqs, eventfds: Sequence[int] = ()) -> None:
        """Any SET_IRQS; the eventfds stay the caller's."""
        self._ask_with(request, m.Done, eventfds)

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        return self._ask(m.RegionRead(offset, region, count), m.RegionReadReply).data

    def region_write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        """A ``posted`` write is not waited for, and nobody tells whether it was done; others come after it."""
        request = m.RegionWrite(offset, region, data)
        if posted:
            self._post(request)
        else:
            self._ask(request, m.RegionWriteReply)

    def write_multi(self, writes: Sequence[m.RegionWrite], *, posted: bool = False) -> int:
        """Several writes of 1 to 8 bytes in one message; returns how many were done (0 when posted).

        ENOTTY when the server has not agreed to such messages.
        """
        if not self._server.write_multiple:
            raise UnknownRequest("the server does not take REGION_WRITE_MULTI")
        request = m.RegionWriteMulti(tuple(writes))
        if posted:
            self._post(request)
            return 0
        return self._ask(request, m.RegionWriteMultiReply).completed

    def region_io_fds(self, index: int) -> int:
        """For how many parts of a region the server offers file descriptors; they are not kept."""
        return self._ask(m.DeviceGetRegionIoFds(index), m.RegionIoFdsReply).count

    def dma_map(
        self, iova: int, size: int, fd: int = -1, offset: int = 0, flags: DmaFlags = DmaFlags.READ | DmaFlags.WRITE
    ) -> None:
        """Map guest memory for the device; without an fd the device asks `ServedMemory`. The fd stays the caller's."""
        self._ask_with(m.DmaMap(flags, offset, iova, size), m.Done, () if fd < 0 else (fd,))

    def dma_unmap(self, iova: int, size: int) -> None:
        """Unmap exactly one mapping; when this returns the device has let go of it."""
        self._ask(m.DmaUnmap(iova, size), m.DmaUnmapReply)

    def dma_unmap_dirty(self, iova: int, size: int, page_size: int) -> bytes:
        """`dma_unmap`, and of what it unmaps which pages the device wrote: a bit for each ``page_size`` bytes."""
        bitmap_size = m.DmaReport(iova, size, page_size).bitmap_size
        request = m.DmaUnmap(iova, size, m.UnmapFlags.DIRTY_BITMAP, page_size, bitmap_size)
        return self._ask(request, m.DmaUnmapReply).bitmap

    def dma_unmap_all(self) -> None:
        """Unmap everything."""
        self._ask(m.DmaUnmap(0, 0, m.UnmapFlags.ALL), m.DmaUnmapReply)

    def reset(self) -> None:
        self._ask(m.DeviceReset(), m.Done)

    def probe_feature(self, feature: m.Feature, ops: m.FeatureOps) -> None:
        """Whether this can be done with a feature. ENOTTY when the device does not have it, EINVAL when only others."""
        self._feature(m.DeviceFeature(feature, ops | m.FeatureOps.PROBE, m.DeviceFeature.HEAD))

    def feature_flags(self) -> MigrationFlags:
        """How the device can be migrated. ENOTTY when it cannot."""
        data = self._feature(m.DeviceFeature.get(m.Feature.MIGRATION, room=m.U64.SIZE))
        return MigrationFlags(_told(m.U64.decode, data).value)

    def migration_state(self) -> MigrationState:
        data = self._feature(m.DeviceFeature.get(m.Feature.MIG_DEVICE_STATE, room=m.DeviceState.SIZE))
        return _told(MigrationState, _told(m.DeviceState.decode, data).state)

    def set_migration_state(self, state: MigrationState) -> None:
        """When this returns the device is there; when it raises, `migration_state` tells where it is."""
        self._feature(m.DeviceFeature.set(m.Feature.MIG_DEVICE_STATE, m.DeviceState(state).encode()))

    def migration_data_size(self) -> int:
        """How many bytes are to be read until the device is stopped and elsewhere, about."""
        data = self._feature(m.DeviceFeature.get(m.Feature.MIG_DATA_SIZE, room=m.U64.SIZE))
        return _told(m.U64.decode, data).value

    def read_migration_data(self, most: int) -> bytes:
        """1 byte to 1 MiB of the device's state. Less than ``most``: no more (STOP_COPY), or not now (PRE_COPY)."""
        return self._ask(m.MigDataRead(most), m.MigDataReadReply).data

    def write_migration_data(self, data: bytes) -> None:
        """In as many messages as the server needs for it."""
        most = min(
            LARGEST_DATA, LARGEST_DATA if self.connection.peer is None else self.connection.peer.max_data_xfer_size
        )
        for start in range(0, len(data), most):
            self._ask(m.MigDataWrite(data[start : start + most]), m.Done)

    def start_dma_logging(self, page_size: int, ranges: Sequence[tuple[int, int]] = ()) -> int:
        """Log what the device writes in these ranges (address, length), or everywhere. Returns its page size."""
        request = m.DeviceFeature.set(m.Feature.DMA_LOGGING_START, m.DmaLogging(page_size, tuple(ranges)).encode())
        return _told(m.DmaLogging.decode, self._feature(request)).page_size

    def stop_dma_logging(self) -> None:
        self._feature(m.DeviceFeature.set(m.Feature.DMA_LOGGING_STOP))

    def report_dma_logging(self, iova: int, length: int, page_size: int) -> bytes:
        """Which pages of a range the device wrote since they were last reported: a bit for each ``page_size`` bytes."""
        report = m.DmaReport(iova, length, page_size)
        room = m.DmaReport.SIZE + report.bitmap_size
        data = self._feature(m.DeviceFeature.get(m.Feature.DMA_LOGGING_REPORT, report.encode(), room=room))
        if len(data) != room:
            raise PeerError(f"a dirty bitmap with {len(data)} bytes of data: expected {room}")
        return data[m.DmaReport.SIZE :]

    def set_traps(self, listener: int, memory: int) -> None:
        """Let the server end this program's calls (`messages.traps`); the fds stay the caller's. EPERM, EINVAL."""
        _, fds = self._ask_with(m.SetTraps(), m.Done, (listener, memory))
        close_fds(fds.take())

    def post_traps(self, listener: int, memory: int) -> None:
        """As `set_traps`, of a server that took some before: it is not waited for."""
        send_all(self.socket, self.connection.post(m.SetTraps()), (listener, memory))

    def plane(self, kind: PlaneType) -> Plane | None:
        """What the device shows; None for nothing. ENOTTY when it has no screen, or the server is not one of ours."""
        request = m.DeviceFeature.get(m.Feature.GFX_PLANE, m.PlaneQuery(kind).encode(), room=m.PlaneReply.SIZE)
        return _told(m.PlaneReply.decode, self._feature(request)).plane

    def serve(self) -> None:
        """Wait for one message of the server's and answer it. ConnectionResetError when the server is gone."""
        self._answer(self._next_event())

    def _begin(self, sock: socket.socket, memory: ServedMemory | None) -> None:
        self.socket = sock
        self.memory: ServedMemory = NoMemory() if memory is None else memory
        self.connection = Connection(Role.CLIENT)
        self.carried = bytearray(1)
        self.late: Callable[[], None] = _go_on
        self._buffer = bytearray(_BUFFER_SIZE)
        try:
            sock.sendall(self.connection.hello())
            event = self._next_event()
            close_fds(event.fds.take())
            if isinstance(event, Answered) and isinstance(event.reply, Exception):
                raise event.reply
        except BaseException:
            self.close()
            raise

    @property
    def _server(self) -> Capabilities:
        return self.connection.peer or Capabilities()

    def _feature(self, request: m.DeviceFeature) -> bytes:
        """The data of the reply."""
        return self._ask(request, m.DeviceFeature).data

    def _post(self, request: Request) -> None:
        send_all(self.socket, self.connection.post(request))

    def _ask(self, request: Request, kind: type[_R]) -> _R:
        reply, fds = self._ask_with(request, kind)
        close_fds(fds.take())
        return reply

    def _ask_with(self, request: Request, kind: type[_R], fds: Sequence[int] = ()) -> tuple[_R, Fds]:
        """The reply and the fds that came with it, which are the caller's."""
        identity, message = self.connection.ask(request)
        send_all(self.socket, message, fds)
        return self._answer_to(identity, request, kind)

    def follow(self, identity: int, request: Request, kind: type[_R], received: bytes | bytearray | None) -> _R:
        """The reply to a request that was sent with this id, after which so much was received.

        Nothing (b"") is the server's end; None when nothing came in time.
        """
        self.connection.asked(identity, request)
        if received is None:
            self.late()
        else:
            self._received(len(received), received, Fds())
        reply, fds = self._answer_to(identity, request, kind)
        close_fds(fds.take())
        return reply

    def wait(self) -> None:
        """Wait until the server has sent something, or is gone."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        poll.poll()

    def _answer_to(self, identity: int, request: Request, kind: type[_R]) -> tuple[_R, Fds]:
        while not isinstance(event := self._next_event(), Answered):
            self._answer(event)
        if event.id == identity and isinstance(event.reply, kind):
            return event.reply, event.fds
        close_fds(event.fds.take())
        if isinstance(event.reply, RemoteError):
            raise event.reply
        raise PeerError(f"the server's reply to {NUMBERS[type(request)].name}: {event.reply}")

    def _next_event(self) -> Event:
        """Of one message, and what follows stays in the socket: whoever waits for that one is to be woken by it."""
        while (event := self.connection.next_event()) is None:
            room = memoryview(self._buffer)[: self.connection.wanted]
            try:
                size, ancillary, flags, _ = self.socket.recvmsg_into([room], ANCILLARY_SIZE, RECEIVE_FLAGS)
            except BlockingIOError:  # somebody set SO_RCVTIMEO
                self.late()
                self.wait()
                continue
            self._received(size, self._buffer, received_fds(ancillary, flags))
        self.carried[0] = self.connection.midway
        return event

    def _received(self, size: int, buffer: bytes | bytearray, fds: Fds) -> None:
        if not size:
            raise ConnectionResetError("the vfio-user server closed the connection")
        self.connection.receive(memoryview(buffer)[:size], fds)

    def _answer(self, event: Event) -> None:
        """Answer a request of the server's."""
        close_fds(event.fds.take())
        match event:
            case Asked():
                reply = self._performed(event)
                if not event.no_reply:
                    send_all(self.socket, reply)
            case Refused():
                if event.reply:
                    send_all(self.socket, event.reply)
            case _:
                raise PeerError(f"the server sent what nobody waits for: {type(event).__name__}")

    def _performed(self, event: Asked) -> bytes:
        try:
            return reply_message(event.id, event.command, self._perform(event.request).encode())
        except (MdevUserError, OSError) as error:
            return error_message(event.id, event.command, errno_of(error))

    def _perform(self, request: Request) -> Reply:
        match request:
            case m.DmaRead(address, count):
                return m.DmaReadReply(address, self.memory.read(address, count))
            case m.DmaWrite(address, data):
                self.memory.write(address, data)
                return m.DmaWriteReply(address, len(data))
            case _:
                raise PeerError(f"{request} is not a server's to ask")


def _told(decode: Callable[[_A], _D], value: _A) -> _D:
    """What a server says, where it can say something that is none."""
    try:
        return decode(value)
    except (GuestError, ValueError) as error:
        raise PeerError(f"the server's reply to DEVICE_FEATURE: {error}") from error
