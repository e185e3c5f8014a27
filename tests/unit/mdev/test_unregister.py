"""Registering and unregistering parents, also while creates and removes run."""

import errno
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest
from typing_extensions import override

from mdev_user.errors import AlreadyExists, DriverError, NoDevice, NotSupported
from mdev_user.mdev.device import Mdev, State
from mdev_user.mdev.events import EventKind
from mdev_user.mdev.ops import LifecycleOps
from mdev_user.mdev.parent import MdevParent
from mdev_user.mdev.registration import Registration
from mdev_user.mdev.types import MdevAttribute, MdevType
from mdev_user.pci.identity import PciId
from unit.mdev.scene import (
    CREATED,
    FIRST,
    LAST,
    PATIENCE,
    REMOVED,
    Gate,
    Parent,
    Scene,
    check_events,
    check_nothing_left,
    until,
    uuid_of,
)


def is_leaving(parent: MdevParent) -> bool:
    try:
        with parent.registered():
            return False
    except NoDevice:
        return True


def test_parent_is_known_by_its_name() -> None:
    scene = Scene()
    parent, other = scene.parent(name="mtty"), scene.parent(name="mdpy")
    assert scene.bus.parents() == [parent, other]
    assert scene.bus.parent("mdpy") is other
    assert tuple(parent.types) == ("test-one", "test-two")
    assert parent.type_id(parent.ops.mdev_types[1]) == "test-two"


@pytest.mark.parametrize(("names", "text"), [((), "none"), (("a", "b"), "a, b")])
def test_unknown_parent_is_enodev_and_the_known_ones_are_told(names: tuple[str, ...], text: str) -> None:
    scene = Scene()
    for name in names:
        scene.parent(name=name)
    with pytest.raises(NoDevice, match=f"no parent x; there are: {text}$") as caught:
        scene.bus.parent("x")
    assert caught.value.errno == errno.ENODEV


def test_unknown_mdev_is_enodev() -> None:
    with pytest.raises(NoDevice, match=f"no mdev {uuid_of(7)}"):
        Scene().bus.mdev(uuid_of(7))


def test_second_parent_of_one_name_is_eexist() -> None:
    scene = Scene()
    parent = scene.parent()
    with pytest.raises(AlreadyExists, match="a parent p") as caught:
        scene.parent()
    assert caught.value.errno == errno.EEXIST
    assert scene.bus.parents() == [parent]
    assert scene.kinds() == FIRST


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0b", "a\nb", "\udc80", "x" * 256])
def test_parent_whose_name_is_no_file_name_is_einval(name: str) -> None:
    with pytest.raises(DriverError, match="file name") as caught:
        Scene().parent(name=name)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("types", "text"),
    [
        ((), "at least one"),
        (("",), "''"),
        (("a/b",), "'a/b'"),
        (("a", "b", "a"), "'a'"),
        (("\n",), "n"),
        (("x" * 251,), "x"),
    ],
)
def test_parent_with_wrong_types_is_einval(types: tuple[str, ...], text: str) -> None:
    scene, ops = Scene(), Parent()
    ops.mdev_types = tuple(MdevType(name) for name in types)
    with pytest.raises(DriverError, match=text) as caught:
        scene.parent(ops)
    assert caught.value.errno == errno.EINVAL
    assert scene.bus.parents() == []
    assert scene.kinds() == ()


@pytest.mark.parametrize("driver_name", ["", "a/b", "a\0b", "x" * 256])
def test_driver_name_that_begins_no_file_name_is_einval(driver_name: str) -> None:
    scene, ops = Scene(), Parent()
    ops.driver_name = driver_name
    with pytest.raises(DriverError, match="driver_name"):
        scene.parent(ops)


@pytest.mark.parametrize("driver_name", ["mdev", "mdev_bus", "vfio", "vfio-dev"])
def test_driver_name_of_a_module_or_class_that_is_there_anyway_is_einval(driver_name: str) -> None:
    scene, ops = Scene(), Parent()
    ops.driver_name = driver_name
    with pytest.raises(DriverError, match="Linux's own"):
        scene.parent(ops)
    assert scene.kinds() == ()


def test_available_is_counted_over_all_types_with_max_instances() -> None:
    scene = Scene()
    parent = scene.parent(Parent(max_instances=3))
    one, two = parent.types.values()
    scene.bus.create(parent, "test-one", uuid_of(1))
    assert [scene.bus.available(parent, each) for each in (one, two)] == [2, 2]
    scene.bus.create(parent, "test-two", uuid_of(2))
    scene.bus.remove(uuid_of(1))
    assert [scene.bus.available(parent, each) for each in (one, two)] == [2, 2]


def test_available_is_the_drivers_answer_without_max_instances() -> None:
    scene = Scene()
    parent = scene.parent(Parent(capacity=5))
    scene.bus.create(parent, "test-one", uuid_of(1))
    assert [scene.bus.available(parent, each) for each in parent.types.values()] == [4, 2]


class Bare(LifecycleOps):
    """Only what must be there."""

    driver_name = "bare"
    mdev_types = (MdevType("t"),)

    @override
    def create(self, mdev: Mdev) -> object:
        return None

    @override
    def remove(self, mdev: Mdev) -> None:
        pass


def test_absent_operations_are_einval() -> None:
    scene, ops = Scene(), Bare()
    parent = scene.bus.register_parent("p", ops)
    mdev = scene.bus.create(parent, "bare-t", uuid_of(1))
    attribute = MdevAttribute("vendor", "level")
    for absent in (
        lambda: scene.bus.available(parent, ops.mdev_types[0]),
        lambda: ops.show(mdev, attribute),
        lambda: ops.store(mdev, attribute, b"1"),
    ):
        with pytest.raises(NotSupported, match="bare") as caught:
            absent()
        assert caught.value.errno == errno.EINVAL


def test_driver_comes_with_its_first_parent_and_goes_with_its_last() -> None:
    scene, other = Scene(), Parent()
    other.driver_name = "other"
    first, second = scene.parent(), scene.parent(name="q")
    scene.parent(other, "r")
    scene.bus.unregister_parent(first)
    scene.bus.unregister_parent(second)
    gone = ("PARENT_UNREGISTERING", "PARENT_UNREGISTERED")
    assert scene.kinds() == (*FIRST, "PARENT_REGISTERED", *FIRST, *gone, *gone, *LAST[1:])
    assert [each.parent.name for each in scene.events] == [*"pppp", "q", *"rrrr", *"pp", *"qqqqq"]
    check_events(scene.events)


def test_a_driver_is_at_home_on_the_pci_bus_and_in_its_class_while_it_has_a_parent_there() -> None:
    scene, function = Scene(), Parent()
    function.identity = PciId(1, 2, 3)
    virtual, card = scene.parent(), scene.parent(function, "4d44:00:00.0")
    scene.bus.unregister_parent(virtual)
    scene.bus.unregister_parent(card)
    gone = ("PARENT_UNREGISTERING", "PARENT_UNREGISTERED")
    assert scene.kinds() == (
        *FIRST, "HOME_ADDED", "PARENT_REGISTERED", *gone, "HOME_REMOVED", "PARENT_UNREGISTERING", *LAST
    )  # fmt: skip


def test_unregistering_removes_the_mdevs_oldest_first() -> None:
    scene = Scene()
    parent, other = scene.parent(), scene.parent(name="other")
    for number in (3, 1, 2):
        scene.bus.create(parent, "test-one", uuid_of(number))
    kept = scene.bus.create(other, "test-one", uuid_of(9))
    start = len(scene.events)
    scene.bus.unregister_parent(parent)
    assert scene.kinds(start) == ("PARENT_UNREGISTERING", *REMOVED * 3, "PARENT_UNREGISTERED")
    gone = [each.mdev.uuid for each in scene.events[start:] if each.mdev and each.kind is EventKind.MDEV_REMOVED]
    assert gone == [uuid_of(3), uuid_of(1), uuid_of(2)]
    assert (scene.bus.parents(), scene.bus.mdevs()) == ([other], [kept])
    check_events(scene.events)


def test_unbound_mdevs_go_with_their_parent() -> None:
    scene = Scene()
    parent = scene.parent()
    scene.bus.unbind(scene.bus.create(parent, "test-one", uuid_of(1)), "test")
    scene.bus.unregister_parent(parent)
    check_nothing_left(scene, parent)


def test_second_unregistration_does_nothing() -> None:
    scene = Scene()
    parent = scene.parent()
    scene.bus.unregister_parent(parent)
    again = scene.parent()
    scene.bus.unregister_parent(parent)
    assert scene.bus.parents() == [again]
    assert scene.kinds() == (*FIRST, "PARENT_UNREGISTERING", *LAST, *FIRST)


def test_nothing_can_be_created_through_a_kept_parent() -> None:
    scene = Scene()
    parent = scene.parent(Parent(max_instances=1))
    scene.bus.unregister_parent(parent)
    start = len(scene.events)
    for _ in range(2):
        with pytest.raises(NoDevice, match="unregistered") as caught:
            scene.bus.create(parent, "test-one", uuid_of(1))
        assert caught.value.errno == errno.ENODEV
    assert scene.kinds(start) == ()
    check_nothing_left(scene, parent)


def test_unregistration_waits_for_a_running_create_and_takes_its_mdev() -> None:
    scene, ops = Scene(), Parent()
    parent = scene.parent(ops)
    with ThreadPoolExecutor() as pool, Gate() as gate:
        ops.on_create = gate
        creating = pool.submit(scene.bus.create, parent, "test-one", uuid_of(1))
        gate.wait_entered()
        leaving = pool.submit(scene.bus.unregister_parent, parent)
        until(lambda: is_leaving(parent))
        assert "PARENT_UNREGISTERING" not in scene.kinds()
        gate.open()
        mdev = creating.result(PATIENCE)
        leaving.result(PATIENCE)
    assert mdev.state is State.REMOVING
    assert scene.kinds() == (*FIRST, *CREATED, "PARENT_UNREGISTERING", *REMOVED, *LAST)
    check_nothing_left(scene, parent)


def test_unregistration_waits_for_a_blocked_remove() -> None:
    scene = Scene()
    parent = scene.parent()
    scene.bus.create(parent, "test-one", uuid_of(1))
    with ThreadPoolExecutor() as pool, Gate() as gate:
        scene.driver.on_remove = gate
        removing = pool.submit(scene.bus.remove, uuid_of(1))
        gate.wait_entered()
        leaving = pool.submit(scene.bus.unregister_parent, parent)
        until(lambda: is_leaving(parent))
        assert not leaving.done()
        gate.open()
        removing.result(PATIENCE)
        leaving.result(PATIENCE)
    assert scene.kinds()[-6:] == ("MDEV_REMOVED", "PARENT_UNREGISTERING", *LAST)
    check_events(scene.events)
    check_nothing_left(scene, parent)


def test_creates_and_removes_are_enodev_during_an_unregistration() -> None:
    scene = Scene()
    parent, other = scene.parent(Parent(max_instances=9)), scene.parent(name="other")
    for number in (1, 2):
        scene.bus.create(parent, "test-one", uuid_of(number))
    with ThreadPoolExecutor() as pool, Gate() as gate:
        scene.driver.on_remove = gate
        leaving = pool.submit(scene.bus.unregister_parent, parent)
        gate.wait_entered()
        scene.driver.on_remove = lambda _mdev: None
        for number in (1, 2, 2):  # the one that is being taken, the one that waits, and that one again
            with pytest.raises(NoDevice, match="unregistered"):
                scene.bus.remove(uuid_of(number))
        with pytest.raises(NoDevice, match="unregistered"):
            scene.bus.create(parent, "test-one", uuid_of(3))
        with pytest.raises(AlreadyExists):
            scene.bus.create(parent, "test-one", uuid_of(2))
        assert parent.instances == 2
        pool.submit(scene.bus.create, other, "test-one", uuid_of(3)).result(PATIENCE)
        pool.submit(scene.bus.remove, uuid_of(3)).result(PATIENCE)
        assert not leaving.done()
        gate.open()
        leaving.result(PATIENCE)
    check_events(scene.events)
    check_nothing_left(scene, parent, other)


@pytest.mark.parametrize("kind", [EventKind.PARENT_REGISTERED, EventKind.PARENT_UNREGISTERED])
def test_parents_event_comes_before_those_of_whoever_finds_it(kind: EventKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread is as quick as can be: it acts while the event is about to be told."""
    scene = Scene()
    tell, others = scene.bus._emit, list[Future[object]]()

    def act() -> object:
        if kind is EventKind.PARENT_UNREGISTERED:
            return scene.parent()
        return scene.bus.create(scene.bus.parent("p"), "test-one", uuid_of(1))

    def late(told: EventKind, parent: MdevParent, mdev: Mdev | None = None) -> None:
        if told is kind and not others:
            others.append(pool.submit(act))
            wait(others, timeout=0.2)  # it may be held until the event is told: that is what is tested
        tell(told, parent, mdev)

    with ThreadPoolExecutor() as pool:
        monkeypatch.setattr(scene.bus, "_emit", late)
        parent = scene.parent()
        if kind is EventKind.PARENT_UNREGISTERED:
            scene.bus.unregister_parent(parent)
        others[0].result(PATIENCE)
    check_events(scene.events)


def test_registration_lets_nobody_in_once_it_is_ending() -> None:
    registration = Registration()
    assert registration.try_enter()
    with ThreadPoolExecutor() as pool:
        ending = pool.submit(registration.end)
        until(lambda: registration._ended)
        assert not registration.try_enter()
        assert not registration.end(), "two ended it"
        assert not ending.done()
        registration.leave()
        assert ending.result(PATIENCE)
    assert not registration.try_enter()
