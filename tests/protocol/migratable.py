"""A device that can be migrated: its state is its scratch registers, in a stream as simple as can be."""

import struct
from collections.abc import Callable

from typing_extensions import override

from mdev_user.errors import StateError
from mdev_user.vfio.migration import Incoming, Outgoing, Precopy
from mdev_user.vfio.migration_states import MigrationFlags
from mdev_user.vfio.ops import DeviceOps
from protocol.device import SCRATCH_SIZE, TestDevice
from protocol.served import ServedByHost

FRAME = struct.Struct("=4sI")
MAGIC = b"TEST"
PIECE = 1000
"""Bytes of one read at most, so that a message takes several."""
ALL = MigrationFlags.STOP_COPY | MigrationFlags.P2P | MigrationFlags.PRE_COPY


class Out(Outgoing):
    """All of the scratch registers at the beginning, and once more when they are different at the end."""

    def __init__(self, device: "Migratable", *, precopy: bool) -> None:
        self._device = device
        self._data = bytearray()
        self._sent = b""
        self._put()
        self.closed = False

    @override
    def read(self, most: int) -> bytes:
        self._device.on_read()
        size = min(most, PIECE)
        data, self._data = bytes(self._data[:size]), self._data[size:]
        return data

    @override
    def stop(self) -> None:
        if self._sent != self._device.scratch:
            self._put()

    @override
    def precopy(self) -> Precopy:
        return Precopy(len(self._data), 0)

    @override
    def size(self) -> int:
        return len(self._data)

    @override
    def close(self) -> None:
        self.closed = True

    def _put(self) -> None:
        self._sent = bytes(self._device.scratch)
        self._data += FRAME.pack(MAGIC, SCRATCH_SIZE) + self._sent


class In(Incoming):
    def __init__(self, device: "Migratable") -> None:
        self._device = device
        self._data = bytearray()
        self._last = b""

    @override
    def write(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= FRAME.size:
            if FRAME.unpack_from(self._data) != (MAGIC, SCRATCH_SIZE):
                raise StateError("not a state of this device")
            end = FRAME.size + SCRATCH_SIZE
            if len(self._data) < end:
                return
            self._last, self._data = bytes(self._data[FRAME.size : end]), self._data[end:]

    @override
    def finish(self) -> None:
        self._device.on_finish()
        if self._data or not self._last:
            raise StateError("the state is not whole")
        self._device.scratch[:] = self._last

    @override
    def close(self) -> None:
        self._data.clear()


class Migratable(TestDevice):
    """``on_read`` and ``on_finish`` are called in the middle of a stream, to break there."""

    flags = ALL

    def __init__(self) -> None:
        super().__init__()
        self.on_read: Callable[[], None] = lambda: None
        self.on_finish: Callable[[], None] = lambda: None

    @override
    def migration_flags(self) -> MigrationFlags:
        return self.flags

    @override
    def save_state(self, *, precopy: bool) -> Out:
        return Out(self, precopy=precopy)

    @override
    def load_state(self) -> In:
        return In(self)


class ServedMigratable(ServedByHost):
    """Served, and known as what it is."""

    def __init__(self, ops: DeviceOps | None = None) -> None:
        self.migratable = ops if isinstance(ops, Migratable) else Migratable()
        super().__init__(self.migratable)
