"""The mdev bus: what exists on it, and how an mdev comes and goes.

Two locks, as in Linux: one for the set of UUIDs, the counts and the states, held only for short sections; and one
semaphore a parent, held for reading by its creates and removes and for writing by its end. Driver code runs under
neither, so creates on one parent run at the same time.
"""

import logging
from collections.abc import Callable, Collection
from contextlib import ExitStack
from enum import Enum, auto
from threading import Lock, RLock
from typing import Protocol
from uuid import UUID

from mdev_user.errors import AlreadyExists, InvalidValue, NoDevice, NoInstances, NotReady
from mdev_user.mdev.device import Binding, Mdev, State
from mdev_user.mdev.events import Event, EventKind, Listener
from mdev_user.mdev.numbers import Numbers
from mdev_user.mdev.ops import LifecycleOps
from mdev_user.mdev.parent import MdevParent
from mdev_user.mdev.types import MdevType

_log = logging.getLogger(__name__)


class _Alone(Enum):
    """What a parent brings when it comes, and takes along when it goes."""

    IN_DRIVER = auto()
    """No other parent has its driver's name."""
    IN_HOME = auto()
    """Others have, but are elsewhere: it is a PCI function and they are not, or the other way round."""
    NOWHERE = auto()


_COMING = {
    _Alone.IN_DRIVER: (
        EventKind.DRIVER_ADDED, EventKind.HOME_ADDED, EventKind.PARENT_REGISTERED, EventKind.DRIVER_LOADED,
    ),
    _Alone.IN_HOME: (EventKind.HOME_ADDED, EventKind.PARENT_REGISTERED),
    _Alone.NOWHERE: (EventKind.PARENT_REGISTERED,),
}  # fmt: skip
_GONE = {
    _Alone.IN_DRIVER: (
        EventKind.PARENT_UNREGISTERED, EventKind.DRIVER_REMOVED, EventKind.HOME_REMOVED, EventKind.DRIVER_UNLOADED,
    ),
    _Alone.IN_HOME: (EventKind.PARENT_UNREGISTERED, EventKind.HOME_REMOVED),
    _Alone.NOWHERE: (EventKind.PARENT_UNREGISTERED,),
}  # fmt: skip


class MdevDriver(Protocol):
    """What stands behind the drivers of the mdev bus: ``vfio_mdev``, which makes a VFIO device of each mdev.

    Since Linux 5.19 each vendor driver attaches its mdevs itself, under its own name; so the bus lists a driver for
    each ``driver_name`` that a parent has, and all of them do this.
    """

    name: str

    def probe(self, mdev: Mdev) -> None:
        """Whatever is raised undoes the create; its errno reaches the writer."""
        ...

    def remove(self, mdev: Mdev) -> None:
        """Blocks while somebody uses what `probe` made; cannot fail."""
        ...


class Bus:
    """The bus and everything on it. All methods may be called from any thread."""

    def __init__(self, taken_groups: Collection[int] = ()) -> None:
        """``taken_groups`` are the numbers of iommu groups that somebody else has, such as the machine's kernel."""
        self._lock = Lock()
        self._mdevs: dict[UUID, Mdev] = {}
        self._parents: dict[str, MdevParent] = {}
        self._driver: MdevDriver | None = None
        self._numbers = Numbers(taken_groups)
        self._events = RLock()
        self._number = 0
        self._listeners: list[Listener] = []

    # --- what is there --------------------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> None:
        with self._events:
            self._listeners.append(listener)

    def register_driver(self, driver: MdevDriver) -> None:
        """The driver gets every mdev that is created from now on. EEXIST when there is one: a bus has one for all."""
        with self._lock:
            if self._driver is not None:
                raise AlreadyExists(f"the mdev bus has {self._driver.name} behind its drivers, given {driver.name}")
            self._driver = driver

    def parents(self) -> list[MdevParent]:
        with self._lock:
            return list(self._parents.values())

    def mdevs(self) -> list[Mdev]:
        """Oldest first; also those that are coming or going."""
        with self._lock:
            return list(self._mdevs.values())

    def parent(self, name: str) -> MdevParent:
        """ENODEV when there is none of this name."""
        with self._lock:
            if name in self._parents:
                return self._parents[name]
            known = ", ".join(self._parents) or "none"
        raise NoDevice(f"no parent {name}; there are: {known}")

    def mdev(self, uuid: UUID) -> Mdev:
        """ENODEV when there is none."""
        with self._lock:
            if uuid in self._mdevs:
                return self._mdevs[uuid]
        raise NoDevice(f"no mdev {uuid}")

    def available(self, parent: MdevParent, mdev_type: MdevType) -> int:
        """How many more mdevs of this type could be created now."""
        if parent.ops.max_instances is None:
            return parent.ops.get_available(mdev_type)
        with self._lock:
            return max(0, parent.ops.max_instances - parent.instances)  # the parent may have fewer than before

    # --- parents --------------------------------------------------------------------------------------------

    def register_parent(self, name: str, ops: LifecycleOps) -> MdevParent:
        """EINVAL for a driver that declares nothing to create, EEXIST for a name that is taken."""
        parent = MdevParent(name, ops)
        with self._events:  # no event of a create on it, nor of a new parent of its name, can come before its own
            with self._lock:
                if name in self._parents:
                    raise AlreadyExists(f"a parent {name} is registered; give the new one another name")
                alone = self._alone(parent)
                self._parents[name] = parent
            for kind in _COMING[alone]:
                self._emit(kind, parent)
        _log.info("parent %s: registered", name)
        return parent

    def unregister_parent(self, parent: MdevParent) -> None:
        """Waits for running creates and removes, removes the parent's mdevs (oldest first), then the parent."""
        _log.info("parent %s: unregistering", parent.name)
        if not parent.unregister():
            return
        self._emit(EventKind.PARENT_UNREGISTERING, parent)
        for mdev in [each for each in self.mdevs() if each.parent is parent]:
            mdev.state = State.REMOVING
            mdev.teardown.close()
        with self._events:
            with self._lock:
                del self._parents[parent.name]
                alone = self._alone(parent)
            for kind in _GONE[alone]:
                self._emit(kind, parent)

    def _alone(self, parent: MdevParent) -> _Alone:
        """Among the parents that there are; the caller holds the lock."""
        of_driver = [
            each
            for each in self._parents.values()
            if each is not parent and each.ops.driver_name == parent.ops.driver_name
        ]
        if not of_driver:
            return _Alone.IN_DRIVER
        on_pci = parent.address is not None
        return _Alone.NOWHERE if any((each.address is not None) == on_pci for each in of_driver) else _Alone.IN_HOME

    # --- mdevs ----------------------------------------------------------------------------------------------

    def create(self, parent: MdevParent, type_id: str, uuid: UUID) -> Mdev:
        """Create an mdev; everything that can fail comes before it is active and undoes what came before it.

        EEXIST: the UUID is taken, on whatever parent. EUSERS, ENOSPC: no instance left. ENODEV: the parent is
        going. Otherwise what the parent driver's `create` or the bus driver's `probe` raised.
        """
        mdev = self._reserve(parent, type_id, uuid)
        with ExitStack() as reserved:
            reserved.callback(self._put, mdev)
            with parent.registered(), ExitStack() as undo:
                undo.push(reserved.pop_all())
                self._add(mdev, undo)
                mdev.teardown = undo.pop_all()
                mdev.state = State.ACTIVE
        return mdev

    def remove(self, uuid: UUID) -> None:
        """Remove an mdev; blocks while somebody has it open, and cannot be refused once it has begun.

        ENODEV: it is not there, or its parent is going and takes it along. EAGAIN: its create has not ended, or
        another remove has begun.
        """
        self.remove_mdev(self.mdev(uuid))

    def remove_mdev(self, mdev: Mdev) -> None:
        """`remove` of this one: never of another that has come after it and has its UUID."""
        with mdev.parent.registered():
            self._claim(mdev)
            mdev.teardown.close()

    def unbind(self, mdev: Mdev, driver: str) -> None:
        """Take the mdev from its driver; blocks like a remove. ENODEV when it is not bound to ``driver``."""
        binding = mdev.binding
        if binding is None or binding.driver != driver:
            raise NoDevice(f"{mdev.uuid} is not bound to {driver}")
        with mdev.parent.registered():
            self._detach(mdev)

    def bind(self, mdev: Mdev, driver: str) -> None:
        """Give an unbound mdev back to its parent's driver. ENODEV when bound or going, or for another driver."""
        own = mdev.parent.ops.driver_name
        if self._driver is None or driver != own or mdev.state is not State.ACTIVE:
            raise NoDevice(f"{mdev.uuid} ({mdev.state.value}, a device of {own}) cannot be bound to {driver}")
        with mdev.parent.registered():
            self._attach(mdev, self._driver)

    # --- the steps of a create, each with what undoes it ----------------------------------------------------

    def _reserve(self, parent: MdevParent, type_id: str, uuid: UUID) -> Mdev:
        if type_id not in parent.types:
            raise InvalidValue(f"parent {parent.name} has no type {type_id}; it has: {', '.join(parent.types)}")
        mdev = Mdev(uuid, parent, parent.types[type_id])
        with self._lock:
            if uuid in self._mdevs:
                raise AlreadyExists(f"an mdev {uuid} exists on parent {self._mdevs[uuid].parent.name}")
            limit = parent.ops.max_instances
            if limit is not None and parent.instances >= limit:
                raise NoInstances(f"parent {parent.name} has {limit} instances and all are used; remove one first")
            parent.instances += 1
            self._mdevs[uuid] = mdev
        return mdev

    def _put(self, mdev: Mdev) -> None:
        with self._lock:
            mdev.parent.instances -= 1
            del self._mdevs[mdev.uuid]

    def _claim(self, mdev: Mdev) -> None:
        with self._lock:
            if self._mdevs.get(mdev.uuid) is not mdev:
                raise NoDevice(f"no mdev {mdev.uuid}")
            if mdev.state is not State.ACTIVE:
                raise NotReady(f"{mdev.uuid} is {mdev.state.value}")
            mdev.state = State.REMOVING

    def _add(self, mdev: Mdev, undo: ExitStack) -> None:
        ops = mdev.parent.ops
        self._emit(EventKind.MDEV_ADDED, mdev.parent, mdev)
        undo.callback(self._emit, EventKind.MDEV_REMOVED, mdev.parent, mdev)
        mdev.drvdata = ops.create(mdev)
        undo.callback(_regardless, ops.remove, mdev)
        undo.callback(self._detach, mdev)
        if self._driver is not None:
            self._attach(mdev, self._driver)
        undo.callback(self._emit, EventKind.MDEV_HIDDEN, mdev.parent, mdev)
        self._emit(EventKind.MDEV_LINKED, mdev.parent, mdev)
        undo.callback(self._emit, EventKind.MDEV_UNLINKED, mdev.parent, mdev)

    def _attach(self, mdev: Mdev, driver: MdevDriver) -> None:
        with mdev.lock:
            if mdev.state is State.REMOVING:  # a remove that has detached it would leave behind what is bound now
                raise NoDevice(f"{mdev.uuid} is being removed")
            if mdev.binding is not None:
                raise NoDevice(f"{mdev.uuid} is bound to {mdev.binding.driver}")
            with ExitStack() as undo:
                binding = mdev.binding = Binding(mdev.parent.ops.driver_name, self._number_group())
                undo.callback(self._release_group, mdev, binding)
                driver.probe(mdev)
                undo.pop_all()
            for kind in (EventKind.GROUP_ADDED, EventKind.VFIO_ADDED, EventKind.MDEV_BOUND):
                self._emit(kind, mdev.parent, mdev)

    def _detach(self, mdev: Mdev) -> None:
        with mdev.lock:
            binding = mdev.binding
            if binding is None or self._driver is None:
                return
            _regardless(self._driver.remove, mdev)
            for kind in (EventKind.VFIO_REMOVED, EventKind.GROUP_REMOVED, EventKind.MDEV_UNBOUND):
                self._emit(kind, mdev.parent, mdev)
            self._release_group(mdev, binding)

    def _number_group(self) -> int:
        with self._lock:
            return self._numbers.get()

    def _release_group(self, mdev: Mdev, binding: Binding) -> None:
        with self._lock:
            mdev.binding = None
            self._numbers.put(binding.number)

    def _emit(self, kind: EventKind, parent: MdevParent, mdev: Mdev | None = None) -> None:
        with self._events:
            self._number += 1
            event = Event(self._number, kind, parent, mdev, mdev.binding if mdev is not None else None)
            for listener in self._listeners:
                try:
                    listener(event)
                except Exception:  # noqa: BLE001 - a listener only renders: it cannot fail a create
                    _log.exception("event %d (%s): a listener failed", event.number, kind.name)


def _regardless(operation: Callable[[Mdev], None], mdev: Mdev) -> None:
    """What is removed cannot stay because somebody fails to say goodbye: log it and go on."""
    try:
        operation(mdev)
    except Exception:  # noqa: BLE001 - driver code: anything can come out of it
        _log.exception("mdev %s: remove failed", mdev.uuid)
