"""A turn that an mdev was to have and cannot begin, since a step of its own takes long: it is others' until then."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mdev_user.driver import Claim, Engine
from mdev_user.vfio.work import Later
from unit.driver.engine.simulation import Job, Simulation, nap


async def use(claim: Claim, order: list[Claim], seconds: float = 0.0) -> None:
    async with claim.turn(1):
        order.append(claim)
        await nap(seconds)


class Scene:
    """Three mdevs: the first has the engine, the second is to have it next."""

    def __init__(self) -> None:
        self.simulation, self.engine, self.order = Simulation(), Engine(), list[Claim]()
        self.claims = [self.simulation.claim(self.engine)[0] for _each in range(3)]
        self._holder = self.claims[0].turn(1)
        self._step(self._holder.__aenter__())
        self.stuck = [self.ask(1)]

    def ask(self, number: int) -> Job:
        return self.simulation.spawn(use(self.claims[number], self.order))

    def grant(self) -> None:
        """The second's job is told that it is its turn; its step lock is somebody's who keeps it."""
        self.simulation.run(0)
        self._step(self._holder.__aexit__(None, None, None))
        self.simulation.paused.update(self.stuck)
        assert self.claims[1]._holding

    def go_on(self) -> None:
        self.simulation.paused.clear()
        self.simulation.run(0)

    @staticmethod
    def _step(work: object) -> None:
        with pytest.raises(StopIteration):
            work.send(None)  # type: ignore[attr-defined]  # a coroutine that does not wait


@contextmanager
def granted() -> Iterator[Scene]:
    """In the end everybody has had his turn, and nobody has one."""
    scene = Scene()
    scene.grant()
    yield scene
    scene.go_on()
    assert all(each in scene.order for each in scene.claims[1:])
    assert (scene.engine._held, dict(scene.engine._backlogged), scene.engine._messenger) == (0, {}, None)


def test_others_go_first_and_it_is_charged_nothing() -> None:
    with granted() as scene:
        _first, second, third = scene.claims
        tag = second._tag
        second.be_passed_over()
        assert second._tag == tag - 1
        scene.ask(2)
        scene.simulation.run(0)
        assert scene.order == [third]
    assert scene.order == [third, second]
    assert second.given == 1


def test_others_would_wait() -> None:
    """The negative control: nobody says that it cannot go on."""
    with granted() as scene:
        scene.ask(2)
        scene.simulation.run(5)
        assert not scene.order


def test_it_is_told_that_has_waited_already() -> None:
    scene = Scene()
    scene.ask(2)
    scene.grant()
    scene.claims[1].be_passed_over()
    scene.simulation.run(0)
    assert scene.order == [scene.claims[2]]
    scene.go_on()
    assert scene.order == [scene.claims[2], scene.claims[1]]


def test_it_is_next_when_it_can_go_on_again() -> None:
    """Before one that has waited for longer and had more."""
    with granted() as scene:
        scene.claims[1].be_passed_over()
        for _turn in range(3):
            scene.ask(2)
        scene.simulation.step()
        scene.simulation.paused.clear()
        scene.simulation.run(0)
        assert scene.order.index(scene.claims[1]) <= 1


def test_all_of_its_turns_wait_for_the_first_that_goes_on() -> None:
    """Also when that one is cancelled."""
    scene = Scene()
    scene.stuck.append(scene.ask(1))
    scene.grant()
    scene.claims[1].be_passed_over()
    scene.simulation.cancel(scene.stuck[0])
    scene.go_on()
    assert scene.order == [scene.claims[1]]


def test_round_ends_without_who_was_to_end_it() -> None:
    """One that had a turn is expected, and who goes round for it cannot go on: the others need not wait for that."""
    scene = Scene()
    scene.ask(2)
    scene.claims[1]._tag = scene.claims[2]._tag = 10.0
    scene.simulation.run(0)
    scene._step(scene._holder.__aexit__(None, None, None))
    messenger = scene.engine._messenger
    assert messenger is not None
    assert messenger._claim is scene.claims[1]
    scene.simulation.paused.update(scene.stuck)
    scene.simulation.run(1)
    assert not scene.order
    scene.claims[1].be_passed_over()
    scene.simulation.run(1)
    assert scene.order == [scene.claims[2]]
    scene.go_on()
    assert scene.order == [scene.claims[2], scene.claims[1]]


def test_turn_that_is_taken_before_its_job_waits_is_not_forgotten() -> None:
    """It asked, is to have it, and is passed over within one stretch of its own, by another thread."""
    scene = Scene()
    claim, told = scene.claims[2], list[object]()
    scene.simulation.run(0)
    turn = claim.turn(1)
    waiting = turn.__aenter__()
    request = waiting.send(None)
    assert isinstance(request, Later)
    for each in scene.stuck:
        scene.simulation.cancel(each)
    scene._step(scene._holder.__aexit__(None, None, None))
    claim.be_passed_over()
    request.begin(told.append, lambda: True)
    assert len(told) == 1
    scene._step(waiting)
    assert claim._holding
    scene._step(turn.__aexit__(None, None, None))


def test_others_are_not_touched() -> None:
    """Who has begun goes on, and who only waits, waits."""
    scene = Scene()
    scene.simulation.run(0)
    before = dict(scene.engine._backlogged)
    for each in scene.claims:
        each.be_passed_over()
    assert scene.claims[0]._holding
    assert dict(scene.engine._backlogged) == before


def test_it_has_no_credit_for_what_others_had_meanwhile() -> None:
    """As one that was idle or stood still: who kept his own step lock for long does not have the engine alone then."""
    scene = Scene()
    scene.stuck += [scene.ask(1) for _turn in range(9)]
    scene.grant()
    _first, second, third = scene.claims
    second.be_passed_over()
    for _turn in range(30):
        scene.ask(2)
        scene.simulation.run(0)
    assert scene.order == [third] * 30
    for _turn in range(10):
        scene.ask(2)
    scene.go_on()
    assert 5 <= scene.order[30:42].count(second) <= 7
