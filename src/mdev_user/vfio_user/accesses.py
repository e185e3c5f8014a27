"""Region reads and writes: the one place that performs them, and the loop that answers plain ones.

A guest waits for every access, so the loop does what an access needs and no more: one receive, one unpack, the
driver's method, one send. Whatever is not one whole, single, valid access without file descriptors is left to
`Connection`; since both ways perform an access with the same `read` and `write`, they cannot differ in what it does.
"""

import socket
from contextlib import AbstractContextManager
from struct import Struct
from time import perf_counter_ns

from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio_user.framing import LARGEST_DATA, REPLY, Command
from mdev_user.vfio_user.messages import ACCESS_MESSAGE, TOP
from mdev_user.vfio_user.outgoing import Outgoing
from mdev_user.vfio_user.steps import SLOW_STEP_NS, refused, wrong_length
from mdev_user.vfio_user.transport import ANCILLARY_SIZE, RECEIVE_FLAGS, Ancillary

_READ = int(Command.REGION_READ)
_WRITE = int(Command.REGION_WRITE)
_HEAD = ACCESS_MESSAGE.size
_pack = ACCESS_MESSAGE.pack
# A register is 1 to 8 bytes: one Struct per size packs a whole reply and unpacks the data of a write.
_REGISTER = 8
_pack_register = [Struct(f"{ACCESS_MESSAGE.format}{size}s").pack for size in range(_REGISTER + 1)]
_unpack_register = [Struct(f"{size}s").unpack_from for size in range(_REGISTER + 1)]

_TRUNCATED = int(socket.MSG_CTRUNC)

Received = tuple[int, Ancillary, int]
"""What a receive into the session's buffer gave: number of bytes, ancillary data, flags."""


class Accesses:
    """The region accesses of one session."""

    __slots__ = ("_counters", "_device", "_outgoing", "_step_lock")

    def __init__(self, device: VfioDevice, step_lock: AbstractContextManager[object], outgoing: Outgoing) -> None:
        self._device = device
        self._counters = device.counters
        self._step_lock = step_lock
        self._outgoing = outgoing

    def read(self, identity: int, offset: int, region: int, count: int) -> bytes:
        """Perform a valid REGION_READ, under the step lock. Returns the reply, which may be an error reply."""
        started = perf_counter_ns()
        try:
            data = self._device.read(region, offset, count)
            if len(data) != count:
                raise wrong_length(region, offset, count, data)
            self._counters.reads += 1
            if count <= _REGISTER:
                reply = _pack_register[count](identity, _READ, _HEAD + count, REPLY, 0, offset, region, count, data)
            else:
                reply = _pack(identity, _READ, _HEAD + count, REPLY, 0, offset, region, count) + data
        except Exception as error:  # noqa: BLE001 - refused() raises on what is not the guest's fault
            reply = refused(self._counters, identity, _READ, error)
        elapsed = perf_counter_ns() - started
        if elapsed > SLOW_STEP_NS:
            self._counters.slow_step(f"read region {region} +{offset:#x}", elapsed)
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
            self._counters.slow_step(f"write region {region} +{offset:#x}", elapsed)
        return reply

    def serve(self, sock: socket.socket, buffer: bytearray) -> Received:
        """Answer plain accesses until something else is received into ``buffer``. OSError when the peer is gone."""
        receive, unpack, buffers = sock.recvmsg_into, ACCESS_MESSAGE.unpack_from, [buffer]
        read, write, step_lock = self.read, self.write, self._step_lock
        send, waiting, drain = self._outgoing.send, self._outgoing.waiting, self._outgoing.drain
        while True:
            size, ancillary, flags, _ = receive(buffers, ANCILLARY_SIZE, RECEIVE_FLAGS)
            if size < _HEAD or ancillary or flags & _TRUNCATED:
                return size, ancillary, flags
            identity, command, announced, kind, _, offset, region, count = unpack(buffer)
            if announced != size or kind or not 0 < count <= LARGEST_DATA or offset + count > TOP:
                return size, ancillary, flags
            if command == _READ and size == _HEAD:
                with step_lock:
                    send(read(identity, offset, region, count))
            elif command == _WRITE and size == _HEAD + count:
                data = _unpack_register[count](buffer, _HEAD)[0] if count <= _REGISTER else bytes(buffer[_HEAD:size])
                with step_lock:
                    send(write(identity, offset, region, data))
            else:
                return size, ancillary, flags
            if waiting:
                drain()
