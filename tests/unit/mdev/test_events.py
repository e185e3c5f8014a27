"""Events: numbered without a gap, told in their order, and no listener can stop what they tell."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from mdev_user.errors import NoSpace
from mdev_user.mdev.events import Event, EventKind
from unit.mdev.scene import CREATED, FIRST, PATIENCE, REMOVED, Parent, Scene, check_events, hasty_threads, uuid_of


def failing(event: Event) -> None:
    message = f"cannot render {event.number}"
    raise ValueError(message)


def test_numbers_begin_at_one_and_count_refused_creates_too() -> None:
    scene = Scene()
    parent = scene.parent(Parent(capacity=1))
    scene.bus.create(parent, "test-one", uuid_of(1))
    with pytest.raises(NoSpace):
        scene.bus.create(parent, "test-one", uuid_of(2))
    scene.bus.remove(uuid_of(1))
    scene.bus.unregister_parent(parent)
    assert [each.number for each in scene.events] == list(range(1, 1 + 4 + 5 + 2 + 6 + 5))
    check_events(scene.events)


def test_late_listener_gets_the_number_where_it_begins() -> None:
    scene, late = Scene(), list[Event]()
    scene.parent()
    scene.bus.subscribe(late.append)
    scene.parent(name="q")
    assert [(each.number, each.parent.name) for each in late] == [(5, "q")]


def test_failing_listener_stops_neither_create_nor_remove_nor_other_listeners(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene, after = Scene(), list[Event]()
    scene.bus.subscribe(failing)
    scene.bus.subscribe(after.append)
    with caplog.at_level(logging.ERROR):
        parent = scene.parent()
        scene.bus.create(parent, "test-one", uuid_of(1))
        scene.bus.remove(uuid_of(1))
    assert scene.kinds() == (*FIRST, *CREATED, *REMOVED)
    assert after == scene.events
    assert "event 3 (PARENT_REGISTERED): a listener failed" in caplog.text
    assert "cannot render 15" in caplog.text


def test_listeners_are_called_in_order_whoever_acts() -> None:
    scene = Scene()
    parents = [scene.parent(name=f"p{number}") for number in range(4)]

    def live(number: int) -> None:
        for round_ in range(10):
            scene.bus.create(parents[number], "test-one", uuid_of(number * 100 + round_))
            scene.bus.remove(uuid_of(number * 100 + round_))

    with hasty_threads(), ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(live, number) for number in range(4)]:
            done.result(PATIENCE)
    assert len(scene.events) == 3 + 4 + 4 * 10 * 11
    check_events(scene.events)


def test_listener_may_look_at_the_bus() -> None:
    scene, counts = Scene(), list[tuple[EventKind, int]]()
    parent = scene.parent(Parent(max_instances=2))
    kind = parent.types["test-one"]
    scene.bus.subscribe(lambda event: counts.append((event.kind, scene.bus.available(parent, kind))))
    scene.bus.create(parent, "test-one", uuid_of(1))
    scene.bus.remove(uuid_of(1))
    assert {available for _, available in counts} == {1}, "the instance is used from before add until after remove"
