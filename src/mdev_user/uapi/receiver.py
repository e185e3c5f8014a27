"""Who receives the program's system calls: Python, or native code that has small accesses to regions answered.

The native receiver does what `mdev_user.uapi.device` does for a pread or pwrite of 1 to 8 bytes within a region, and
nothing else; where it can, it hands them on to the server, which ends the call (`traps`). An access that does not go as
expected after it was begun is ended here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

from mdev_user.uapi import seccomp
from mdev_user.vfio.requests import RegionFlags
from mdev_user.vfio_user.client import Client, ClientRegion
from mdev_user.vfio_user.loops import chosen

if TYPE_CHECKING:
    from mdev_user.uapi.files import File
    from mdev_user.uapi.program import Program
    from mdev_user.vfio_user import _native


@dataclass(frozen=True, slots=True)
class Begun:
    """An access whose reply was not there in time, or not the expected one. The device's lock is held."""

    notification: seccomp.Notification
    file: "File"
    received: bytes | None
    """Instead of the reply; None for nothing yet."""
    region: int
    offset: int
    count: int
    data: bytes
    """Of a write; b"" of a read."""


class Receiver(Protocol):
    """Of one listener. One thread at a time receives."""

    native: bool

    def receive(self) -> seccomp.Notification | Begun | bool:
        """The next call; True when one of the others is readable, False when no task is left."""

    def remember(self, program: "Program", number: int, file: "File | None") -> None:
        """For a second this descriptor of this thread is this file."""

    def forget(self, number: int = -1) -> None:
        """This number may be another file from now on; -1 for all."""


class PythonReceiver:
    """Leaves all to Python."""

    native = False

    def __init__(self, listener: int) -> None:
        self._listener = listener

    def receive(self) -> seccomp.Notification | bool:
        """As `Receiver`."""
        try:
            return seccomp.receive(self._listener)
        except OSError:
            return False

    def remember(self, program: "Program", number: int, file: "File | None") -> None:
        """Nothing: Python looks by itself."""

    def forget(self, number: int = -1) -> None:
        """As `remember`."""


class NativeReceiver:
    """Answers small accesses to regions without Python."""

    native = True

    def __init__(self, listener: int, others: int) -> None:
        from mdev_user.vfio_user import _native  # noqa: PLC0415 - it may be absent

        self._receiver = _native.Receiver(listener, others)
        self._files: WeakValueDictionary[int, File] = WeakValueDictionary()  # by the id of the line, which each keeps
        self.forget: Callable[..., None] = self._receiver.forget

    def receive(self) -> seccomp.Notification | Begun | bool:
        """As `Receiver`."""
        found = self._receiver.receive()
        if found is None or isinstance(found, bool):
            return found is True
        if len(found) == 4:
            return seccomp.Notification(*found)
        call, line, received, region, offset, count, data = found
        return Begun(seccomp.Notification(*call), self._files[id(line)], received, region, offset, count, data)

    def remember(self, program: "Program", number: int, file: "File | None") -> None:
        """A device has a line; of others nothing is to be remembered here."""
        if file is not None and file.line is not None:
            self._files[id(file.line)] = file
            self._receiver.remember(program.tid, number, file.line, file.is_trapped(program))


def receiver_of(listener: int, others: int) -> Receiver:
    """The kind that `chosen` says. ``others`` is readable when the thread that receives has something else to do."""
    if chosen().name == "native":
        return NativeReceiver(listener, others)
    return PythonReceiver(listener)


def line_of(client: Client, lock: object, regions: Sequence[ClientRegion]) -> "_native.Line | None":
    """What the native receiver needs of a device; None where Python answers."""
    if chosen().name != "native":
        return None
    from mdev_user.vfio_user import _native  # noqa: PLC0415 - it may be absent

    if not isinstance(lock, _native.StepLock):
        return None
    readable, writable = (_sizes(regions, flag) for flag in (RegionFlags.READ, RegionFlags.WRITE))
    return _native.Line(client.socket.fileno(), lock, client.carried, readable, writable)


def _sizes(regions: Sequence[ClientRegion], flag: RegionFlags) -> list[int]:
    sizes = [0] * (1 + max((each.index for each in regions), default=0))
    for each in regions:
        if each.flags & flag:
            sizes[each.index] = each.size
    return sizes
