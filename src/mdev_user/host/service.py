"""What a host does when the front calls: a table of calls, each a few lines over the parent drivers."""

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import UUID

import msgspec

from mdev_user.driver.device import Device
from mdev_user.driver.inspection.unmodelled import unmodelled
from mdev_user.driver.watch import MOST_UNMODELLED
from mdev_user.errors import AlreadyExists, NoDevice, NotSupported
from mdev_user.host.endpoint import Endpoints
from mdev_user.host.loader import let_go, load_again, load_parent
from mdev_user.host.pictures import Pictures
from mdev_user.host.reload import Served, drop_old_classes, reload
from mdev_user.host.steps import step, step_within
from mdev_user.host.wire import (
    LARGEST,
    BeginMove,
    BeginTrace,
    Call,
    CopiedPicture,
    CopyPicture,
    Create,
    Disconnect,
    EndTrace,
    GetAvailable,
    HandOver,
    Inspect,
    Inspection,
    Lend,
    ListUnmodelled,
    ListValues,
    Load,
    ParentDescription,
    Probe,
    ReadTrace,
    Reload,
    Remove,
    Show,
    ShowParent,
    Store,
    StoreParent,
    TraceLines,
    Unload,
    UnmodelledAnswer,
    Unprobe,
    Values,
)
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.parent import MdevParent
from mdev_user.vfio.inspection import NamedValue
from mdev_user.vfio_mdev.driver import VfioMdev

_log = logging.getLogger(__name__)

_PAGE = LARGEST // 2
"""Bytes of values in one packet, before the last one is added."""
_LONGEST_REASON = 4096
_TRACE_LINES = 64
"""In one packet; each is at most some 1000 bytes."""


@dataclass(frozen=True)
class _Registered:
    """A parent that was loaded."""

    parent: MdevParent
    source: Load
    coming_and_going: Lock = field(default_factory=Lock)
    """Held while an mdev becomes one of the parent's or ceases to be, and during a reload, which concerns all."""


class Service:
    """The parents of one host and their mdevs. Calls come from many threads; each is about one parent or mdev."""

    def __init__(self, devices: Path) -> None:
        """``devices`` is the folder RUN/devices."""
        self.endpoints = Endpoints(devices)
        self._pictures = Pictures()
        self._driver = VfioMdev(self.endpoints)
        self._parents: dict[str, _Registered] = {}
        self._mdevs: dict[UUID, Mdev] = {}
        # Any: each operation takes its own kind of call; the table pairs them.
        self._operations: dict[type[Call], Callable[[Any], object]] = {
            Load: self._load,
            Unload: self._unload,
            Reload: self._reload,
            Create: self._create,
            Remove: self._remove,
            Lend: lambda _call: None,  # `take` has the socket
            Probe: self._probe,
            Unprobe: self._unprobe,
            GetAvailable: self._get_available,
            Show: self._show,
            Store: self._store,
            ShowParent: self._show_parent,
            StoreParent: self._store_parent,
            Inspect: self._inspect,
            Disconnect: self._disconnect,
            BeginMove: self._begin_move,
            HandOver: self._hand_over,
            ListValues: self._list_values,
            ListUnmodelled: self._list_unmodelled,
            BeginTrace: self._begin_trace,
            ReadTrace: self._read_trace,
            EndTrace: self._end_trace,
            CopyPicture: self._copy_picture,
        }

    def take(self, call: Call, fd: int) -> None:
        """A file descriptor that came with a call, which is done next. Owns it from here on."""
        if isinstance(call, Lend):
            self.endpoints.lend(call.uuid, socket.socket(fileno=fd))
        elif isinstance(call, CopyPicture):
            self._pictures.give(call.file, fd)
        else:
            os.close(fd)

    def do(self, call: Call) -> object:
        """The answer; a list is an answer in several packets."""
        return self._operations[type(call)](call)

    def _load(self, call: Load) -> ParentDescription:
        if call.name in self._parents:
            raise AlreadyExists(f"this host has a parent {call.name}")
        ops = load_parent(call.driver, call.options)
        try:
            parent = MdevParent(call.name, ops)
        except BaseException:
            let_go(ops)
            raise
        self._parents[call.name] = _Registered(parent, call)
        self.endpoints.busy_poll[call.name] = call.busy_poll * 1000
        return ParentDescription(
            driver_name=ops.driver_name,
            types=list(ops.mdev_types),
            max_instances=ops.max_instances,
            attributes=list(ops.attributes),
            parent_attributes=list(ops.parent_attributes),
            identity=ops.identity,
        )

    def _unload(self, call: Unload) -> None:
        let_go(self._parents.pop(call.parent).parent.ops)

    def _reload(self, call: Reload) -> str:
        """Whatever is wrong with the new driver, the old one runs on. Answer: a line for each mdev that was reset."""
        lines = self._exchange(self._parents[call.parent])
        drop_old_classes()
        return "\n".join(lines)

    def _exchange(self, registered: _Registered) -> list[str]:
        parent, source = registered.parent, registered.source
        with load_again(source.driver, source.options) as ops, registered.coming_and_going:
            old = parent.ops
            mdevs = [each for each in list(self._mdevs.values()) if each.parent is parent]
            served = [
                Served(each, self.endpoints.endpoint(each.uuid)) for each in mdevs if self.endpoints.has(each.uuid)
            ]
            for each in served:
                each.endpoint.moves.end("the driver is reloaded: begin again")
            lines = reload(parent, ops, mdevs, served)
        let_go(old)
        return lines

    def _create(self, call: Create) -> None:
        registered = self._parents[call.parent]
        parent = registered.parent
        mdev = Mdev(call.uuid, parent, parent.types[call.type])
        ops = parent.ops
        mdev.drvdata = ops.create(mdev)
        with registered.coming_and_going:
            if parent.ops is not ops:  # a reload came in between and did not know of it
                mdev.drvdata = parent.ops.create(mdev)
            self._mdevs[call.uuid] = mdev

    def _remove(self, call: Remove) -> None:
        with self._coming_and_going(call.uuid):
            mdev = self._mdevs.pop(call.uuid)
            ops = mdev.parent.ops
        ops.remove(mdev)

    def _probe(self, call: Probe) -> None:
        with self._coming_and_going(call.uuid):
            self._driver.probe(self._mdev(call.uuid))

    def _unprobe(self, call: Unprobe) -> None:
        self._driver.remove(self._mdev(call.uuid))

    def _get_available(self, call: GetAvailable) -> int:
        parent = self._parents[call.parent].parent
        return parent.ops.get_available(parent.types[call.type])

    def _show(self, call: Show) -> str:
        mdev, endpoint = self._mdev(call.uuid), self.endpoints.endpoint(call.uuid)
        with step(endpoint.lock, endpoint.device.counters, f"show {call.attribute.name}"):
            return mdev.parent.ops.show(mdev, call.attribute)

    def _store(self, call: Store) -> None:
        mdev, endpoint = self._mdev(call.uuid), self.endpoints.endpoint(call.uuid)
        with step(endpoint.lock, endpoint.device.counters, f"store {call.attribute.name}"):
            mdev.parent.ops.store(mdev, call.attribute, call.data)

    def _show_parent(self, call: ShowParent) -> str:
        return self._parents[call.parent].parent.ops.show_parent(call.attribute)

    def _store_parent(self, call: StoreParent) -> None:
        registered = self._parents[call.parent]
        with registered.coming_and_going:  # or a reload might not carry it over
            registered.parent.ops.store_parent(call.attribute, call.data)

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
            parked=endpoint.parked,
            last_move=endpoint.moves.last[:_LONGEST_REASON],
            unmigratable=endpoint.unmigratable()[:_LONGEST_REASON],
        )

    def _disconnect(self, call: Disconnect) -> None:
        self.endpoints.endpoint(call.uuid).disconnect()

    def _begin_move(self, call: BeginMove) -> str:
        return str(self.endpoints.endpoint(call.uuid).moves.begin(call.purpose))

    def _hand_over(self, call: HandOver) -> None:
        self.endpoints.endpoint(call.uuid).hand_over(call.place)

    def _list_values(self, call: ListValues) -> list[Values]:
        endpoint = self.endpoints.endpoint(call.uuid)
        device = endpoint.device
        with step_within(endpoint.lock, device.counters, "inspect"):
            opened, values = device.opened, device.ops.inspect()
        return [Values(opened, page) for page in _pages(values)]

    def _list_unmodelled(self, call: ListUnmodelled) -> UnmodelledAnswer:
        endpoint = self.endpoints.endpoint(call.uuid)
        device = endpoint.device.ops
        if not isinstance(device, Device):
            raise NotSupported("the driver is written by hand: nobody declares what there is, so nothing is missing")
        with step_within(endpoint.lock, endpoint.device.counters, "inspect"):
            counted = dict(device.unmodelled)
        return UnmodelledAnswer(unmodelled(device, counted, MOST_UNMODELLED))

    def _copy_picture(self, call: CopyPicture) -> CopiedPicture:
        return self._pictures.copy(self.endpoints, call)

    def _begin_trace(self, call: BeginTrace) -> None:
        self.endpoints.endpoint(call.uuid).tracer.begin(call.reader)

    def _read_trace(self, call: ReadTrace) -> TraceLines:
        return TraceLines(self.endpoints.endpoint(call.uuid).tracer.read(call.reader, call.seconds, _TRACE_LINES))

    def _end_trace(self, call: EndTrace) -> None:
        self.endpoints.endpoint(call.uuid).tracer.end(call.reader)

    def _coming_and_going(self, uuid: UUID) -> Lock:
        return self._parents[self._mdev(uuid).parent.name].coming_and_going

    def _mdev(self, uuid: UUID) -> Mdev:
        if uuid in self._mdevs:
            return self._mdevs[uuid]
        raise NoDevice(f"this host has no mdev {uuid}")


def _pages(values: Iterable[NamedValue]) -> Iterator[list[NamedValue]]:
    """As many at a time as a packet takes; at least one page, which may be empty."""
    page: list[NamedValue] = []
    size = 0
    for value in values:
        page.append(value)
        size += len(msgspec.msgpack.encode(value))
        if size > _PAGE:
            yield page
            page, size = [], 0
    yield page
