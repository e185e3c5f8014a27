"""A create: its order, what it refuses with which errno, and that a refused one leaves nothing."""

import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mdev_user.errors import AlreadyExists, InvalidValue, MdevError, MdevUserError, NoInstances, NoSpace
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.device import Binding, Mdev, State
from mdev_user.mdev.events import EventKind
from mdev_user.mdev.parent import MdevParent
from unit.mdev.scene import (
    CREATED,
    FIRST,
    PATIENCE,
    REMOVED,
    Gate,
    Parent,
    Scene,
    check_events,
    check_nothing_left,
    uuid_of,
)

Hook = Callable[[Mdev], None]
ERRORS = (NoSpace("full"), OSError(errno.ENOMEM, "no memory"), RuntimeError("a bug"), MdevUserError("?"))


def raises(error: Exception) -> Hook:
    def hook(_mdev: Mdev) -> None:
        raise error

    return hook


def refused(scene: Scene, parent: MdevParent, number: int) -> int:
    """The errno of a create that must fail."""
    with pytest.raises(MdevError) as caught:
        scene.bus.create(parent, "test-one", uuid_of(number))
    return caught.value.errno


def test_created_mdev_is_active_bound_and_known() -> None:
    scene, ops = Scene(), Parent()
    parent = scene.parent(ops)
    mdev = scene.bus.create(parent, "test-two", uuid_of(1))
    assert (mdev.uuid, mdev.parent, mdev.type_id) == (uuid_of(1), parent, "test-two")
    assert mdev.type is ops.mdev_types[1]
    assert mdev.state is State.ACTIVE
    assert mdev.binding == Binding("test", 0)
    assert mdev.drvdata == f"state of {mdev.uuid}"
    assert scene.bus.mdev(uuid_of(1)) is mdev
    assert scene.bus.mdevs() == scene.driver.bound == ops.live == [mdev]


def test_events_of_a_create_are_in_the_kernels_order() -> None:
    scene = Scene()
    mdev = scene.bus.create(scene.parent(), "test-one", uuid_of(1))
    assert scene.kinds() == (*FIRST, *CREATED)
    assert {each.mdev for each in scene.events[len(FIRST) :]} == {mdev}


def test_binding_is_in_the_events_from_the_group_on() -> None:
    scene = Scene()
    scene.bus.create(scene.parent(), "test-one", uuid_of(1))
    bindings = [each.binding for each in scene.events]
    assert bindings == [None] * (len(FIRST) + 1) + [Binding("test", 0)] * 4


def test_driver_code_runs_between_add_and_bind() -> None:
    scene, ops = Scene(), Parent()
    seen: dict[str, tuple[str, ...]] = {}
    ops.on_create = lambda mdev: seen.update(create=scene.kinds_of(mdev.uuid))
    scene.driver.on_probe = lambda mdev: seen.update(probe=scene.kinds_of(mdev.uuid))
    scene.bus.create(scene.parent(ops), "test-one", uuid_of(1))
    assert seen == {"create": ("MDEV_ADDED",), "probe": ("MDEV_ADDED",)}


def test_driver_sees_the_state_that_create_returned() -> None:
    scene = Scene()
    seen: list[object] = []
    scene.driver.on_probe = lambda mdev: seen.append(mdev.drvdata)
    scene.bus.create(scene.parent(), "test-one", uuid_of(1))
    assert seen == [f"state of {uuid_of(1)}"]


def test_mdev_is_not_active_before_its_create_ends() -> None:
    scene, ops = Scene(), Parent()
    states: list[State] = []
    ops.on_create = scene.driver.on_probe = lambda mdev: states.append(mdev.state)
    scene.bus.subscribe(lambda event: states.append(event.mdev.state) if event.mdev else None)
    scene.bus.create(scene.parent(ops), "test-one", uuid_of(1))
    assert set(states) == {State.CREATING}


def test_unknown_type_is_einval_without_an_event() -> None:
    scene = Scene()
    parent = scene.parent()
    with pytest.raises(InvalidValue, match=r"p has no type one; it has: test-one, test-two") as caught:
        scene.bus.create(parent, "one", uuid_of(1))
    assert caught.value.errno == errno.EINVAL
    assert scene.kinds() == FIRST
    check_nothing_left(scene, parent)


@pytest.mark.parametrize("type_id", ["test-one", "test-two"])
@pytest.mark.parametrize("name", ["p", "other"])
def test_taken_uuid_is_eexist_on_every_type_and_parent(type_id: str, name: str) -> None:
    scene = Scene()
    parents = {"p": scene.parent(), "other": scene.parent(name="other")}
    scene.bus.create(parents["p"], "test-one", uuid_of(1))
    start = len(scene.events)
    with pytest.raises(AlreadyExists, match="exists on parent p") as caught:
        scene.bus.create(parents[name], type_id, uuid_of(1))
    assert caught.value.errno == errno.EEXIST
    assert scene.kinds(start) == ()
    assert parents["other"].instances == 0


def test_taken_uuid_is_eexist_while_unbound() -> None:
    scene = Scene()
    parent = scene.parent()
    scene.bus.unbind(scene.bus.create(parent, "test-one", uuid_of(1)), "test")
    assert refused(scene, parent, 1) == errno.EEXIST


def test_taken_uuid_is_eexist_while_its_create_runs() -> None:
    scene, ops = Scene(), Parent()
    parent, other = scene.parent(ops), scene.parent(name="other")
    with ThreadPoolExecutor() as pool, Gate() as gate:
        ops.on_create = gate
        pool.submit(scene.bus.create, parent, "test-one", uuid_of(1))
        gate.wait_entered()
        assert refused(scene, other, 1) == errno.EEXIST


def test_full_core_counted_parent_is_eusers_without_an_event() -> None:
    scene = Scene()
    parent = scene.parent(Parent(max_instances=1))
    scene.bus.create(parent, "test-one", uuid_of(1))
    start = len(scene.events)
    with pytest.raises(NoInstances, match="1 instances") as caught:
        scene.bus.create(parent, "test-two", uuid_of(2))
    assert caught.value.errno == errno.EUSERS
    assert scene.kinds(start) == ()
    assert parent.instances == 1


def test_eexist_comes_before_eusers() -> None:
    scene = Scene()
    parent = scene.parent(Parent(max_instances=1))
    scene.bus.create(parent, "test-one", uuid_of(1))
    assert refused(scene, parent, 1) == errno.EEXIST
    assert refused(scene, parent, 2) == errno.EUSERS


def test_refusals_do_not_count_as_instances() -> None:
    scene = Scene()
    parent = scene.parent(Parent(max_instances=2))
    scene.bus.create(parent, "test-one", uuid_of(1))
    for _ in range(3):
        refused(scene, parent, 1)
    scene.bus.create(parent, "test-one", uuid_of(2))
    assert scene.bus.available(parent, parent.types["test-one"]) == 0


def test_full_driver_counted_parent_is_enospc_with_add_and_remove() -> None:
    scene = Scene()
    parent = scene.parent(Parent(capacity=1))
    scene.bus.create(parent, "test-one", uuid_of(1))
    start = len(scene.events)
    assert refused(scene, parent, 2) == errno.ENOSPC
    assert scene.kinds(start) == ("MDEV_ADDED", "MDEV_REMOVED")
    assert [each.binding for each in scene.events[start:]] == [None, None]
    scene.bus.remove(uuid_of(1))
    check_nothing_left(scene, parent)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_what_the_parents_create_raises_reaches_the_writer(error: Exception) -> None:
    scene, ops = Scene(), Parent(max_instances=1)
    parent = scene.parent(ops)
    ops.on_create = raises(error)
    with pytest.raises(type(error)) as caught:
        scene.bus.create(parent, "test-one", uuid_of(1))
    assert caught.value is error
    assert scene.kinds(len(FIRST)) == ("MDEV_ADDED", "MDEV_REMOVED")
    check_nothing_left(scene, parent)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_what_the_drivers_probe_raises_reaches_the_writer_and_undoes_everything(error: Exception) -> None:
    scene, ops = Scene(), Parent(max_instances=1)
    parent = scene.parent(ops)
    removed: list[Mdev] = []
    ops.on_remove = removed.append
    scene.driver.on_probe = raises(error)
    with pytest.raises(type(error)) as caught:
        scene.bus.create(parent, "test-one", uuid_of(1))
    assert caught.value is error
    assert [each.uuid for each in removed] == [uuid_of(1)]
    assert removed[0].binding is None
    assert scene.kinds(len(FIRST)) == ("MDEV_ADDED", "MDEV_REMOVED")
    check_nothing_left(scene, parent)


def test_parents_remove_runs_before_the_removed_event_and_with_the_uuid_taken() -> None:
    scene, ops = Scene(), Parent()
    seen: list[tuple[str, ...]] = []
    ops.on_remove = lambda mdev: seen.append(scene.kinds_of(scene.bus.mdev(mdev.uuid).uuid))
    scene.driver.on_probe = raises(NoSpace("full"))
    refused(scene, scene.parent(ops), 1)
    assert seen == [("MDEV_ADDED",)]


def test_refused_uuid_can_be_created_afterwards() -> None:
    scene, ops = Scene(), Parent(max_instances=1)
    parent = scene.parent(ops)
    scene.driver.on_probe = raises(NoSpace("full"))
    refused(scene, parent, 1)
    scene.driver.on_probe = lambda _mdev: None
    assert scene.bus.create(parent, "test-two", uuid_of(1)).binding == Binding("test", 0)
    check_events(scene.events)


def test_creates_on_one_parent_run_at_the_same_time() -> None:
    scene, ops = Scene(), Parent()
    parent = scene.parent(ops)
    with ThreadPoolExecutor() as pool, Gate() as gate:
        ops.on_create = lambda mdev: gate(mdev) if mdev.uuid == uuid_of(1) else None
        slow = pool.submit(scene.bus.create, parent, "test-one", uuid_of(1))
        gate.wait_entered()
        pool.submit(scene.bus.create, parent, "test-one", uuid_of(2)).result(PATIENCE)
        assert not slow.done()
        gate.open()
        slow.result(PATIENCE)
    check_events(scene.events)


def test_without_a_driver_an_mdev_has_no_vfio_device() -> None:
    bus, kinds = Bus(), list[EventKind]()
    bus.subscribe(lambda event: kinds.append(event.kind))
    mdev = bus.create(bus.register_parent("p", Parent()), "test-one", uuid_of(1))
    assert mdev.binding is None
    bus.remove(uuid_of(1))
    assert tuple(each.name for each in kinds[len(FIRST) :]) == (
        "MDEV_ADDED",
        "MDEV_LINKED",
        "MDEV_UNLINKED",
        "MDEV_HIDDEN",
        "MDEV_REMOVED",
    )


def test_create_and_remove_are_mirror_images() -> None:
    scene = Scene()
    parent = scene.parent()
    scene.bus.create(parent, "test-one", uuid_of(1))
    scene.bus.remove(uuid_of(1))
    assert scene.kinds(len(FIRST)) == (*CREATED, *REMOVED)
    check_nothing_left(scene, parent)
