"""Many threads at once: one winner per UUID, never too many mdevs, nothing left; and that the checks can fail."""

import errno
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from random import Random
from threading import Barrier, BrokenBarrierError
from typing import ClassVar, NoReturn

import pytest
from typing_extensions import override

from mdev_user.errors import NoDevice, NoInstances, errno_of
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.device import Mdev, State
from mdev_user.mdev.parent import MdevParent
from unit.mdev.scene import (
    PATIENCE,
    Gate,
    Parent,
    Scene,
    check_events,
    check_nothing_left,
    hasty_threads,
    uuid_of,
)


def at_once(actions: Iterable[Callable[[], object]]) -> Counter[int]:
    """Run all at the same time, each in a thread; how often each errno came out (0 for a success)."""
    actions = list(actions)
    start = Barrier(len(actions))

    def run(action: Callable[[], object]) -> int:
        start.wait(PATIENCE)
        try:
            action()
        except Exception as error:
            if errno_of(error) == errno.EIO:
                raise
            return errno_of(error)
        return 0

    with hasty_threads(), ThreadPoolExecutor(len(actions)) as pool:
        return Counter(pool.map(run, actions, timeout=PATIENCE))


# --- checks ---------------------------------------------------------------------------------------------------


def check_one_winner(scene: Scene, parents: list[MdevParent], threads: int) -> None:
    """Of many creates of one UUID exactly one succeeds; the others get EEXIST."""
    creates = (partial(scene.bus.create, parents[n % len(parents)], "test-one", uuid_of(1)) for n in range(threads))
    results = at_once(creates)
    assert results == {0: 1, errno.EEXIST: threads - 1}, f"{results}"
    assert sum(each.instances for each in parents) == 1
    scene.bus.remove(uuid_of(1))
    check_nothing_left(scene, *parents)


def meeting(limit: int, patience: float) -> int:
    """A number of instances that takes its time to be compared: two threads that compare it at once meet there.

    With a lock around the comparison there is nobody to meet, and ``patience`` (seconds) ends.
    """
    barrier = Barrier(2)

    class Meeting(int):
        @override
        def __le__(self, other: int) -> bool:
            answer = super().__le__(other)
            with suppress(BrokenBarrierError):
                barrier.wait(patience)
            return answer

    return Meeting(limit)


def check_never_too_many(threads: int, limit: int, patience: float) -> None:
    """Creates of different UUIDs on a core-counted parent: exactly as many as it has instances, at any moment."""
    scene, ops = Scene(), Parent(max_instances=meeting(limit, patience))
    parent = scene.parent(ops)
    results = at_once(partial(scene.bus.create, parent, "test-one", uuid_of(n)) for n in range(threads))
    assert ops.most <= limit, f"{ops.most} mdevs on {limit} instances"
    assert results == {0: limit, errno.EUSERS: threads - limit}, f"{results}"
    assert parent.instances == limit
    assert scene.bus.available(parent, parent.types["test-one"]) == 0
    check_events(scene.events)
    for mdev in scene.bus.mdevs():
        scene.bus.remove(mdev.uuid)
    assert scene.bus.available(parent, parent.types["test-one"]) == limit
    check_nothing_left(scene, parent)


def check_refused_when_gone(scene: Scene, parent: MdevParent) -> None:
    scene.bus.unregister_parent(parent)
    with pytest.raises(NoDevice):
        scene.bus.create(parent, "test-one", uuid_of(1))
    check_nothing_left(scene, parent)


# --- facts ----------------------------------------------------------------------------------------------------


def test_of_many_creates_of_one_uuid_one_succeeds() -> None:
    scene = Scene()
    parents = [scene.parent(name=name) for name in ("p", "q", "r")]
    for _ in range(25):
        check_one_winner(scene, parents, threads=12)
    check_events(scene.events)


def test_40_creates_on_21_instances_give_21_mdevs() -> None:
    check_never_too_many(threads=40, limit=21, patience=0.1)


def test_40_creates_on_21_units_of_the_driver_give_21_mdevs() -> None:
    scene, ops = Scene(), Parent(capacity=21)
    parent = scene.parent(ops)
    results = at_once(partial(scene.bus.create, parent, "test-one", uuid_of(n)) for n in range(40))
    assert results == {0: 21, errno.ENOSPC: 19}
    assert (ops.most, parent.instances, len(scene.bus.mdevs())) == (21, 21, 21)
    check_events(scene.events)


def test_of_many_removes_one_succeeds() -> None:
    scene = Scene()
    parent = scene.parent()
    for _ in range(25):
        scene.bus.create(parent, "test-one", uuid_of(1))
        results = at_once([partial(scene.bus.remove, uuid_of(1))] * 8)
        assert results[0] == 1
        assert results.keys() <= {0, errno.EAGAIN, errno.ENODEV}
        check_nothing_left(scene, parent)
    check_events(scene.events)


def test_nobody_waits_for_30_blocked_removes() -> None:
    scene, ops = Scene(), Parent()
    parent = scene.parent(ops)
    for number in range(30):
        scene.bus.create(parent, "test-one", uuid_of(number))
    with ThreadPoolExecutor(32) as pool, Gate() as gate:
        scene.driver.on_remove = lambda mdev: gate(mdev) if mdev.uuid.int < 30 else None
        removing = [pool.submit(scene.bus.remove, uuid_of(number)) for number in range(30)]
        gate.wait_entered()
        mdev = pool.submit(scene.bus.create, parent, "test-one", uuid_of(99)).result(PATIENCE)
        assert mdev.state is State.ACTIVE
        pool.submit(scene.bus.remove, uuid_of(99)).result(PATIENCE)
        assert not any(each.done() for each in removing)
        gate.open()
        for each in removing:
            each.result(PATIENCE)
    check_events(scene.events)
    check_nothing_left(scene, parent)


@pytest.mark.parametrize("seed", range(12))
def test_creates_and_removes_that_race_an_unregistration_leave_nothing(seed: int) -> None:
    scene, ops = Scene(), Parent(max_instances=20)
    parent, other = scene.parent(ops), scene.parent(name="other")
    random = Random(seed)
    plans = [[random.choice([True, True, False]) for _ in range(20)] for _ in range(6)]
    when = random.randrange(20)
    numbers = count()

    def live(plan: list[bool]) -> None:
        mine: list[Mdev] = []
        for step, create in enumerate(plan):
            if plan is plans[0] and step == when:
                scene.bus.unregister_parent(parent)
            with suppress(NoDevice, NoInstances):
                if create:
                    mine.append(scene.bus.create(parent, "test-one", uuid_of(next(numbers))))
                elif mine:
                    scene.bus.remove(mine.pop().uuid)

    results = at_once([*(partial(live, plan) for plan in plans), partial(_use, scene, other)])
    assert results == {0: 7}
    assert scene.bus.parents() == [other]
    assert ops.most <= 20
    check_events(scene.events)
    check_nothing_left(scene, parent, other)


def _use(scene: Scene, parent: MdevParent) -> None:
    """The life of an mdev whose parent stays: whatever happens to the others, nothing fails."""
    for number in range(1000, 1020):
        mdev = scene.bus.create(parent, "test-one", uuid_of(number))
        scene.bus.unbind(mdev, "test")
        scene.bus.bind(mdev, "test")
        scene.bus.remove(mdev.uuid)


def test_binds_and_unbinds_that_race_removes_leave_nothing() -> None:
    scene = Scene()
    parent = scene.parent()
    for _ in range(15):
        mdev = scene.bus.create(parent, "test-one", uuid_of(1))
        actions = [partial(scene.bus.unbind, mdev, "test"), partial(scene.bus.bind, mdev, "test")]
        results = at_once([*actions * 3, partial(scene.bus.remove, uuid_of(1))])
        assert results.keys() <= {0, errno.ENODEV}
        check_nothing_left(scene, parent)


def test_unregistrations_at_once_end_the_parent_once() -> None:
    scene = Scene()
    for _ in range(10):
        parent = scene.parent()
        scene.bus.create(parent, "test-one", uuid_of(1))
        assert at_once([partial(scene.bus.unregister_parent, parent)] * 6) == {0: 6}
        check_nothing_left(scene, parent)
    check_events(scene.events)


# --- negative controls: without the one line, the check fails -------------------------------------------------


def do_nothing(*_arguments: object) -> None:
    """Instead of the line that is taken out."""


def test_check_sees_uuids_and_instances_that_are_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bus, "_put", do_nothing)
    scene = Scene()
    parent = scene.parent()
    scene.bus.create(parent, "test-one", uuid_of(1))
    scene.bus.remove(uuid_of(1))
    with pytest.raises(AssertionError, match="UUIDs are left"):
        check_nothing_left(scene, parent)


def test_check_sees_a_group_number_that_is_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdev_user.mdev.numbers.Numbers.put", do_nothing)
    scene = Scene()
    parent = scene.parent()
    scene.bus.create(parent, "test-one", uuid_of(1))
    scene.bus.remove(uuid_of(1))
    with pytest.raises(AssertionError, match="group numbers are left"):
        check_nothing_left(scene, parent)


def test_check_sees_a_parent_that_is_not_asked_to_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Parent, "remove", do_nothing)
    scene = Scene()
    parent = scene.parent()
    scene.bus.create(parent, "test-one", uuid_of(1))
    scene.bus.remove(uuid_of(1))
    with pytest.raises(AssertionError, match="the parent driver has mdevs left"):
        check_nothing_left(scene, parent)


def test_check_sees_a_driver_that_is_not_asked_to_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bus, "_detach", do_nothing)
    scene = Scene()
    parent = scene.parent()
    scene.bus.create(parent, "test-one", uuid_of(1))
    scene.bus.remove(uuid_of(1))
    with pytest.raises(AssertionError, match="the bus driver has mdevs left"):
        check_nothing_left(scene, parent)


def test_check_sees_too_many_mdevs_without_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdev_user.mdev.bus.Lock", nullcontext)
    with pytest.raises(AssertionError, match="2 mdevs on 1 instances"):
        check_never_too_many(threads=2, limit=1, patience=PATIENCE)


def test_same_check_passes_with_the_lock() -> None:
    check_never_too_many(threads=2, limit=1, patience=0.1)


def test_check_sees_a_second_winner_without_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdev_user.mdev.bus.Lock", nullcontext)
    scene = Scene()
    parent = scene.parent(Parent(max_instances=meeting(9, PATIENCE)))
    with pytest.raises(AssertionError):
        check_one_winner(scene, [parent], threads=2)


class Met(Mdev):
    """An mdev at whose state two who look at it at once meet, if nothing keeps them apart."""

    __slots__ = ()
    both: ClassVar[Barrier]

    @property  # type: ignore[explicit-override]  # mypy finds none on a property that has a setter
    @override
    def state(self) -> State:
        found: State = Mdev.__dict__["state"].__get__(self)
        with suppress(BrokenBarrierError):
            self.both.wait(0.2)
        return found

    @state.setter
    def state(self, state: State) -> None:
        Mdev.__dict__["state"].__set__(self, state)


@pytest.mark.parametrize(("locked", "winners"), [(True, 1), (False, 2)])
def test_without_the_lock_two_removes_of_one_mdev_would_succeed(locked: bool, winners: int) -> None:
    scene = Scene()
    mdev = scene.bus.create(scene.parent(), "test-one", uuid_of(1))
    Met.both = Barrier(2)
    mdev.__class__ = Met
    if not locked:
        scene.bus._lock = nullcontext()  # type: ignore[assignment]  # a lock in form only
    assert at_once([partial(scene.bus.remove, uuid_of(1))] * 2)[0] == winners


def test_check_sees_a_create_on_a_parent_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MdevParent, "registered", lambda _self: nullcontext())
    scene = Scene()
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        check_refused_when_gone(scene, scene.parent())


def test_check_sees_an_mdev_that_outlives_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unregistration that does not wait overtakes a create."""
    monkeypatch.setattr("mdev_user.mdev.registration.Condition.wait_for", do_nothing)
    scene = Scene()
    parent = scene.parent()
    scene.driver.on_probe = lambda _mdev: scene.bus.unregister_parent(parent)
    scene.bus.create(parent, "test-one", uuid_of(1))
    with pytest.raises(AssertionError, match="is not registered"):
        check_events(scene.events)
    with pytest.raises(AssertionError, match="UUIDs are left"):
        check_nothing_left(scene, parent)


@pytest.mark.parametrize("lost", range(16))
def test_check_sees_every_lost_event(lost: int) -> None:
    scene = Scene()
    parent = scene.parent()
    scene.bus.create(parent, "test-one", uuid_of(1))
    scene.bus.remove(uuid_of(1))
    scene.bus.unregister_parent(parent)
    check_events(scene.events)
    with pytest.raises(AssertionError):
        check_events(scene.events[:lost] + scene.events[lost + 1 :])


@pytest.mark.parametrize("first", range(16))
def test_check_sees_every_event_that_is_told_too_late(first: int) -> None:
    scene = Scene()
    parent = scene.parent()
    scene.bus.create(parent, "test-one", uuid_of(1))
    scene.bus.remove(uuid_of(1))
    scene.bus.unregister_parent(parent)
    told = scene.events
    told[first : first + 2] = reversed(told[first : first + 2])
    with pytest.raises(
        AssertionError, match=r"no life of an mdev|is not registered|is registered twice|does not (come|go) with"
    ):
        check_events([replace(each, number=number) for number, each in enumerate(told, 1)])


def test_failing_thread_fails_the_test_that_started_it() -> None:
    def fail() -> NoReturn:
        message = "a bug"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="a bug"):
        at_once([fail])
