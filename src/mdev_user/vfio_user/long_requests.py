"""Requests that take several steps: between two of them the device's other work goes on.

Each is a generator that yields where one step ends and the next begins, and returns the payload of the reply.
"""

from collections.abc import Callable, Generator
from typing import Any

from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.accesses import Accesses
from mdev_user.vfio_user.commands import Request
from mdev_user.vfio_user.framing import Header

Steps = Generator[None, None, bytes]


class LongRequests:
    """Those of one open device; every step of them under its step lock."""

    def __init__(self, device: VfioDevice, accesses: Accesses) -> None:
        self._device = device
        self._accesses = accesses
        # Any: the key says which request a method takes, and a dictionary's type cannot say that.
        self._methods: dict[type[Request], Callable[[Any], Steps]] = {
            m.RegionWriteMulti: self._write_multi,
            m.MigDataRead: self._mig_data_read,
        }

    def steps_of(self, request: Request) -> Steps | None:
        """None when one step is enough."""
        method = self._methods.get(type(request))
        return None if method is None else method(request)

    def _write_multi(self, request: m.RegionWriteMulti) -> Steps:
        """Writes that their sender had in its queue, each a step as if it had come alone; so one that fails is one."""
        completed = 0
        for write in request.writes:
            reply = self._accesses.write(0, write.offset, write.region, write.data)
            completed += not Header.decode(reply).failed
            yield
        return m.RegionWriteMultiReply(completed).encode()

    def _mig_data_read(self, request: m.MigDataRead) -> Steps:
        """As much as was asked for, since less says that there is no more; a piece of it each step."""
        data = bytearray(self._device.migration.read(request.size))
        more = bool(data)
        while more and len(data) < request.size:
            yield
            piece = self._device.migration.read(request.size - len(data))
            more = bool(piece)
            data += piece
        return m.MigDataReadReply(bytes(data)).encode()
