"""DMA by messages: reaching guest memory that came without a file descriptor, by asking the VMM for it.

An access longer than the VMM takes at once goes in parts, one after the other, so that a slow VMM never has more than
one message of it in its way and nothing but the result is kept here. So many messages are under way at once, so many
bytes and accesses wait, and no more: a VMM need not answer at all. Of what has begun nothing more is sent while the
device is stopped, and never again when it was reset or the memory unmapped. Used under the step lock.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from mdev_user.errors import DmaFault, GuestError
from mdev_user.vfio_user.commands import Reply, Request
from mdev_user.vfio_user.connection import Answered, Connection
from mdev_user.vfio_user.framing import LARGEST_DATA
from mdev_user.vfio_user.messages import DmaRead, DmaReadReply, DmaWrite

MOST_UNDER_WAY = 16
"""Messages that wait for the VMM's answers."""
MOST_WAITING, MOST_BYTES = 65536, 256 << 20
"""Accesses that wait or are under way, and their bytes together; the next one fails then."""

Done = Callable[[bytes | Exception], None]
"""Called once, as a step: with the bytes read (none for a write), or with what went wrong."""


Wanted = Callable[[], bool]
"""Whether the device still may, and somebody waits for it."""


def still() -> bool:
    """Whatever happens."""
    return True


class _Transfer(Protocol):
    done: Done
    wanted: Wanted
    size: int

    def next_part(self, most: int) -> Request | None: ...

    def took(self, reply: Reply) -> None: ...

    def result(self) -> bytes: ...


class _Read:
    __slots__ = ("_data", "_iova", "done", "size", "wanted")

    def __init__(self, iova: int, length: int, done: Done, wanted: Wanted) -> None:
        self._iova, self.size, self.done, self.wanted = iova, length, done, wanted
        self._data = bytearray()

    def next_part(self, most: int) -> Request | None:
        got = len(self._data)
        return DmaRead(self._iova + got, min(most, self.size - got)) if got < self.size else None

    def took(self, reply: Reply) -> None:
        if isinstance(reply, DmaReadReply):
            self._data += reply.data

    def result(self) -> bytes:
        return bytes(self._data)


class _Write:
    __slots__ = ("_data", "_iova", "_next", "done", "size", "wanted")

    def __init__(self, iova: int, data: bytes, done: Done, wanted: Wanted) -> None:
        self._iova, self._data, self.size, self.done, self.wanted = iova, data, len(data), done, wanted
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

    __slots__ = ("_acts", "_bytes", "_connection", "_ended", "_queue", "_send", "_under_way")

    def __init__(self, connection: Connection, send: Callable[[bytes], None], acts: Callable[[], bool]) -> None:
        """``acts``: whether the device may send at the moment. Call `go_on` when it may again."""
        self._acts = acts
        self._connection = connection
        self._send = send
        self._under_way: dict[int, _Transfer] = {}
        self._queue: deque[_Transfer] = deque()
        self._bytes = 0
        self._ended = False

    def read(self, iova: int, length: int, done: Done, wanted: Wanted) -> None:
        """EFAULT at once when the client is gone, or answers too slowly for all that is asked of it."""
        self._begin(_Read(iova, length, done, wanted))

    def write(self, iova: int, data: bytes, done: Done, wanted: Wanted) -> None:
        """EFAULT at once when the client is gone, or answers too slowly for all that is asked of it."""
        self._begin(_Write(iova, data, done, wanted))

    def answered(self, event: Answered) -> None:
        transfer = self._under_way.pop(event.id, None)
        if transfer is None:
            return
        try:
            self._take(transfer, event.reply)
        finally:
            self.go_on()

    def end(self) -> list[Done]:
        """Nothing will be answered any more. Returns whom to tell."""
        self._ended = True
        waiting = [*self._under_way.values(), *self._queue]
        self._under_way, self._queue, self._bytes = {}, deque(), 0
        return [transfer.done for transfer in waiting]

    def _begin(self, transfer: _Transfer) -> None:
        if len(self._under_way) + len(self._queue) >= MOST_WAITING or self._bytes >= MOST_BYTES:
            raise DmaFault(
                f"the guest's memory could not be reached: {self._bytes} bytes wait for the client's answers"
            )
        if self._queue or len(self._under_way) >= MOST_UNDER_WAY or not self._acts():
            self._check_peer()
            self._queue.append(transfer)
            self._bytes += transfer.size
            return
        self._bytes += transfer.size
        try:
            self._go_on(transfer)
        except (GuestError, OSError):  # it did not begin
            self._bytes -= transfer.size
            raise

    def go_on(self) -> None:
        """Send what waits, as far as it can be sent now."""
        while self._queue and len(self._under_way) < MOST_UNDER_WAY and self._acts() and not self._ended:
            self._go_on_or_fail(self._queue.popleft())

    def _take(self, transfer: _Transfer, reply: Reply | Exception) -> None:
        if isinstance(reply, Exception):
            self._finish(transfer, DmaFault(f"the guest's memory could not be reached: {reply}"))
            return
        transfer.took(reply)
        if self._acts():
            self._go_on_or_fail(transfer)
        else:
            self._queue.appendleft(transfer)

    def _go_on_or_fail(self, transfer: _Transfer) -> None:
        try:
            self._go_on(transfer)
        except (GuestError, OSError) as error:
            self._finish(transfer, DmaFault(f"the guest's memory could not be reached: {error}"))

    def _finish(self, transfer: _Transfer, result: bytes | Exception) -> None:
        self._bytes -= transfer.size
        transfer.done(result)

    def _check_peer(self) -> int:
        """The most bytes of a message; EFAULT when the client is gone."""
        peer = self._connection.peer
        if self._ended or peer is None:
            raise DmaFault("the client is gone: its memory cannot be reached")
        return min(peer.max_data_xfer_size, LARGEST_DATA)

    def _go_on(self, transfer: _Transfer) -> None:
        part = transfer.next_part(self._check_peer())
        if part is None:
            self._finish(transfer, transfer.result())
            return
        if not transfer.wanted():
            raise DmaFault("it was unmapped meanwhile, or the device was reset")
        identity, message = self._connection.ask(part)
        self._send(message)
        self._under_way[identity] = transfer  # only now: what was not sent is told to whoever asked, and once
