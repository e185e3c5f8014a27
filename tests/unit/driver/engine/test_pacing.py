"""What fixed and equal share pace by: all that an mdev's jobs take, and nothing that is the machine's fault."""

from collections.abc import Callable

import pytest

from mdev_user.driver import Claim, Engine, Policy
from mdev_user.driver.pacing import _LUMP, _SLACK, TimePace
from mdev_user.errors import NoDevice
from mdev_user.vfio.work import Spent
from unit.driver.engine.simulation import NOTHING, Job, Simulation, accounts_of, nap

PART = 0.25
HOUR = 3600.0
STALL = 1.0
WORK = 0.002


class Mdev:
    """One mdev of weight 4 of 16; the others are idle."""

    def __init__(self, policy: Policy | Callable[[], Policy] = Policy.FIXED_SHARE) -> None:
        self.simulation = Simulation()
        self.engine = Engine(policy, whole=16)
        self.claim, self.settings = self.simulation.claim(self.engine, 4)

    def works(self, clock: float, processor: float | None = None) -> None:
        """A stretch takes so many seconds, all of them of a processor unless these are said."""
        used, ran = self.settings.spent
        self.settings.spent = Spent(used + (clock if processor is None else processor), ran + clock)
        self.simulation.now += clock

    async def turn(self, clock: float = WORK, processor: float | None = None, awaited: float = 0.0) -> None:
        async with self.claim.turn(1):
            self.works(clock, processor)
            if awaited:
                await nap(awaited)

    async def draw(self, between: float = 0.0, awaited: float = 0.0) -> None:
        while True:
            await self.turn(awaited=awaited)
            self.works(between)

    def take(self, clock: float = WORK, processor: float | None = None, awaited: float = 0.0) -> None:
        """One turn, from its beginning to its end."""
        job = self.simulation.spawn(self.turn(clock, processor, awaited))
        while not job.is_over:
            self.simulation.run(0.001)

    def rest(self, seconds: float) -> None:
        self.simulation.run(seconds)

    def reload(self) -> "Mdev":
        """It has the same jobs, and a claim of another engine."""
        new = Mdev()
        new.simulation, new.settings = self.simulation, self.settings
        new.claim = Claim(
            new.engine, lambda: new.simulation.now, lambda: new.settings.spent, lambda: 4, lambda: 0, accounts_of()
        )
        new.claim.join()
        return new

    def held_back(self, seconds: float = 0.0) -> bool:
        """Whether its next turn is held back for so long, or a little less."""
        before = self.claim.held_back
        self.take(0.0)
        return self.claim.held_back - before > seconds


def part(mdev: Mdev, work: Callable[[Mdev], Job], seconds: float = 20.0) -> float:
    """Of the time that passes, what its jobs take."""
    began, before = mdev.simulation.now, mdev.settings.spent
    work(mdev)
    mdev.simulation.run(seconds)
    return (mdev.settings.spent.clock - before.clock) / (mdev.simulation.now - began)


def half_of_it_between(mdev: Mdev) -> Job:
    return mdev.simulation.spawn(mdev.draw(between=WORK))


# --- all of it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [0.0, 0.1 * WORK, WORK, 3 * WORK])
def test_part_is_of_all_that_its_jobs_do(between: float) -> None:
    assert part(Mdev(), lambda mdev: mdev.simulation.spawn(mdev.draw(between))) == pytest.approx(PART, rel=0.02)


def test_work_between_turns_would_be_had_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: where only turns are paid, half of the work is not."""
    monkeypatch.setattr(TimePace, "pay_between", lambda self: setattr(self, "_paid", self._spent().processor))
    assert part(Mdev(), half_of_it_between) == pytest.approx(2 * PART, rel=0.3)


def test_equal_share_is_paced_by_all_of_it_too() -> None:
    mdev = Mdev(Policy.EQUAL_SHARE)
    for _other in range(2):
        mdev.simulation.claim(mdev.engine, 16)
    assert part(mdev, half_of_it_between) == pytest.approx(1 / 3, rel=0.02)


def test_what_a_turn_awaits_is_paid_by_the_clock() -> None:
    """A process that draws, memory that only messages reach: nobody else has the engine meanwhile."""
    mdev = Mdev()
    mdev.simulation.spawn(mdev.draw(between=WORK, awaited=WORK))
    mdev.simulation.run(24)
    assert mdev.claim.turns == pytest.approx(24 * PART / (3 * WORK), rel=0.02)


def test_several_jobs_of_one_mdev_pay_once() -> None:
    mdev = Mdev()
    for _queue in range(2):
        mdev.simulation.spawn(mdev.draw(between=WORK))
    mdev.simulation.run(20)
    assert mdev.settings.spent.processor == pytest.approx(20 * PART, rel=0.02)


def test_sleeps_are_few_and_no_turn_is_late_by_much() -> None:
    """One that is not ahead by more than it may does not sleep, and so 50 turns a second need no 50 sleeps."""
    mdev = Mdev()
    sleeps = 0
    for _turn in range(100):
        before = mdev.claim.held_back
        mdev.take(0.001)
        sleeps += mdev.claim.held_back > before
        assert mdev.claim.held_back - before < 2 * _SLACK
    assert 0 < sleeps < 25


def test_higher_weight_ends_what_an_older_one_would_have_taken() -> None:
    mdev = Mdev()
    mdev.settings.weight = 1
    mdev.take(1.0)
    mdev.works(WORK)
    job = mdev.simulation.spawn(mdev.turn())
    mdev.rest(0.5)
    assert not job.is_over
    mdev.settings.weight = 16
    mdev.rest(0.8)
    assert job.is_over


def test_best_effort_does_not_ask_what_jobs_took() -> None:

    def spent() -> Spent:
        raise AssertionError

    claim = Claim(Engine(), lambda: 0.0, spent, lambda: 1, lambda: 0, accounts_of())
    claim.join()
    for _turn in range(3):
        have_turn(claim)
        claim.leave()
        claim.join()
    assert claim.turns == 3


def have_turn(claim: Claim) -> None:
    turn = claim.turn()
    with pytest.raises(StopIteration):
        turn.__aenter__().send(None)
    with pytest.raises(StopIteration):
        turn.__aexit__(None, None, None).send(None)


# --- what nobody pays ---------------------------------------------------------------------------------------------


def stall_in_a_turn(mdev: Mdev) -> Mdev:
    mdev.take(STALL, 0.001)
    return mdev


def stall_between_turns(mdev: Mdev) -> Mdev:
    mdev.take()
    mdev.works(STALL, 0.001)
    return mdev


def reload_after_an_hour(mdev: Mdev) -> Mdev:
    mdev.settings.spent = Spent(HOUR, HOUR)
    return mdev.reload()


def reopening(mdev: Mdev) -> Mdev:
    """Its jobs are others, and counted anew."""
    mdev.take()
    mdev.claim.leave()
    mdev.settings.spent = Spent(HOUR, HOUR)
    mdev.claim.join()
    return mdev


def pause_in_a_turn(mdev: Mdev) -> Mdev:
    """By a clock that stands still meanwhile."""
    mdev.simulation.spawn(mdev.turn(awaited=0.001))
    mdev.rest(0)
    mdev.claim.leave()
    mdev.claim.join()
    mdev.rest(1)
    return mdev


def hour_without_turns(mdev: Mdev) -> Mdev:
    mdev.take()
    for _second in range(int(HOUR)):
        mdev.works(0.1)
        mdev.rest(0.9)
    return mdev


def work_under_best_effort(mdev: Mdev) -> Mdev:
    policy = Policy.FIXED_SHARE
    mdev.engine._policy = lambda: policy
    mdev.take()
    policy = Policy.BEST_EFFORT
    mdev.take()
    mdev.works(_LUMP)
    mdev.take()
    mdev.works(_LUMP)
    policy = Policy.FIXED_SHARE
    return mdev


@pytest.mark.parametrize(
    "event",
    [
        stall_in_a_turn, stall_between_turns, reload_after_an_hour, reopening, pause_in_a_turn, hour_without_turns,
        work_under_best_effort,
    ],
)  # fmt: skip
def test_no_debt_and_no_credit_is_left_by(event: Callable[[Mdev], Mdev]) -> None:
    mdev = event(Mdev())
    assert not mdev.held_back()
    before = mdev.settings.spent.clock
    mdev.simulation.spawn(mdev.draw(between=WORK))
    mdev.simulation.run(4)
    assert mdev.settings.spent.clock - before == pytest.approx(4 * PART, abs=2 * _SLACK)


def by_the_clock(self: TimePace, since: float, seconds: float, _ran: float, share: float) -> None:
    self._pace.spend(since, max(seconds, 1e-6), share, _SLACK)
    self._paid = self._spent().processor


@pytest.mark.parametrize(
    ("event", "broken", "by"),
    [
        (stall_in_a_turn, "pay_turn", by_the_clock),
        (reopening, "begin", lambda _self: None),
        (work_under_best_effort, "forget", lambda _self: None),
    ],
)
def test_a_debt_is_noticed(
    event: Callable[[Mdev], Mdev], broken: str, by: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(TimePace, broken, by)
    assert event(Mdev()).held_back(0.1)


def test_pauses_save_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user that stops the device after each turn, so that what it did meanwhile would be forgotten."""

    async def stop_and_go(mdev: Mdev) -> None:
        while True:
            await mdev.turn()
            mdev.works(WORK)
            mdev.claim.leave()
            mdev.claim.join()

    def stopping(mdev: Mdev) -> Job:
        return mdev.simulation.spawn(stop_and_go(mdev))

    assert part(Mdev(), stopping) == pytest.approx(PART, rel=0.02)
    monkeypatch.setattr(TimePace, "end", lambda _self: None)
    assert part(Mdev(), stopping) > 1.5 * PART


def test_who_works_for_long_without_turns_waits_for_a_moment_at_most() -> None:
    mdev = Mdev()
    mdev.take()
    for seconds, most in ((_LUMP, _LUMP / PART), (HOUR, 0.0)):
        mdev.works(seconds)
        before = mdev.claim.held_back
        assert mdev.held_back() is (most > 0)
        assert mdev.claim.held_back - before <= most


def test_user_that_goes_in_the_middle_of_a_turn_pays_nothing() -> None:
    is_there = True

    def spent() -> Spent:
        if not is_there:
            raise NoDevice("gone")
        return NOTHING

    claim = Claim(Engine(Policy.FIXED_SHARE), lambda: spent().clock, spent, lambda: 4, lambda: 0, accounts_of())
    claim.join()
    have_turn(claim)
    turn = claim.turn()
    with pytest.raises(StopIteration):
        turn.__aenter__().send(None)
    is_there = False
    claim.leave()
    with pytest.raises(StopIteration):
        turn.__aexit__(None, None, None).send(None)
    assert (claim.turns, claim.seconds) == (2, 0)
