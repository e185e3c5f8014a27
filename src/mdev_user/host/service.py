"""What a host does when the front calls: a table of calls, each a few lines over the parent drivers."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from mdev_user.errors import AlreadyExists, NoDevice
from mdev_user.host.endpoint import Endpoints
from mdev_user.host.loader import load_parent
from mdev_user.host.steps import step
from mdev_user.host.wire import (
    Call,
    Create,
    Disconnect,
    GetAvailable,
    Inspect,
    Inspection,
    Load,
    ParentDescription,
    Probe,
    Remove,
    Show,
    Store,
    Unload,
    Unprobe,
)
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.parent import MdevParent
from mdev_user.vfio_mdev.driver import VfioMdev

_log = logging.getLogger(__name__)


class Service:
    """The parents of one host and their mdevs. Calls come from many threads; each is about one parent or mdev."""

    def __init__(self, devices: Path) -> None:
        """``devices`` is the folder RUN/devices."""
        self.endpoints = Endpoints(devices)
        self._driver = VfioMdev(self.endpoints)
        self._parents: dict[str, MdevParent] = {}
        self._mdevs: dict[UUID, Mdev] = {}
        # Any: each operation takes its own kind of call; the table pairs them.
        self._operations: dict[type[Call], Callable[[Any], object]] = {
            Load: self._load,
            Unload: self._unload,
            Create: self._create,
            Remove: self._remove,
            Probe: self._probe,
            Unprobe: self._unprobe,
            GetAvailable: self._get_available,
            Show: self._show,
            Store: self._store,
            Inspect: self._inspect,
            Disconnect: self._disconnect,
        }

    def do(self, call: Call) -> object:
        return self._operations[type(call)](call)

    def _load(self, call: Load) -> ParentDescription:
        if call.name in self._parents:
            raise AlreadyExists(f"this host has a parent {call.name}")
        ops = load_parent(call.driver, call.options)
        self._parents[call.name] = MdevParent(call.name, ops)
        return ParentDescription(ops.driver_name, list(ops.types), ops.max_instances, list(ops.attributes))

    def _unload(self, call: Unload) -> None:
        del self._parents[call.parent]

    def _create(self, call: Create) -> None:
        parent = self._parents[call.parent]
        mdev = Mdev(call.uuid, parent, parent.types[call.type])
        mdev.drvdata = parent.ops.create(mdev)
        self._mdevs[call.uuid] = mdev

    def _remove(self, call: Remove) -> None:
        mdev = self._mdevs.pop(call.uuid)
        mdev.parent.ops.remove(mdev)

    def _probe(self, call: Probe) -> None:
        self._driver.probe(self._mdev(call.uuid))

    def _unprobe(self, call: Unprobe) -> None:
        self._driver.remove(self._mdev(call.uuid))

    def _get_available(self, call: GetAvailable) -> int:
        parent = self._parents[call.parent]
        return parent.ops.get_available(parent.types[call.type])

    def _show(self, call: Show) -> str:
        mdev, endpoint = self._mdev(call.uuid), self.endpoints.endpoint(call.uuid)
        with step(endpoint.lock, endpoint.device.counters, f"show {call.attribute.name}"):
            return mdev.parent.ops.show(mdev, call.attribute)

    def _store(self, call: Store) -> None:
        mdev, endpoint = self._mdev(call.uuid), self.endpoints.endpoint(call.uuid)
        with step(endpoint.lock, endpoint.device.counters, f"store {call.attribute.name}"):
            mdev.parent.ops.store(mdev, call.attribute, call.data)

    def _inspect(self, call: Inspect) -> Inspection:
        endpoint = self.endpoints.endpoint(call.uuid)
        peer, session = endpoint.peer, endpoint.session
        return Inspection(
            pid=peer.pid if peer else None,
            uid=peer.uid if peer else 0,
            program=peer.name if peer else "",
            unshared_memory=session.largest_unshared if session else 0,
            last_disconnect=endpoint.last_disconnect,
            counters=endpoint.device.counters.values(),
        )

    def _disconnect(self, call: Disconnect) -> None:
        self.endpoints.endpoint(call.uuid).disconnect()

    def _mdev(self, uuid: UUID) -> Mdev:
        if uuid in self._mdevs:
            return self._mdevs[uuid]
        raise NoDevice(f"this host has no mdev {uuid}")
