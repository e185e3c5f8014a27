"""What the tests of the framework stand on: a parent driver, a bus driver, the log of events, gates for threads."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event as Flag
from threading import Lock
from time import monotonic, sleep
from typing import Self
from uuid import UUID

from typing_extensions import override

from mdev_user.errors import NoSpace
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.events import Event, EventKind
from mdev_user.mdev.ops import LifecycleOps
from mdev_user.mdev.parent import MdevParent
from mdev_user.mdev.types import MdevType

PATIENCE = 20.0
"""Seconds after which a test that waits for a thread gives up."""

FIRST = ("DRIVER_ADDED", "HOME_ADDED", "PARENT_REGISTERED", "DRIVER_LOADED")
LAST = ("PARENT_UNREGISTERED", "DRIVER_REMOVED", "HOME_REMOVED", "DRIVER_UNLOADED")
"""Of a driver's first parent, and of its last."""
CREATED = ("MDEV_ADDED", "GROUP_ADDED", "VFIO_ADDED", "MDEV_BOUND", "MDEV_LINKED")
UNBOUND = ("VFIO_REMOVED", "GROUP_REMOVED", "MDEV_UNBOUND")
REMOVED = ("MDEV_UNLINKED", "MDEV_HIDDEN", *UNBOUND, "MDEV_REMOVED")


def uuid_of(number: int) -> UUID:
    return UUID(int=number)


def nothing(_mdev: Mdev) -> None:
    """What a hook does until a test gives it something to do."""


_UNITS = {"one": 1, "two": 2}


class Parent(LifecycleOps):
    """A parent driver that keeps what it created; ``capacity`` counts units, of which type "two" takes two."""

    driver_name = "test"
    mdev_types: Sequence[MdevType] = (MdevType("one"), MdevType("two", "Two units", "takes two"))

    def __init__(self, max_instances: int | None = None, capacity: int = 1000) -> None:
        self.max_instances = max_instances
        self.capacity = capacity
        self.live: list[Mdev] = []
        self.most = 0
        self.on_create: Callable[[Mdev], None] = nothing
        self.on_remove: Callable[[Mdev], None] = nothing
        self._lock = Lock()

    @override
    def create(self, mdev: Mdev) -> object:
        self.on_create(mdev)
        with self._lock:
            if _UNITS[mdev.type.name] > self._free():
                raise NoSpace("no unit left")
            self.live.append(mdev)
            self.most = max(self.most, len(self.live))
        return f"state of {mdev.uuid}"

    @override
    def remove(self, mdev: Mdev) -> None:
        with self._lock:
            self.live.remove(mdev)
        self.on_remove(mdev)

    @override
    def get_available(self, mdev_type: MdevType) -> int:
        with self._lock:
            return self._free() // _UNITS[mdev_type.name]

    def _free(self) -> int:
        return self.capacity - sum(_UNITS[each.type.name] for each in self.live)


class Driver:
    """A driver of the mdev bus that knows which mdevs it has."""

    def __init__(self, name: str = "vfio_mdev") -> None:
        self.name = name
        self.bound: list[Mdev] = []
        self.on_probe: Callable[[Mdev], None] = nothing
        self.on_remove: Callable[[Mdev], None] = nothing

    def probe(self, mdev: Mdev) -> None:
        self.on_probe(mdev)
        self.bound.append(mdev)

    def remove(self, mdev: Mdev) -> None:
        self.bound.remove(mdev)
        self.on_remove(mdev)


class Scene:
    """A bus with one driver and a log of its events."""

    def __init__(self, taken_groups: Sequence[int] = ()) -> None:
        self.bus = Bus(taken_groups)
        self.driver = Driver()
        self.bus.register_driver(self.driver)
        self.events: list[Event] = []
        self.bus.subscribe(self.events.append)

    def parent(self, ops: Parent | None = None, name: str = "p") -> MdevParent:
        return self.bus.register_parent(name, ops or Parent())

    def kinds(self, start: int = 0) -> tuple[str, ...]:
        return tuple(each.kind.name for each in self.events[start:])

    def kinds_of(self, uuid: UUID) -> tuple[str, ...]:
        return tuple(each.kind.name for each in self.events if each.mdev is not None and each.mdev.uuid == uuid)


class Gate:
    """Holds whoever comes through it until the test has looked; open for all at the end of its ``with``."""

    def __init__(self) -> None:
        self._entered = Flag()
        self._open = Flag()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.set()

    def __call__(self, _mdev: Mdev) -> None:
        self._entered.set()
        assert self._open.wait(PATIENCE), "the gate was never opened"

    def wait_entered(self) -> None:
        assert self._entered.wait(PATIENCE), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()


def until(condition: Callable[[], bool]) -> None:
    """Poll for something that another thread does."""
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline, "waited in vain"
        sleep(0.001)


@contextmanager
def hasty_threads() -> Iterator[None]:
    """Let the interpreter switch threads as often as it can, so that races happen."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


# --- checks, each of which must be able to fail (see test_negative_controls) ----------------------------------


def check_nothing_left(scene: Scene, *parents: MdevParent) -> None:
    """No UUID, instance, group number, driver state or mdev of these parents remains."""
    assert scene.bus.mdevs() == [], "UUIDs are left"
    for parent in parents:
        assert parent.instances == 0, f"{parent.name}: {parent.instances} instances are left"
        assert isinstance(parent.ops, Parent)
        assert parent.ops.live == [], f"{parent.name}: the parent driver has mdevs left"
    assert scene.driver.bound == [], "the bus driver has mdevs left"
    numbers = scene.bus._numbers
    assert sorted(numbers._free) == list(range(numbers._next)), "group numbers are left"


_BEFORE_AND_AFTER = ("DRIVER_ADDED", "HOME_ADDED", "DRIVER_REMOVED", "HOME_REMOVED", "DRIVER_UNLOADED")
"""Of what is there before a parent, and after it."""

_LIFE = re.compile(
    "MDEV_ADDED( MDEV_REMOVED| {bind} MDEV_LINKED( {unbind} {bind})*{end}?)".format(
        bind="GROUP_ADDED VFIO_ADDED MDEV_BOUND",
        unbind=" ".join(UNBOUND),
        end=f"( {' '.join(REMOVED)}| {' '.join(UNBOUND)}( MDEV_UNLINKED MDEV_HIDDEN MDEV_REMOVED)?)",
    )
)
"""Refused; or bound, perhaps unbound and bound again, perhaps removed bound or unbound."""


def check_events(events: list[Event]) -> None:
    """Numbers without a gap; every life whole, also when a parent begins to go; mdevs only on registered parents."""
    assert [each.number for each in events] == list(range(1, len(events) + 1)), "the numbers have a gap"
    _check_parents(events)
    _check_drivers(events)
    _check_lives(events)
    for at, each in enumerate(events):
        if each.kind is EventKind.PARENT_UNREGISTERING:
            _check_lives([before for before in events[:at] if before.parent is each.parent])


def _check_parents(events: list[Event]) -> None:
    registered: dict[str, MdevParent] = {}
    for each in events:
        if each.kind is EventKind.PARENT_REGISTERED:
            assert each.parent.name not in registered, f"{each.parent.name} is registered twice"
            registered[each.parent.name] = each.parent
        if each.kind.name not in _BEFORE_AND_AFTER:
            assert registered.get(each.parent.name) is each.parent, f"event {each.number}: its parent is not registered"
        if each.kind is EventKind.PARENT_UNREGISTERED:
            del registered[each.parent.name]


def _check_drivers(events: list[Event]) -> None:
    """A driver comes with its first parent and goes with its last, and nothing is told in between."""
    told = [(each.kind.name, each.parent.name) for each in events]
    parents: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for at, each in enumerate(events):
        driver, name = each.parent.ops.driver_name, each.parent.name
        if each.kind is EventKind.PARENT_REGISTERED:
            parents[driver] += 1
            if parents[driver] == 1:
                expected.update(FIRST)
                assert told[at - 2 : at + 2] == [(kind, name) for kind in FIRST], f"{driver} does not come with {name}"
        if each.kind is EventKind.PARENT_UNREGISTERED:
            parents[driver] -= 1
            if not parents[driver]:
                expected.update(LAST)
                assert told[at : at + 4] == [(kind, name) for kind in LAST], f"{driver} does not go with {name}"
    for kind in (*_BEFORE_AND_AFTER, "DRIVER_LOADED"):
        assert [each for each, _ in told].count(kind) == expected[kind], f"{kind} is told without a reason"


def _check_lives(events: list[Event]) -> None:
    lives: dict[Mdev, list[str]] = {}
    for each in events:
        if each.mdev is not None:
            lives.setdefault(each.mdev, []).append(each.kind.name)
    for kinds in lives.values():
        assert _LIFE.fullmatch(" ".join(kinds)), f"no life of an mdev: {kinds}"
