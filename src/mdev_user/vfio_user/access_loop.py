"""The loop that answers region accesses, in Python: the reference of the native one, and what there is without it.

A guest's processor waits for every access, so the loop does what an access needs and no more: one receive, one unpack,
a row of the table of plain registers or else the driver's method, one send; and it takes the step lock's token itself,
since calling ``acquire`` and ``release`` costs three times that. An access to a plain register runs no driver's code,
so nothing times it. Whatever is not one whole, single, valid access without file descriptors is left to `Connection`;
since both ways perform an access with the same `Accesses`, they cannot differ in what it does.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from time import perf_counter_ns
from typing import Protocol

from mdev_user.vfio.requests import REGION_SHIFT
from mdev_user.vfio_user.accesses import Accesses
from mdev_user.vfio_user.framing import COMMAND, LARGEST_DATA, Command
from mdev_user.vfio_user.letting_in import let_in
from mdev_user.vfio_user.messages import ACCESS, ACCESS_MESSAGE
from mdev_user.vfio_user.outgoing import Outgoing
from mdev_user.vfio_user.plain_table import Place, PlainTable
from mdev_user.vfio_user.token_lock import TOKEN, TokenLock
from mdev_user.vfio_user.transport import ANCILLARY_SIZE, RECEIVE_FLAGS, Ancillary
from mdev_user.vfio_user.traps import Traps

_HEAD = ACCESS_MESSAGE.size
_REGISTER = 8
"""Bytes of a register at most; longer writes take the other way, where their data costs more than the way does."""
_MOST = _HEAD + _REGISTER
_FAR = 1 << REGION_SHIFT
"""No region is longer, so offsets from here on are somebody's mistake and take the other way too."""

# What a message of the loop's begins with behind its id: command, size, flags (the errno is nobody's). One comparison.
_REQUEST = Struct("=H10s4x16s")
_head_of = Struct("=HII").pack
_READ_HEAD = _head_of(Command.REGION_READ, _HEAD, COMMAND)
_WRITE_HEADS = [_head_of(Command.REGION_WRITE, _HEAD + size, COMMAND) for size in range(_REGISTER + 1)]
_place_of = ACCESS.unpack
_data_of = [Struct(f"{size}s").unpack_from for size in range(_REGISTER + 1)]
_pack_written = Struct("=H30s").pack
_TRUNCATED, _DONT_WAIT = int(socket.MSG_CTRUNC), int(socket.MSG_DONTWAIT)

Received = tuple[int, Ancillary, int]
"""What a receive into the session's buffer gave: number of bytes, ancillary data, flags."""
_Receive = Callable[[list[bytearray], int, int], tuple[int, Ancillary, int, object]]


@dataclass(frozen=True, slots=True)
class Line:
    """What a session receives from, and sends to."""

    socket: socket.socket
    outgoing: Outgoing
    buffer: bytearray
    """Where messages are received, of more bytes than an access has."""
    busy_poll: int
    """Nanoseconds to look for a message before sleeping until there is one."""
    traps: Traps
    """Whose calls are answered instead of replied to; this loop leaves them to `Connection`."""


class AccessLoop(Protocol):
    """Of one session."""

    def serve(self) -> Received:
        """Answer accesses until something else is received into the buffer. OSError when the peer is gone."""


class PythonLoop:
    """The loop in Python."""

    __slots__ = ("_accesses", "_buffer", "_lock", "_outgoing", "_receive", "_send", "_table")

    def __init__(self, line: Line, accesses: Accesses, lock: TokenLock, table: PlainTable) -> None:
        self._receive = polling(line.socket.recvmsg_into, line.busy_poll)
        self._send, self._outgoing, self._buffer = line.socket.send, line.outgoing, line.buffer
        self._accesses, self._lock, self._table = accesses, lock, table

    def serve(self) -> Received:  # noqa: C901, PLR0912, PLR0915 - in one piece: a call costs as much as what is called
        receive, send, buffer, buffers = self._receive, self._send, self._buffer, [self._buffer]
        unpack, acquire, waiting = _REQUEST.unpack_from, self._lock.acquire, self._outgoing.waiting
        take, give, queue, wake = self._lock.token.pop, self._lock.token.append, self._lock.queue, self._wake
        read_row, write_row, table = self._table.read_rows.get, self._table.write_rows.get, self._table
        while True:
            size, ancillary, flags, _ = receive(buffers, ANCILLARY_SIZE, RECEIVE_FLAGS)
            if ancillary or size < _HEAD or size > _MOST or flags & _TRUNCATED:
                return size, ancillary, flags
            identity, head, place = unpack(buffer)
            try:
                take()
            except IndexError:
                acquire()
            try:
                if head == _READ_HEAD and size == _HEAD:
                    if (row := read_row(place)) is None:
                        reply = self._read(identity, place)
                    else:
                        values, index, mask, pack, known = row
                        table.reads += 1
                        reply = pack(identity, known, values[index] & mask)
                elif head == _WRITE_HEADS[size - _HEAD]:
                    if (found := write_row(place)) and found[0] == size:
                        _size, unpack_value, values, index, combine, known = found
                        (given,) = unpack_value(buffer)
                        if combine:
                            keep, store, clear, put = combine
                            given = (values[index] & keep | given & store) & ~(given & clear) | given & put
                        values[index] = given
                        table.writes += 1
                        reply = _pack_written(identity, known)
                    else:
                        reply = self._write(identity, place, size - _HEAD)
                else:
                    return size, ancillary, flags
                if reply is None:
                    return size, ancillary, flags
                try:
                    sent = 0 if waiting else send(reply, _DONT_WAIT)
                except BlockingIOError:
                    sent = 0
                if sent != len(reply):
                    self._outgoing.leave(reply, sent)
            finally:
                give(TOKEN)
                if queue:
                    wake()
            if waiting:
                self._outgoing.drain()

    def _wake(self) -> None:
        """Before the next access, somebody else has his step."""
        self._lock.wake()
        let_in(self._lock)

    def _read(self, identity: int, place: Place) -> bytes | None:
        """Have it performed; None for what is not valid."""
        offset, region, count = _place_of(place)
        if offset >= _FAR or not 0 < count <= LARGEST_DATA:
            return None
        return self._accesses.read(identity, offset, region, count)

    def _write(self, identity: int, place: Place, size: int) -> bytes | None:
        """As `_read`; b"" for what is answered already."""
        offset, region, count = _place_of(place)
        if offset >= _FAR or not 0 < count == size:
            return None
        data = _data_of[size](self._buffer, _HEAD)[0]
        return self._accesses.write_and_go_on(self._outgoing.send_in_passing, identity, offset, region, data)


def polling(receive: _Receive, nanoseconds: int) -> _Receive:
    """A receive that looks for so long whether something is there before it sleeps."""
    if not nanoseconds:
        return receive

    def poll(buffers: list[bytearray], ancillary: int, flags: int) -> tuple[int, Ancillary, int, object]:
        end = perf_counter_ns() + nanoseconds
        while perf_counter_ns() < end:
            try:
                return receive(buffers, ancillary, flags | _DONT_WAIT)
            except BlockingIOError:
                pass
        return receive(buffers, ancillary, flags)

    return poll
