"""Unbind, bind back, and the numbers of the groups."""

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from mdev_user.errors import AlreadyExists, NoDevice, NoSpace
from mdev_user.mdev.device import Binding, Mdev, State
from mdev_user.mdev.numbers import Numbers
from unit.mdev.scene import (
    CREATED,
    PATIENCE,
    REMOVED,
    UNBOUND,
    Driver,
    Gate,
    Parent,
    Scene,
    check_nothing_left,
    until,
    uuid_of,
)


def number_of(mdev: Mdev) -> int:
    assert mdev.binding is not None
    return mdev.binding.number


def test_unbind_takes_the_vfio_device_and_leaves_the_mdev() -> None:
    scene, ops = Scene(), Parent()
    mdev = scene.bus.create(scene.parent(ops), "test-one", uuid_of(1))
    start = len(scene.events)
    scene.bus.unbind(mdev, "test")
    assert scene.kinds(start) == UNBOUND
    assert [each.binding for each in scene.events[start:]] == [Binding("test", 0)] * 3
    assert (mdev.binding, mdev.state) == (None, State.ACTIVE)
    assert (scene.driver.bound, scene.bus.mdevs(), ops.live) == ([], [mdev], [mdev])


def test_bind_brings_the_vfio_device_back() -> None:
    scene, ops = Scene(), Parent()
    parent = scene.parent(ops)
    mdev = scene.bus.create(parent, "test-one", uuid_of(1))
    drvdata = mdev.drvdata
    scene.bus.unbind(mdev, "test")
    start = len(scene.events)
    scene.bus.bind(mdev, "test")
    assert scene.kinds(start) == ("GROUP_ADDED", "VFIO_ADDED", "MDEV_BOUND")
    assert mdev.binding == Binding("test", 0)
    assert mdev.drvdata is drvdata
    start = len(scene.events)
    scene.bus.remove(uuid_of(1))
    assert scene.kinds(start) == REMOVED
    check_nothing_left(scene, parent)


@pytest.mark.parametrize("driver", ["", "test2", "other", "vfio_mdev"])
def test_unbind_from_a_driver_that_does_not_have_it_is_enodev(driver: str) -> None:
    scene, other = Scene(), Parent()
    other.driver_name = "other"
    scene.parent(other, "q")
    mdev = scene.bus.create(scene.parent(), "test-one", uuid_of(1))
    with pytest.raises(NoDevice, match="not bound") as caught:
        scene.bus.unbind(mdev, driver)
    assert caught.value.errno == errno.ENODEV
    assert mdev.binding == Binding("test", 0)


def test_second_unbind_is_enodev() -> None:
    scene = Scene()
    mdev = scene.bus.create(scene.parent(), "test-one", uuid_of(1))
    scene.bus.unbind(mdev, "test")
    with pytest.raises(NoDevice):
        scene.bus.unbind(mdev, "test")


def test_two_unbinds_at_once_ask_the_driver_once() -> None:
    scene = Scene()
    mdev = scene.bus.create(parent := scene.parent(), "test-one", uuid_of(1))
    start = len(scene.events)
    with ThreadPoolExecutor() as pool, Gate() as gate:
        scene.driver.on_remove = gate
        first = pool.submit(scene.bus.unbind, mdev, "test")
        gate.wait_entered()
        second = pool.submit(scene.bus.unbind, mdev, "test")
        until(lambda: parent._registration._relying == 2)
        gate.open()
        first.result(PATIENCE)
        second.result(PATIENCE)
    assert scene.kinds(start) == UNBOUND


def test_bind_of_a_bound_mdev_is_enodev() -> None:
    scene = Scene()
    mdev = scene.bus.create(scene.parent(), "test-one", uuid_of(1))
    with pytest.raises(NoDevice, match="is bound to test"):
        scene.bus.bind(mdev, "test")
    assert scene.driver.bound == [mdev]


@pytest.mark.parametrize("driver", ["mtty", "other", "vfio_mdev"])
def test_bind_to_a_driver_that_is_not_its_parents_is_enodev(driver: str) -> None:
    scene, other = Scene(), Parent()
    other.driver_name = "other"
    scene.parent(other, "q")
    mdev = scene.bus.create(scene.parent(), "test-one", uuid_of(1))
    scene.bus.unbind(mdev, "test")
    with pytest.raises(NoDevice, match=f"cannot be bound to {driver}"):
        scene.bus.bind(mdev, driver)


def test_binding_has_the_name_of_the_parents_driver() -> None:
    scene, other = Scene(), Parent()
    other.driver_name = "other"
    mdevs = [
        scene.bus.create(scene.parent(), "test-one", uuid_of(1)),
        scene.bus.create(scene.parent(other, "q"), "other-one", uuid_of(2)),
    ]
    assert [each.binding for each in mdevs] == [Binding("test", 0), Binding("other", 1)]
    assert scene.driver.bound == mdevs


def test_second_driver_behind_the_bus_is_eexist() -> None:
    scene = Scene()
    with pytest.raises(AlreadyExists, match="given second") as caught:
        scene.bus.register_driver(Driver("second"))
    assert caught.value.errno == errno.EEXIST


def test_failing_probe_leaves_a_bound_back_mdev_unbound() -> None:
    scene, ops = Scene(), Parent()
    mdev = scene.bus.create(scene.parent(ops), "test-one", uuid_of(1))
    scene.bus.unbind(mdev, "test")
    start = len(scene.events)
    scene.driver.on_probe = _no_space
    with pytest.raises(NoSpace):
        scene.bus.bind(mdev, "test")
    assert (mdev.binding, scene.kinds(start), ops.live) == (None, (), [mdev])
    scene.driver.on_probe = lambda _mdev: None
    scene.bus.bind(mdev, "test")
    assert number_of(mdev) == 0, "the number of the failed probe was lost"


def _no_space(_mdev: Mdev) -> None:
    message = "no"
    raise NoSpace(message)


def test_removed_mdev_can_be_neither_bound_nor_unbound() -> None:
    scene = Scene()
    mdev = scene.bus.create(scene.parent(), "test-one", uuid_of(1))
    scene.bus.remove(uuid_of(1))
    with pytest.raises(NoDevice, match="removing"):
        scene.bus.bind(mdev, "test")
    with pytest.raises(NoDevice):
        scene.bus.unbind(mdev, "test")


def test_mdev_cannot_be_bound_while_it_is_created() -> None:
    scene, ops = Scene(), Parent()
    parent = scene.parent(ops)
    with ThreadPoolExecutor() as pool, Gate() as gate:
        ops.on_create = gate
        creating = pool.submit(scene.bus.create, parent, "test-one", uuid_of(1))
        gate.wait_entered()
        with pytest.raises(NoDevice, match="creating"):
            scene.bus.bind(scene.bus.mdev(uuid_of(1)), "test")
        gate.open()
        creating.result(PATIENCE)


def test_bind_that_a_remove_overtakes_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The remove runs whole between the bind's look at the state and its probe."""
    scene = Scene()
    parent = scene.parent()
    mdev = scene.bus.create(parent, "test-one", uuid_of(1))
    scene.bus.unbind(mdev, "test")
    registered = parent.registered

    @contextmanager
    def overtaken() -> Iterator[None]:
        monkeypatch.setattr(parent, "registered", registered)
        scene.bus.remove(uuid_of(1))
        yield

    monkeypatch.setattr(parent, "registered", overtaken)
    with pytest.raises(NoDevice, match="being removed"):
        scene.bus.bind(mdev, "test")
    check_nothing_left(scene, parent)


def test_unbind_waits_for_the_user_and_a_remove_waits_for_it() -> None:
    scene = Scene()
    parent = scene.parent()
    mdev = scene.bus.create(parent, "test-one", uuid_of(1))
    with ThreadPoolExecutor() as pool, Gate() as gate:
        scene.driver.on_remove = gate
        unbinding = pool.submit(scene.bus.unbind, mdev, "test")
        gate.wait_entered()
        removing = pool.submit(scene.bus.remove, uuid_of(1))
        until(lambda: scene.kinds()[-1] == "MDEV_HIDDEN")
        assert not unbinding.done()
        assert not removing.done()
        gate.open()
        unbinding.result(PATIENCE)
        removing.result(PATIENCE)
    assert scene.kinds_of(uuid_of(1)) == (*CREATED, *REMOVED)
    check_nothing_left(scene, parent)


def test_bind_and_unbind_are_enodev_when_the_parent_is_gone() -> None:
    scene, ops = Scene(), Parent()
    parent = scene.parent(ops)
    bound, unbound = (scene.bus.create(parent, "test-one", uuid_of(number)) for number in (1, 2))
    scene.bus.unbind(unbound, "test")
    with ThreadPoolExecutor() as pool, Gate() as gate:
        scene.driver.on_remove = gate
        leaving = pool.submit(scene.bus.unregister_parent, parent)
        gate.wait_entered()
        with pytest.raises(NoDevice, match="unregistered"):
            scene.bus.unbind(bound, "test")
        with pytest.raises(NoDevice, match="unregistered"):
            scene.bus.bind(unbound, "test")
        gate.open()
        leaving.result(PATIENCE)
    check_nothing_left(scene, parent)


def test_group_numbers_are_the_lowest_free_over_all_parents() -> None:
    scene = Scene()
    parents = [scene.parent(name=name) for name in ("p", "q")]
    mdevs = [scene.bus.create(parents[number % 2], "test-one", uuid_of(number)) for number in range(5)]
    assert [number_of(each) for each in mdevs] == [0, 1, 2, 3, 4]
    scene.bus.remove(uuid_of(3))
    scene.bus.unbind(mdevs[1], "test")
    again = [scene.bus.create(parents[0], "test-one", uuid_of(number)) for number in (10, 11, 12)]
    assert [number_of(each) for each in again] == [1, 3, 5]


def test_group_numbers_skip_those_that_somebody_else_has() -> None:
    scene = Scene(taken_groups=[0, 2, 3])
    parent = scene.parent()
    mdevs = [scene.bus.create(parent, "test-one", uuid_of(number)) for number in range(3)]
    assert [number_of(each) for each in mdevs] == [1, 4, 5]
    scene.bus.remove(uuid_of(0))
    assert number_of(scene.bus.create(parent, "test-one", uuid_of(9))) == 1


def test_group_number_of_a_failed_probe_is_given_back() -> None:
    scene = Scene()
    parent = scene.parent()
    scene.driver.on_probe = _no_space
    for _ in range(3):
        with pytest.raises(NoSpace):
            scene.bus.create(parent, "test-one", uuid_of(1))
    scene.driver.on_probe = lambda _mdev: None
    assert number_of(scene.bus.create(parent, "test-one", uuid_of(1))) == 0


def test_numbers_are_lowest_free() -> None:
    numbers = Numbers()
    assert [numbers.get() for _ in range(4)] == [0, 1, 2, 3]
    for freed in (2, 0, 3):
        numbers.put(freed)
    assert [numbers.get() for _ in range(4)] == [0, 2, 3, 4]
