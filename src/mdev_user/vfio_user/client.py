"""The client's side of a vfio-user connection, blocking: what a VMM does, for tests, guests of ours and `uapi`.

One thread uses a client at a time. While it waits for a reply it serves what the server asks for (DMA_READ,
DMA_WRITE); `serve` does that without a request of its own.
"""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from mdev_user.errors import DmaFault, MdevUserError, PeerError, errno_of
from mdev_user.vfio.dma import DmaFlags
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
from mdev_user.vfio_user.framing import error_message, reply_message
from mdev_user.vfio_user.transport import ANCILLARY_SIZE, RECEIVE_FLAGS, close_fds, received_fds, send_all

_BUFFER_SIZE = 64 << 10
_MOST_REGION_INFO = 64 << 10
"""Bytes of a region's information that we ask for, whatever a server says it needs."""

_R = TypeVar("_R", bound=Reply)


class ServedMemory(Protocol):
    """The guest's memory as the server's DMA messages see it. Raises DmaFault for what is not there."""

    def read(self, address: int, count: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...


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
    """One connection to a vfio-user server. Every request raises `RemoteError` with the errno that the server gave."""

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

    def unmask(self, index: Irq = Irq.INTX) -> None:
        """Tell the device that the level interrupt has been dealt with."""
        self._ask(m.DeviceSetIrqs(index, 0, 1, IrqAction.UNMASK), m.Done)

    def set_irqs(self, request: m.DeviceSetIrqs, eventfds: Sequence[int] = ()) -> None:
        """Any SET_IRQS; the eventfds stay the caller's."""
        self._ask_with(request, m.Done, eventfds)

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        return self._ask(m.RegionRead(offset, region, count), m.RegionReadReply).data

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        self._ask(m.RegionWrite(offset, region, data), m.RegionWriteReply)

    def dma_map(
        self, iova: int, size: int, fd: int = -1, offset: int = 0, flags: DmaFlags = DmaFlags.READ | DmaFlags.WRITE
    ) -> None:
        """Map guest memory for the device; without an fd the device asks `ServedMemory`. The fd stays the caller's."""
        self._ask_with(m.DmaMap(flags, offset, iova, size), m.Done, () if fd < 0 else (fd,))

    def dma_unmap(self, iova: int, size: int) -> None:
        """Unmap exactly one mapping; when this returns the device has let go of it."""
        self._ask(m.DmaUnmap(iova, size), m.DmaUnmap)

    def reset(self) -> None:
        self._ask(m.DeviceReset(), m.Done)

    def serve(self) -> None:
        """Wait for one message of the server's and answer it. ConnectionResetError when the server is gone."""
        self._answer(self._next_event())

    def _begin(self, sock: socket.socket, memory: ServedMemory | None) -> None:
        self.socket = sock
        self.memory: ServedMemory = NoMemory() if memory is None else memory
        self.connection = Connection(Role.CLIENT)
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

    def _ask(self, request: Request, kind: type[_R]) -> _R:
        reply, fds = self._ask_with(request, kind)
        close_fds(fds.take())
        return reply

    def _ask_with(self, request: Request, kind: type[_R], fds: Sequence[int] = ()) -> tuple[_R, Fds]:
        """The reply and the fds that came with it, which are the caller's."""
        identity, message = self.connection.ask(request)
        send_all(self.socket, message, fds)
        while not isinstance(event := self._next_event(), Answered):
            self._answer(event)
        if event.id == identity and isinstance(event.reply, kind):
            return event.reply, event.fds
        close_fds(event.fds.take())
        if isinstance(event.reply, RemoteError):
            raise event.reply
        raise PeerError(f"the server's reply to {NUMBERS[type(request)].name}: {event.reply}")

    def _next_event(self) -> Event:
        while (event := self.connection.next_event()) is None:
            size, ancillary, flags, _ = self.socket.recvmsg_into([self._buffer], ANCILLARY_SIZE, RECEIVE_FLAGS)
            if not size:
                raise ConnectionResetError("the vfio-user server closed the connection")
            self.connection.receive(memoryview(self._buffer)[:size], received_fds(ancillary, flags))
        return event

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
