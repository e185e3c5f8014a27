"""DMA by messages: reaching guest memory that came without a file descriptor, by asking the VMM for it.

An access longer than the VMM takes at once goes in parts, one after the other, so that a slow VMM never has more than
one message of it in its way and nothing but the result is kept here. Used under the step lock.
"""

from collections.abc import Callable
from typing import Protocol

from mdev_user.errors import DmaFault, GuestError
from mdev_user.vfio_user.commands import Reply, Request
from mdev_user.vfio_user.connection import Answered, Connection
from mdev_user.vfio_user.framing import LARGEST_DATA
from mdev_user.vfio_user.messages import DmaRead, DmaReadReply, DmaWrite

Done = Callable[[bytes | Exception], None]
"""Called once, as a step: with the bytes read (none for a write), or with what went wrong."""


class _Transfer(Protocol):
    done: Done

    def next_part(self, most: int) -> Request | None: ...

    def took(self, reply: Reply) -> None: ...

    def result(self) -> bytes: ...


class _Read:
    __slots__ = ("_data", "_iova", "_length", "done")

    def __init__(self, iova: int, length: int, done: Done) -> None:
        self._iova, self._length, self.done = iova, length, done
        self._data = bytearray()

    def next_part(self, most: int) -> Request | None:
        got = len(self._data)
        return DmaRead(self._iova + got, min(most, self._length - got)) if got < self._length else None

    def took(self, reply: Reply) -> None:
        if isinstance(reply, DmaReadReply):
            self._data += reply.data

    def result(self) -> bytes:
        return bytes(self._data)


class _Write:
    __slots__ = ("_data", "_iova", "_next", "done")

    def __init__(self, iova: int, data: bytes, done: Done) -> None:
        self._iova, self._data, self.done = iova, data, done
        self._next = 0

    def next_part(self, most: int) -> Request | None:
        start = self._next
        self._next = min(start + most, len(self._data))
        return DmaWrite(self._iova + start, self._data[start : self._next]) if start < len(self._data) else None

    def took(self, reply: Reply) -> None:
        """A write's reply brings nothing."""

    def result(self) -> bytes:
        return b""


class MessageDma:
    """The transfers that wait for the VMM's answers, by message id."""

    __slots__ = ("_connection", "_ended", "_send", "_waiting")

    def __init__(self, connection: Connection, send: Callable[[bytes], None]) -> None:
        self._connection = connection
        self._send = send
        self._waiting: dict[int, _Transfer] = {}
        self._ended = False

    def read(self, iova: int, length: int, done: Done) -> None:
        """EFAULT at once when the client is gone."""
        self._go_on(_Read(iova, length, done))

    def write(self, iova: int, data: bytes, done: Done) -> None:
        """EFAULT at once when the client is gone."""
        self._go_on(_Write(iova, data, done))

    def answered(self, event: Answered) -> None:
        transfer = self._waiting.pop(event.id, None)
        if transfer is None:
            return
        if isinstance(event.reply, Exception):
            transfer.done(DmaFault(f"the guest's memory could not be reached: {event.reply}"))
            return
        transfer.took(event.reply)
        try:
            self._go_on(transfer)
        except GuestError as error:
            transfer.done(error)

    def end(self) -> list[Done]:
        """Nothing will be answered any more. Returns whom to tell."""
        self._ended = True
        waiting, self._waiting = self._waiting, {}
        return [transfer.done for transfer in waiting.values()]

    def _go_on(self, transfer: _Transfer) -> None:
        peer = self._connection.peer
        if self._ended or peer is None:
            raise DmaFault("the client is gone: its memory cannot be reached")
        part = transfer.next_part(min(peer.max_data_xfer_size, LARGEST_DATA))
        if part is None:
            transfer.done(transfer.result())
            return
        identity, message = self._connection.ask(part)
        self._waiting[identity] = transfer
        self._send(message)
