"""A whole host behind a real socket: what the stateful machine plays against. Made once for all of its examples."""

import os
import socket
from array import array
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic, sleep
from uuid import UUID

from fuzz.devices import PARENTS, known_of
from fuzz.peer import Known
from fuzz.rig import COMPLAINTS
from fuzz.target import expect
from mdev_user.mdev.device import Mdev
from mdev_user.testing.local import LocalHost
from mdev_user.vfio_user.framing import HEADER, Header

PATIENCE = 60.0
"""Seconds after which something that has to happen has not."""


class Served:
    """Every shipped driver with one mdev, in a host of this process."""

    def __init__(self) -> None:
        self.host = LocalHost()
        self.mdevs: list[Mdev] = []
        for number, kind in enumerate(PARENTS):
            parent = kind()
            registered = self.host.bus.register_parent(f"parent{number}", parent)
            name = next(iter(registered.types))
            self.mdevs.append(self.host.create(registered, name, UUID(int=number + 1)))
        self._known: dict[int, Known] = {}

    def connect(self, number: int) -> socket.socket:
        """A new user; the one before it has closed its end."""
        wire = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        wire.settimeout(PATIENCE)
        wire.connect(str(self.host.socket(self.mdevs[number])))
        return wire

    def known(self, number: int) -> Known:
        """What the user of a connection that is there may know."""
        endpoint = self.host.endpoint(self.mdevs[number])
        wait_for(lambda: endpoint.device.opened, "the device was not opened")
        if number not in self._known:
            with endpoint.lock:
                self._known[number] = known_of(endpoint.device)
        asked = self._known[number]
        return Known(asked.slots, asked.sizes, asked.work, asked.wide)

    def is_free(self, number: int) -> None:
        """Nobody uses the device, its step lock is free, and nothing of the user is left."""
        endpoint = self.host.endpoint(self.mdevs[number])
        wait_for(lambda: endpoint.session is None and not endpoint.device.opened, "the device is still in use")
        expect(endpoint.lock.acquire(timeout=PATIENCE), "somebody holds the step lock")
        endpoint.lock.release()
        expect(not COMPLAINTS.texts, f"the host complains: {COMPLAINTS.texts}")

    def close(self) -> None:
        self.host.__exit__(None, None, None)


def wait_for(holds: object, what: str) -> None:
    assert callable(holds)
    limit = monotonic() + PATIENCE
    while not holds():
        expect(monotonic() < limit, what)
        sleep(0.001)


def send(wire: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    """All of it; that the other end has closed meanwhile is no fault."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    with suppress(BrokenPipeError, ConnectionResetError):
        sent = wire.sendmsg([data], rights)
        if sent < len(data):
            wire.sendall(data[sent:])


def receive(wire: socket.socket) -> bytes:
    """One message as it came; nothing when the other end is closed. Its fds are closed."""
    data, wanted = bytearray(), HEADER.size
    while len(data) < wanted:
        try:
            part, ancillary, _flags, _address = wire.recvmsg(wanted - len(data), socket.CMSG_SPACE(64 * 4))
        except ConnectionResetError:
            return b""
        for _level, _kind, numbers in ancillary:
            for fd in array("i", numbers):
                os.close(fd)
        if not part:
            return b""
        data += part
        if len(data) == HEADER.size:
            wanted = Header.decode(data).size
    return bytes(data)
