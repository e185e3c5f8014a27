"""Parents that come and go while their host, or somebody else, does something else: nothing of them is left."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event as Flag
from uuid import UUID

import pytest

from mdev_user.daemon.config import Restart
from mdev_user.daemon.parents import Parents
from mdev_user.daemon.specification import parse_parent
from mdev_user.errors import AlreadyExists, NoDevice
from mdev_user.host.remote import Ended, Host, RemoteVfioMdev
from mdev_user.host.wire import Call, Load, ParentDescription, Probe, Unload, Unprobe, Value
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.events import Event, EventKind
from mdev_user.mdev.types import MdevType
from unit.sysfs.scene import PATIENCE, UUID1, until

MTTY = parse_parent("mtty,host=shared")


class FakeHost:
    """Knows which parents it has loaded."""

    pid = 1
    gone = ""

    def __init__(self, name: str, _devices: Path, ended: Ended) -> None:
        self.name = name
        self.loaded: set[str] = set()
        self.stopped = False
        self.on_load: Callable[[], None] = lambda: None
        self.dies_at: type[Call] | None = None
        self._ended = ended

    def lend(self, uuid: UUID, listener: socket.socket) -> None:
        raise NotImplementedError

    def ask(self, call: Call) -> Value:
        return self.call(call)

    def ask_with(self, fd: int, call: Call) -> Value:
        raise NotImplementedError

    def ask_for_all(self, call: Call) -> list[Value]:
        return [self.call(call)]

    def call(self, call: Call) -> Value:
        if self.dies_at is not None and isinstance(call, self.dies_at):
            raise NoDevice("the host died")
        if isinstance(call, Unload):
            self.loaded.remove(call.parent)
        if not isinstance(call, Load):
            return None
        if call.name in self.loaded:
            raise AlreadyExists(f"this host has a parent {call.name}")
        self.loaded.add(call.name)
        self.on_load()
        return ParentDescription("mtty", [MdevType("1")], 1, [])

    def stop(self) -> None:
        self.stopped = True

    def die(self) -> None:
        self.gone = "was killed"
        self._ended(self, self.gone)


class Scene:
    """A bus, and the hosts that were started for it."""

    def __init__(self, devices: Path, restart: Restart = Restart.NEVER) -> None:
        self.bus = Bus()
        self.hosts: list[FakeHost] = []
        self.left: list[UUID] = []
        self.bus.register_driver(RemoteVfioMdev(self.left.append))
        self.prepare: Callable[[FakeHost], None] = lambda _host: None
        self.parents = Parents(self.bus, devices, restart, self._start)

    def _start(self, name: str, devices: Path, ended: Ended) -> Host:
        host = FakeHost(name, devices, ended)
        self.prepare(host)
        self.hosts.append(host)
        return host


@pytest.fixture(name="scene")
def _scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_parent_that_the_bus_refuses_is_not_left_in_a_host_that_has_others(scene: Scene) -> None:
    scene.parents.register(parse_parent("mtty,name=other,host=shared"))
    (host,) = scene.hosts
    taken = scene.bus.register_parent("mtty", scene.bus.parent("other").ops)
    with pytest.raises(AlreadyExists, match="a parent mtty is registered"):
        scene.parents.register(MTTY)
    assert host.loaded == {"other"}
    scene.bus.unregister_parent(taken)
    scene.parents.register(MTTY)
    assert host.loaded == {"other", "mtty"}


class Held:
    """A parent whose end does not come before it is let go."""

    def __init__(self, bus: Bus) -> None:
        self.reached, self.let_go = Flag(), Flag()
        bus.subscribe(self._on_event)

    def _on_event(self, event: Event) -> None:
        if event.kind is EventKind.PARENT_UNREGISTERING:
            self.reached.set()
            assert self.let_go.wait(PATIENCE)


def test_who_unregisters_second_waits_for_the_first_and_stops_no_host_before(scene: Scene) -> None:
    scene.parents.register(MTTY)
    held = Held(scene.bus)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(scene.parents.unregister, "mtty")
        assert held.reached.wait(PATIENCE)
        second = pool.submit(scene.parents.unregister, "mtty")
        with pytest.raises(TimeoutError):
            second.result(0.05)
        assert not scene.hosts[0].stopped
        held.let_go.set()
        first.result(PATIENCE)
        second.result(PATIENCE)
    assert scene.bus.parents() == []
    assert scene.hosts[0].stopped


def test_a_parent_that_is_forgotten_while_its_host_loads_it_is_not_registered(scene: Scene) -> None:
    def unregister() -> None:
        scene.parents.unregister("mtty")

    scene.prepare = lambda host: setattr(host, "on_load", unregister)
    with pytest.raises(NoDevice, match="unregistered before it was there"):
        scene.parents.register(MTTY)
    assert (scene.bus.parents(), scene.parents.views()) == ([], [])
    assert [(host.loaded, host.stopped) for host in scene.hosts] == [(set(), True)]


def test_a_restart_that_comes_too_late_leaves_no_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, Restart.ALWAYS)
    scene.parents.register(MTTY)
    start = scene.parents._host

    def unregistered_just_before(name: str) -> Host:
        scene.parents.unregister("mtty")
        return start(name)

    monkeypatch.setattr(scene.parents, "_host", unregistered_just_before)
    scene.hosts[0].die()
    until(lambda: len(scene.hosts) == 2 and scene.hosts[1].stopped)
    assert (scene.bus.parents(), scene.parents.views(), scene.hosts[1].loaded) == ([], [], set())


@pytest.mark.parametrize(("dies_at", "left"), [(None, []), (Probe, [UUID1]), (Unprobe, [UUID1])])
def test_what_a_host_may_have_left_of_an_mdev_is_taken_away_while_its_uuid_is_taken(
    scene: Scene, dies_at: type[Call] | None, left: list[UUID]
) -> None:
    """Before anybody else could have an mdev of this UUID, with a socket in the same place."""
    scene.parents.register(MTTY)
    scene.hosts[0].dies_at = dies_at
    taken: list[bool] = []
    scene.bus.subscribe(lambda event: taken.append(scene.left == left and event.kind is EventKind.MDEV_REMOVED))
    with suppress(NoDevice):
        scene.bus.create(scene.bus.parent("mtty"), "mtty-1", UUID1)
        scene.bus.remove(UUID1)
    assert (scene.left, taken[-1]) == (left, True)
