"""A host of parents within the front's own process: no start of an interpreter, and a place for faults.

The front sees what it sees of a host process, and calls it in the same words.
"""

import errno
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, cast
from uuid import UUID

from mdev_user.errors import MdevUserError, NoDevice, error_from
from mdev_user.host.remote import Ended
from mdev_user.host.service import Service
from mdev_user.host.wire import Call, Create, Remove, Show, ShowParent, Store, StoreParent, Unprobe, Value
from mdev_user.mdev.ops import LifecycleOps
from mdev_user.mdev.types import MdevAttribute
from mdev_user.testing.hosts.injection import Injection

_log = logging.getLogger(__name__)

_FAREWELL = 2.0
"""Seconds for disconnecting users and taking sockets away."""


class _Service(Service):
    def parent(self, name: str) -> LifecycleOps:
        return self._parents[name].parent.ops


class InProcessHost:
    """A `Host` of the front. Faults happen where the driver would be called."""

    def __init__(self, name: str, devices: Path, ended: Ended, injection: Injection) -> None:
        self.name = name
        self.pid = os.getpid()
        self._service = _Service(devices)
        self._ended = ended
        self._injection = injection
        self._gone = ""
        self._mdevs: dict[UUID, tuple[str, str]] = {}
        """Parent and type of each."""
        # Any: each takes its own kind of call; the table pairs them.
        self._faults: dict[type[Call], Callable[[Any], None]] = {
            Create: self._before_create,
            Unprobe: self._before_unprobe,
            Show: self._before_access,
            Store: self._before_access,
            ShowParent: self._before_parent_access,
            StoreParent: self._before_parent_access,
        }

    @property
    def gone(self) -> str:
        return self._gone

    def ask(self, call: Call) -> Value:
        return self.ask_for_all(call)[0]

    def call(self, call: Call) -> Value:
        return self.ask_for_all(call)[0]

    def ask_with(self, fd: int, call: Call) -> Value:
        self._check()
        self._service.take(call, os.dup(fd))
        return self.ask(call)

    def lend(self, uuid: UUID, listener: socket.socket) -> None:
        self._service.endpoints.lend(uuid, listener.dup())

    def ask_for_all(self, call: Call) -> list[Value]:
        self._check()
        if type(call) in self._faults:
            self._faults[type(call)](call)
        value = self._done(call)
        if isinstance(call, Create):
            self._mdevs[call.uuid] = call.parent, call.type
        elif isinstance(call, Remove):
            self._mdevs.pop(call.uuid, None)
        return value if isinstance(value, list) else [cast("Value", value)]

    def stop(self) -> None:
        """Disconnect every user; a driver that does not let go is left alone."""
        ending = Thread(target=self._service.endpoints.stop, daemon=True)
        ending.start()
        ending.join(_FAREWELL)

    def die(self, reason: str) -> None:
        """End as a process does that is killed: nobody's remove is called."""
        self._gone = reason
        self.stop()
        Thread(target=self._ended, args=(self, reason), name=f"host {self.name}", daemon=True).start()

    def parent(self, name: str) -> LifecycleOps:
        """The driver's own operations."""
        return self._service.parent(name)

    def _place(self, uuid: UUID) -> tuple[str, str]:
        if (found := self._mdevs.get(uuid)) is None:
            raise NoDevice(f"mdev {uuid} is gone")
        return found

    def _check(self) -> None:
        if self._gone:
            raise NoDevice(f"host {self.name} is gone: {self._gone}")

    def _done(self, call: Call) -> object:
        try:
            return self._service.do(call)
        except (MdevUserError, OSError):
            raise
        except BaseException as error:  # noqa: BLE001 - driver code: its error is the caller's answer, SystemExit too
            _log.exception("%s failed", call)
            raise error_from(errno.EIO, f"the driver failed: {type(error).__name__}: {error}") from None

    def _before_create(self, call: Create) -> None:
        self._injection.create(call.parent, call.type)
        self._check()  # it may have died meanwhile

    def _before_unprobe(self, call: Unprobe) -> None:
        self._injection.remove(*self._place(call.uuid))
        self._check()

    def _before_access(self, call: Show | Store) -> None:
        self._injection.attribute(self._place(call.uuid)[0], path_of(call.attribute))

    def _before_parent_access(self, call: ShowParent | StoreParent) -> None:
        self._injection.attribute(call.parent, path_of(call.attribute))


def path_of(attribute: MdevAttribute) -> str:
    """``GROUP/NAME``, or ``NAME`` without a group."""
    return f"{attribute.group}/{attribute.name}" if attribute.group else attribute.name
