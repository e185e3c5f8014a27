"""A remove: its order, whom it waits for, who is refused meanwhile, and that nothing stops it."""

import errno
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from mdev_user.errors import AlreadyExists, NoDevice, NotReady
from mdev_user.mdev.device import Binding, Mdev, State
from unit.mdev.scene import (
    CREATED,
    PATIENCE,
    REMOVED,
    Gate,
    Parent,
    Scene,
    check_events,
    check_nothing_left,
    uuid_of,
)


def raise_bug(_mdev: Mdev) -> None:
    message = "a bug of the driver's"
    raise RuntimeError(message)


def test_events_of_a_remove_are_in_the_kernels_order() -> None:
    scene = Scene()
    parent = scene.parent()
    mdev = scene.bus.create(parent, "test-one", uuid_of(1))
    start = len(scene.events)
    scene.bus.remove(uuid_of(1))
    assert scene.kinds(start) == REMOVED
    bound = Binding("test", 0)
    assert [each.binding for each in scene.events[start:]] == [bound] * 5 + [None]
    assert mdev.state is State.REMOVING
    check_nothing_left(scene, parent)


def test_driver_lets_go_after_hidden_and_the_parent_after_unbound() -> None:
    scene, ops = Scene(), Parent()
    seen: list[tuple[str, ...]] = []
    ops.on_remove = scene.driver.on_remove = lambda mdev: seen.append(scene.kinds_of(mdev.uuid)[len(CREATED) :])
    scene.bus.create(scene.parent(ops), "test-one", uuid_of(1))
    scene.bus.remove(uuid_of(1))
    assert seen == [REMOVED[:2], REMOVED[:5]]


def test_removed_event_comes_while_the_uuid_is_still_taken() -> None:
    scene = Scene()
    scene.bus.create(scene.parent(), "test-one", uuid_of(1))
    taken: list[int] = []
    scene.bus.subscribe(lambda _event: taken.append(len(scene.bus.mdevs())))
    scene.bus.remove(uuid_of(1))
    assert taken == [1] * len(REMOVED)


def test_unknown_uuid_is_enodev() -> None:
    scene = Scene()
    with pytest.raises(NoDevice, match=str(uuid_of(1))) as caught:
        scene.bus.remove(uuid_of(1))
    assert caught.value.errno == errno.ENODEV


def test_second_remove_is_enodev() -> None:
    scene = Scene()
    scene.bus.create(scene.parent(), "test-one", uuid_of(1))
    scene.bus.remove(uuid_of(1))
    with pytest.raises(NoDevice):
        scene.bus.remove(uuid_of(1))
    check_events(scene.events)


def test_remove_during_the_create_is_eagain_and_harmless() -> None:
    scene, ops = Scene(), Parent()
    parent = scene.parent(ops)
    with ThreadPoolExecutor() as pool, Gate() as gate:
        ops.on_create = gate
        creating = pool.submit(scene.bus.create, parent, "test-one", uuid_of(1))
        gate.wait_entered()
        with pytest.raises(NotReady, match="creating") as caught:
            scene.bus.remove(uuid_of(1))
        assert caught.value.errno == errno.EAGAIN
        gate.open()
        assert creating.result(PATIENCE).state is State.ACTIVE
    scene.bus.remove(uuid_of(1))
    check_nothing_left(scene, parent)


def test_while_a_remove_waits_for_the_user() -> None:
    """One blocked remove: what it holds stays held, and everything else goes on."""
    scene, ops = Scene(), Parent(max_instances=2)
    parent, other = scene.parent(ops), scene.parent(name="other")
    scene.bus.create(parent, "test-one", uuid_of(1))
    start = len(scene.events)
    with ThreadPoolExecutor() as pool, Gate() as gate:
        scene.driver.on_remove = gate
        removing = pool.submit(scene.bus.remove, uuid_of(1))
        gate.wait_entered()
        scene.driver.on_remove = lambda _mdev: None
        assert scene.kinds(start) == ("MDEV_UNLINKED", "MDEV_HIDDEN")
        assert scene.bus.mdev(uuid_of(1)).state is State.REMOVING
        _check_held(scene, uuid_number=1)
        assert scene.bus.available(parent, parent.types["test-one"]) == 1
        for number, anywhere in ((2, parent), (3, other)):
            mdev = pool.submit(scene.bus.create, anywhere, "test-one", uuid_of(number)).result(PATIENCE)
            assert mdev.binding is not None
            assert mdev.binding.number == 1, "the group number of the mdev in use was given away"
            pool.submit(scene.bus.remove, uuid_of(number)).result(PATIENCE)
        assert not removing.done()
        gate.open()
        removing.result(PATIENCE)
    check_events(scene.events)
    check_nothing_left(scene, parent, other)


def _check_held(scene: Scene, uuid_number: int) -> None:
    with pytest.raises(NotReady, match="removing"):
        scene.bus.remove(uuid_of(uuid_number))
    for parent in scene.bus.parents():
        with pytest.raises(AlreadyExists):
            scene.bus.create(parent, "test-one", uuid_of(uuid_number))


def test_remove_of_an_unbound_mdev_does_not_ask_the_driver() -> None:
    scene = Scene()
    parent = scene.parent()
    mdev = scene.bus.create(parent, "test-one", uuid_of(1))
    scene.bus.unbind(mdev, "test")
    scene.driver.on_remove = raise_bug
    start = len(scene.events)
    scene.bus.remove(uuid_of(1))
    assert scene.kinds(start) == ("MDEV_UNLINKED", "MDEV_HIDDEN", "MDEV_REMOVED")
    check_nothing_left(scene, parent)


@pytest.mark.parametrize("who", ["parent", "driver", "both"])
def test_failing_remove_is_logged_and_the_mdev_is_gone(who: str, caplog: pytest.LogCaptureFixture) -> None:
    scene, ops = Scene(), Parent()
    parent = scene.parent(ops)
    scene.bus.create(parent, "test-one", uuid_of(1))
    if who != "driver":
        ops.on_remove = raise_bug
    if who != "parent":
        scene.driver.on_remove = raise_bug
    start = len(scene.events)
    with caplog.at_level(logging.ERROR):
        scene.bus.remove(uuid_of(1))
    assert scene.kinds(start) == REMOVED
    records = [each for each in caplog.records if str(uuid_of(1)) in each.getMessage()]
    assert len(records) == (2 if who == "both" else 1)
    assert all(each.exc_info is not None for each in records), "the traceback is not in the log"
    check_nothing_left(scene, parent)


def test_remove_that_lost_the_race_does_not_take_a_new_mdev_of_the_same_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between finding an mdev and claiming it, it is removed and its UUID used again."""
    scene = Scene()
    parent = scene.parent()
    scene.bus.create(parent, "test-one", uuid_of(1))
    claim = scene.bus._claim

    def overtaken(mdev: Mdev) -> None:
        monkeypatch.setattr(scene.bus, "_claim", claim)
        scene.bus.remove(uuid_of(1))
        scene.bus.create(parent, "test-one", uuid_of(1))
        claim(mdev)

    monkeypatch.setattr(scene.bus, "_claim", overtaken)
    with pytest.raises(NoDevice):
        scene.bus.remove(uuid_of(1))
    assert scene.bus.mdev(uuid_of(1)).state is State.ACTIVE
    check_events(scene.events)


def test_who_removes_an_mdev_never_takes_one_that_came_later_with_its_uuid() -> None:
    scene = Scene()
    parent = scene.parent()
    before = scene.bus.create(parent, "test-one", uuid_of(1))
    scene.bus.remove(uuid_of(1))
    after = scene.bus.create(parent, "test-one", uuid_of(1))
    with pytest.raises(NoDevice):
        scene.bus.remove_mdev(before)
    assert (scene.bus.mdevs(), after.state) == ([after], State.ACTIVE)
