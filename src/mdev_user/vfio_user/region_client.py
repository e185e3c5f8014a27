"""The client's half of a region access, lean: a processor waits for each one that a program of `run` makes.

An access to a register is one send and one receive of a message whose every byte but the data is known beforehand, so
one comparison checks the reply. Whatever else comes, a server's DMA request in between, an error, part of a message, is
`Client`'s to follow: what was received goes to its connection, as though that had asked.
"""

import socket
from collections.abc import Callable
from struct import Struct

from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import COMMAND, HEADER, REPLY, Command
from mdev_user.vfio_user.loops import chosen

REGISTER = 8
"""Bytes of an access that takes the lean way at most."""
IDENTITY = 0xFFFF
"""The id of every lean request: while one waits nothing else of ours does."""
PATIENCE_MS = 4
"""Milliseconds after which a server is slow, and whoever waits for it lets others go on."""

_HEAD = m.ACCESS_MESSAGE.size
_TIMEVAL = Struct("@ll")
_COUNTS = range(REGISTER + 1)
_place = m.ACCESS.pack
_header = HEADER.pack
_READ = _header(IDENTITY, Command.REGION_READ, _HEAD, COMMAND, 0)
_READ_DONE = [_header(IDENTITY, Command.REGION_READ, _HEAD + count, REPLY, 0) for count in _COUNTS]
_WRITE = [_header(IDENTITY, Command.REGION_WRITE, _HEAD + count, COMMAND, 0) for count in _COUNTS]
_WRITE_DONE = _header(IDENTITY, Command.REGION_WRITE, _HEAD, REPLY, 0)


class RegionClient:
    """Accesses to the regions of a `Client`'s device. One thread at a time uses the two.

    ``late`` is called whenever the server takes longer than ``patience_ms`` for an answer, before it is waited for.
    """

    __slots__ = ("_client", "_receive", "_reply", "_rooms", "_send")

    def __init__(self, client: Client, late: Callable[[], None], patience_ms: int = PATIENCE_MS) -> None:
        """The client's socket must block, without a timeout of Python's."""
        sock = client.socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(0, patience_ms * 1000))
        client.late = late
        self._client = client
        self._send, self._receive = sock.send, sock.recv_into
        self._reply = bytearray(_HEAD + REGISTER)
        self._rooms = [memoryview(self._reply)[: _HEAD + count] for count in _COUNTS]

    def read(self, region: int, offset: int, count: int) -> bytes:
        """RemoteError with the errno that the server gave."""
        client = self._client
        if count > REGISTER or client.carried[0]:
            return client.region_read(region, offset, count)
        place = _place(offset, region, count)
        self._send(_READ + place)
        try:
            size = self._receive(self._rooms[count])
        except BlockingIOError:
            return self.finish_read(region, offset, count, None)
        reply = self._reply
        if size == _HEAD + count and reply[:_HEAD] == _READ_DONE[count] + place:
            return bytes(reply[_HEAD:size])
        return self.finish_read(region, offset, count, reply[:size])

    def write(self, region: int, offset: int, data: bytes) -> None:
        """RemoteError with the errno that the server gave."""
        client, count = self._client, len(data)
        if count > REGISTER or client.carried[0]:
            client.region_write(region, offset, data)
            return
        place = _place(offset, region, count)
        self._send(_WRITE[count] + place + data)
        try:
            size = self._receive(self._rooms[0])
        except BlockingIOError:
            self.finish_write(region, offset, data, None)
            return
        reply = self._reply
        if size != _HEAD or reply[:_HEAD] != _WRITE_DONE + place:
            self.finish_write(region, offset, data, reply[:size])

    def finish_read(self, region: int, offset: int, count: int, received: bytes | bytearray | None) -> bytes:
        """The end of a lean read after which this was received, not its reply; None: nothing came in time."""
        request = m.RegionRead(offset, region, count)
        return self._client.follow(IDENTITY, request, m.RegionReadReply, received).data

    def finish_write(self, region: int, offset: int, data: bytes, received: bytes | bytearray | None) -> None:
        """As `finish_read`."""
        self._client.follow(IDENTITY, m.RegionWrite(offset, region, data), m.RegionWriteReply, received)


def new_lock() -> StepLock:
    """What a thread holds while it uses a client: one that the native receiver takes, where that is chosen."""
    return chosen().new()[0]
