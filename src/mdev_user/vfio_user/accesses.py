"""Region reads and writes: performing one, and the loop that answers plain ones.

A guest's processor waits for every access, so the loop does what an access needs and no more: one receive, one
unpack, the driver's method, one send; and it locks by acquire and release, since ``with`` on a lock costs twice that.
Whatever is not one whole, single, valid access without file descriptors is left to `Connection`; since both ways
perform an access with the same `Accesses.read` and `write`, they cannot differ in what it does.
"""

import socket
from struct import Struct
from threading import Lock
from time import perf_counter_ns

from mdev_user.vfio.counters import SLOW_STEP_NS
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.requests import REGION_SHIFT
from mdev_user.vfio_user.framing import COMMAND, LARGEST_DATA, REPLY, Command
from mdev_user.vfio_user.messages import ACCESS_MESSAGE
from mdev_user.vfio_user.outgoing import Outgoing
from mdev_user.vfio_user.steps import refused, wrong_length
from mdev_user.vfio_user.transport import ANCILLARY_SIZE, RECEIVE_FLAGS, Ancillary

_READ, _WRITE = int(Command.REGION_READ), int(Command.REGION_WRITE)
_HEAD = ACCESS_MESSAGE.size
_REGISTER = 8
"""Bytes of a register at most; longer writes take the other way, where their data costs more than the way does."""
_FAR = 1 << REGION_SHIFT
"""No region is longer, so offsets from here on are somebody's mistake and take the other way too."""

# What a message of the loop's begins with behind its id: command, size, flags (the errno is nobody's). One comparison.
_REQUEST = Struct("=H10s4xQII")
_head_of = Struct("=HII").pack
_READ_HEAD = _head_of(_READ, _HEAD, COMMAND)
_WRITE_HEADS = [_head_of(_WRITE, _HEAD + size, COMMAND) for size in range(_REGISTER + 1)]
_data_of = [Struct(f"{size}s").unpack_from for size in range(_REGISTER + 1)]
_pack = ACCESS_MESSAGE.pack
_TRUNCATED = int(socket.MSG_CTRUNC)

Received = tuple[int, Ancillary, int]
"""What a receive into the session's buffer gave: number of bytes, ancillary data, flags."""


class Accesses:
    """The region accesses of one session."""

    __slots__ = ("_acquire", "_counters", "_device", "_outgoing", "_release")

    def __init__(self, device: VfioDevice, step_lock: Lock, outgoing: Outgoing) -> None:
        self._device = device
        self._counters = device.counters
        self._acquire = step_lock.acquire
        self._release = step_lock.release
        self._outgoing = outgoing

    def read(self, identity: int, offset: int, region: int, count: int) -> bytes:
        """Perform a valid REGION_READ, under the step lock. Returns the reply, which may be an error reply."""
        started = perf_counter_ns()
        try:
            data = self._device.read(region, offset, count)
            if len(data) != count:
                raise wrong_length(region, offset, count, data)
            self._counters.reads += 1
            reply = _pack(identity, _READ, _HEAD + count, REPLY, 0, offset, region, count) + data
        except Exception as error:  # noqa: BLE001 - refused() raises on what is not the guest's fault
            reply = refused(self._counters, identity, _READ, error)
        elapsed = perf_counter_ns() - started
        if elapsed > SLOW_STEP_NS:
            self._slow("read", region, offset, elapsed)
        return reply

    def write(self, identity: int, offset: int, region: int, data: bytes) -> bytes:
        """Perform a valid REGION_WRITE, under the step lock. Returns the reply, which may be an error reply."""
        started = perf_counter_ns()
        try:
            self._device.write(region, offset, data)
            self._counters.writes += 1
            reply = _pack(identity, _WRITE, _HEAD, REPLY, 0, offset, region, len(data))
        except Exception as error:  # noqa: BLE001 - refused() raises on what is not the guest's fault
            reply = refused(self._counters, identity, _WRITE, error)
        elapsed = perf_counter_ns() - started
        if elapsed > SLOW_STEP_NS:
            self._slow("write", region, offset, elapsed)
        return reply

    def serve(self, sock: socket.socket, buffer: bytearray) -> Received:  # noqa: PLR0912 - one way out per reason
        """Answer plain accesses until something else is received into ``buffer``. OSError when the peer is gone."""
        receive, unpack, buffers = sock.recvmsg_into, _REQUEST.unpack_from, [buffer]
        read, write, acquire, release = self.read, self.write, self._acquire, self._release
        send, waiting, drain = self._outgoing.send, self._outgoing.waiting, self._outgoing.drain
        while True:
            size, ancillary, flags, _ = receive(buffers, ANCILLARY_SIZE, RECEIVE_FLAGS)
            if size < _HEAD or ancillary or flags & _TRUNCATED:
                return size, ancillary, flags
            identity, head, offset, region, count = unpack(buffer)
            if offset >= _FAR or not 0 < count <= LARGEST_DATA:
                return size, ancillary, flags
            if head == _READ_HEAD and size == _HEAD:
                acquire()
                try:
                    send(read(identity, offset, region, count))
                finally:
                    release()
            elif count <= _REGISTER and head == _WRITE_HEADS[count] and size == _HEAD + count:
                data = _data_of[count](buffer, _HEAD)[0]
                acquire()
                try:
                    send(write(identity, offset, region, data))
                finally:
                    release()
            else:
                return size, ancillary, flags
            if waiting:
                drain()

    def _slow(self, access: str, region: int, offset: int, elapsed: int) -> None:
        self._counters.slow_step(f"{access} region {region} +{offset:#x}", elapsed)
