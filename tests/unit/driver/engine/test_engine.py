"""An engine's turns: who is next, what he is charged, and that nobody holds up the others."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from mdev_user.driver import Claim, DriverError, Engine, Policy
from mdev_user.driver.engine import Turn
from unit.driver.engine.simulation import Job, Simulation, nap

TOLERANCE = 0.1


async def draw(claim: Claim, cost: float, seconds: float, batch: int = 1_000_000, think: float = 0.0) -> None:
    """Turn after turn; after each batch other jobs go first, or it takes its time."""
    while True:
        for _each in range(batch):
            async with claim.turn(cost):
                if seconds:
                    await nap(seconds)
        await nap(think)


async def measured(claim: Claim, seconds: float) -> None:
    while True:
        async with claim.turn():
            await nap(seconds)


async def once(claim: Claim, cost: float, order: list[Claim], seconds: float = 0.0) -> None:
    async with claim.turn(cost):
        order.append(claim)
        await nap(seconds)


def parts(claims: list[Claim]) -> list[float]:
    total = sum(each.given for each in claims)
    return [each.given / total for each in claims]


# --- weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [1000.0, None])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_turns_follow_the_weights(cost: float | None, batch: int) -> None:
    simulation, engine = Simulation(), Engine()
    claims = [simulation.claim(engine, weight)[0] for weight in (1, 2, 4)]
    for each in claims:
        simulation.spawn(measured(each, 0.001) if cost is None else draw(each, cost, 0.001, batch))
    simulation.run(7)
    assert parts(claims) == pytest.approx([1 / 7, 2 / 7, 4 / 7], rel=TOLERANCE)
    assert sum(each.seconds for each in claims) == pytest.approx(7, rel=0.01)


def test_turns_that_take_no_time_follow_the_weights_too() -> None:
    """All in one thread, in which nobody ever finds the engine in use."""
    simulation, engine = Simulation(), Engine()
    claims = [simulation.claim(engine, weight)[0] for weight in (1, 2, 4)]
    for each in claims:
        simulation.spawn(draw(each, 1000, 0, batch=16))
    for _each in range(20_000):
        simulation.step()
    assert parts(claims) == pytest.approx([1 / 7, 2 / 7, 4 / 7], rel=TOLERANCE)


def test_weights_that_nobody_looks_at_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the two tests above."""
    monkeypatch.setattr(Engine, "_weigh", lambda _self, _claim, _policy: None)
    simulation, engine = Simulation(), Engine()
    claims = [simulation.claim(engine, weight)[0] for weight in (1, 2, 4)]
    for each in claims:
        simulation.spawn(draw(each, 1000, 0.001))
    simulation.run(7)
    assert parts(claims) == pytest.approx([1 / 3] * 3, rel=0.01)


class Hasty(Engine):
    """Takes for idle whoever does not wait already."""

    @override
    def _may_begin(self, claim: Claim) -> bool:
        self._expected.clear()
        return super()._may_begin(claim)


def test_who_just_had_a_turn_must_be_expected_to_ask_again() -> None:
    """The negative control of that: two mdevs that are hastily taken for idle have the same, whatever their weights."""
    simulation, engine = Simulation(), Hasty()
    claims = [simulation.claim(engine, weight)[0] for weight in (1, 4)]
    for each in claims:
        simulation.spawn(draw(each, 1000, 0.001))
    simulation.run(5)
    assert parts(claims) == pytest.approx([0.5, 0.5], rel=0.01)


def test_costs_differ_and_parts_do_not() -> None:
    simulation, engine = Simulation(), Engine()
    large, small = (simulation.claim(engine)[0] for _each in range(2))
    simulation.spawn(draw(large, 10_000, 0.01))
    simulation.spawn(draw(small, 100, 0.0001))
    simulation.run(10)
    assert parts([large, small]) == pytest.approx([0.5, 0.5], rel=0.02)


@pytest.mark.parametrize("charges", [True, False], ids=["charged", "for nothing"])
def test_what_is_had_without_a_turn_is_had_less_of_in_turns(charges: bool) -> None:
    """And the negative control: nobody is told of it."""
    simulation, engine = Simulation(), Engine()
    claims = [simulation.claim(engine, weight)[0] for weight in (1, 2)]
    for each in claims:
        simulation.spawn(draw(each, 1000, 0.001))
    simulation.run(1)
    if charges:
        claims[0].charge(500_000)  # of a second's 1,000,000
    before = [each.seconds for each in claims]
    simulation.run(3)
    had = [each.seconds - began for each, began in zip(claims, before, strict=True)]
    assert had == pytest.approx([2 / 3, 7 / 3] if charges else [1, 2], rel=TOLERANCE)


def test_charge_is_above_nothing() -> None:
    simulation = Simulation()
    claim, _device = simulation.claim(Engine())
    with pytest.raises(DriverError, match="expected a cost above 0, given 0"):
        claim.charge(0)


def test_what_one_leaves_is_the_others() -> None:
    """Best effort is work conserving: there is always somebody whose turn it is."""
    simulation, engine = Simulation(), Engine()
    busy, thinking = simulation.claim(engine, 1)[0], simulation.claim(engine, 16)[0]
    simulation.spawn(draw(busy, 1, 0.001))
    simulation.spawn(draw(thinking, 1, 0.001, batch=1, think=0.02))
    simulation.run(10)
    assert busy.seconds + thinking.seconds > 0.99 * 10
    assert thinking.seconds == pytest.approx(10 / 22, rel=0.1)


def test_idle_time_gives_no_credit() -> None:
    simulation, engine = Simulation(), Engine()
    first, late = (simulation.claim(engine)[0] for _each in range(2))
    simulation.spawn(draw(first, 1, 0.001))
    simulation.run(1)
    job = simulation.spawn(draw(late, 1, 0.001))
    simulation.run(1)
    simulation.cancel(job)
    simulation.run(5)
    before = first.given
    simulation.spawn(draw(late, 1, 0.001))
    simulation.run(1)
    assert first.given - before == pytest.approx(500, abs=10)


def test_who_is_served_waits_for_one_turn_of_each_other() -> None:
    """However large that is; and it is charged to whose it was."""
    simulation, engine = Simulation(), Engine()
    large, small = (simulation.claim(engine)[0] for _each in range(2))
    simulation.spawn(draw(large, 5000, 5))
    simulation.run(0.1)
    simulation.spawn(draw(small, 1, 0.001))
    simulation.run(4)
    assert small.turns == 0
    simulation.run(1 + 4)
    assert small.turns > 3900


def test_weight_changes_at_the_next_turn() -> None:
    simulation, engine = Simulation(), Engine()
    (first, _settings), (second, changed) = simulation.claim(engine, 4), simulation.claim(engine, 4)
    for each in (first, second):
        simulation.spawn(draw(each, 1, 0.001))
    simulation.run(1)
    changed.weight = 1
    before = first.given, second.given
    simulation.run(1)
    assert first.given - before[0] == pytest.approx(800, rel=0.02)
    assert second.given - before[1] == pytest.approx(200, rel=0.05)


def test_higher_weight_is_in_force_for_what_was_charged_before() -> None:
    """One that is behind for a long turn at a low weight need not pay for it at that weight."""
    simulation, engine = Simulation(), Engine()
    (behind, changed), (other, _settings) = simulation.claim(engine, 1), simulation.claim(engine, 16)
    simulation.spawn(draw(behind, 100, 0.1))
    simulation.run(0.05)
    simulation.spawn(draw(other, 1, 0.001))
    simulation.run(0.1)
    assert behind.turns == 1
    assert other.turns == pytest.approx(50, abs=3)
    changed.weight = 16
    simulation.run(0.3)
    assert behind.turns == 2  # and not after 1600 of the other's
    assert other.turns == pytest.approx(200, abs=60)


def test_several_turns_at_a_time_follow_the_weights() -> None:
    simulation, engine = Simulation(), Engine(width=4)
    claims = [simulation.claim(engine, weight)[0] for weight in (1, 2, 4)]
    for each in claims:
        for _queue in range(4):
            simulation.spawn(measured(each, 0.001))
    simulation.run(7)
    assert parts(claims) == pytest.approx([1 / 7, 2 / 7, 4 / 7], rel=TOLERANCE)
    assert sum(each.seconds for each in claims) == pytest.approx(4 * 7, rel=0.01)


# --- policies ---------------------------------------------------------------------------------------------------


class Switch:
    """A policy that an operator changes."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(self) -> Policy:
        return self.policy


def test_fixed_share_holds_when_the_others_idle() -> None:
    simulation = Simulation()
    engine = Engine(Policy.FIXED_SHARE, whole=16)
    claim, settings_ = simulation.claim(engine, 4)
    simulation.spawn(measured(claim, 0.002))
    simulation.run(8)
    assert claim.seconds == pytest.approx(2, rel=0.02)
    assert claim.held_back == pytest.approx(6, rel=0.02)
    settings_.weight = 8
    simulation.run(8)
    assert claim.seconds == pytest.approx(2 + 4, rel=0.02)


def test_fixed_share_is_of_the_weights_in_use_where_these_are_more() -> None:
    simulation = Simulation()
    engine = Engine(Policy.FIXED_SHARE)
    busy, _idle = simulation.claim(engine, 1)[0], simulation.claim(engine, 3)[0]
    simulation.spawn(measured(busy, 0.002))
    simulation.run(8)
    assert busy.seconds == pytest.approx(2, rel=0.02)


def test_fixed_shares_are_kept_when_all_want_more() -> None:
    simulation = Simulation()
    engine = Engine(Policy.FIXED_SHARE)
    claims = [simulation.claim(engine, weight)[0] for weight in (1, 2, 4)]
    for each in claims:
        simulation.spawn(measured(each, 0.001))
    simulation.run(14)
    assert [each.seconds for each in claims] == pytest.approx([2, 4, 8], rel=0.05)


def test_equal_share_is_that_of_every_mdev_in_use_whatever_its_weight() -> None:
    simulation = Simulation()
    engine = Engine(Policy.EQUAL_SHARE)
    busy, other = simulation.claim(engine, 1)[0], simulation.claim(engine, 16)[0]
    simulation.spawn(measured(busy, 0.001))
    simulation.run(4)
    assert busy.seconds == pytest.approx(2, rel=0.02)
    other.leave()
    simulation.run(4)
    assert busy.seconds == pytest.approx(2 + 4, rel=0.02)


def test_policy_changes_while_jobs_wait() -> None:
    """Also for one whose own limit would keep it for long."""
    policy, simulation = Switch(Policy.FIXED_SHARE), Simulation()
    engine = Engine(policy, whole=100)
    claim = simulation.claim(engine)[0]
    simulation.spawn(measured(claim, 1))
    simulation.run(1.5)
    assert claim.turns == 1
    policy.policy = Policy.BEST_EFFORT
    simulation.run(1.5)
    assert claim.turns == 2
    assert engine.policy is Policy.BEST_EFFORT


# --- frames -----------------------------------------------------------------------------------------------------


async def animate(claim: Claim, seconds: float = 0.0) -> None:
    while True:
        await claim.frame()
        await nap(seconds)


def test_frames_keep_to_their_rate() -> None:
    simulation, engine = Simulation(), Engine()
    claim, settings_ = simulation.claim(engine, frame_rate=30)
    simulation.spawn(animate(claim, 0.001))
    simulation.run(10)
    assert claim.frames == pytest.approx(300, abs=2)
    settings_.frame_rate = 60
    simulation.run(10)
    assert claim.frames == pytest.approx(300 + 600, abs=4)
    settings_.frame_rate = 0
    simulation.run(1)
    assert claim.frames == pytest.approx(900 + 1000, abs=10)


def test_limit_that_is_taken_away_is_noticed_by_who_waits_for_it() -> None:
    simulation, engine = Simulation(), Engine()
    claim, settings_ = simulation.claim(engine, frame_rate=0.01)
    simulation.spawn(animate(claim, 1))
    simulation.run(3)
    frames = claim.frames
    settings_.frame_rate = 0
    simulation.run(1)
    assert claim.frames > frames


def test_frames_of_two_heads_share_one_rate() -> None:
    simulation, engine = Simulation(), Engine()
    claim = simulation.claim(engine, frame_rate=50)[0]
    for _head in range(2):
        simulation.spawn(animate(claim))
    simulation.run(10)
    assert claim.frames == pytest.approx(500, abs=2)


# --- ends -------------------------------------------------------------------------------------------------------


def test_job_that_is_cancelled_while_it_waits_holds_up_nobody() -> None:
    simulation, engine, order = Simulation(), Engine(), list[Claim]()
    claims = [simulation.claim(engine)[0] for _each in range(3)]
    jobs = [simulation.spawn(once(each, 1, order, 1)) for each in claims]
    simulation.run(0.5)
    simulation.cancel(jobs[1])
    simulation.run(2)
    assert order == [claims[0], claims[2]]


def test_job_that_is_cancelled_with_its_turn_lets_it_go_and_is_charged() -> None:
    simulation, engine, order = Simulation(), Engine(), list[Claim]()
    first, second = (simulation.claim(engine)[0] for _each in range(2))
    job = simulation.spawn(measured(first, 100))
    simulation.spawn(once(second, 1, order))
    simulation.run(0.5)
    simulation.cancel(job)
    simulation.run(0)
    assert order == [second]
    assert first.given == pytest.approx(0.5)


def test_job_that_is_cancelled_between_the_grant_and_its_stretch_holds_up_nobody() -> None:
    simulation, engine, order = Simulation(), Engine(), list[Claim]()
    claims = [simulation.claim(engine)[0] for _each in range(3)]
    with holding(claims[0], order):
        jobs = [simulation.spawn(once(each, 1, order)) for each in claims[1:]]
        simulation.run(0)
    simulation.cancel(jobs[0])  # which was told, and has not gone on
    simulation.run(0)
    assert order[1:] == [claims[2]]
    assert claims[1].given == 0


def test_job_that_raises_lets_its_turn_go() -> None:
    simulation, engine, order = Simulation(), Engine(), list[Claim]()
    first, second = (simulation.claim(engine)[0] for _each in range(2))
    with pytest.raises(ZeroDivisionError), holding(first, order):
        raise ZeroDivisionError
    simulation.spawn(once(second, 1, order))
    simulation.run(0)
    assert order[1:] == [second]


@contextmanager
def holding(claim: Claim, order: list[Claim]) -> Iterator[Turn]:
    """A job in the middle of its turn."""
    turn = claim.turn(1)
    with pytest.raises(StopIteration):
        turn.__aenter__().send(None)
    order.append(claim)
    try:
        yield turn
    finally:
        with pytest.raises(StopIteration):
            turn.__aexit__(None, None, None).send(None)


def test_device_that_stands_still_holds_up_nobody() -> None:
    simulation, engine, order = Simulation(), Engine(), list[Claim]()
    first, second = (simulation.claim(engine)[0] for _each in range(2))
    with holding(first, order):
        simulation.spawn(once(second, 1, order))
        simulation.run(1)
        assert order == [first]
        first.leave()
        simulation.run(1)
        assert order == [first, second]


def test_device_that_stands_still_and_waits_is_passed_over_until_it_goes_on() -> None:
    simulation, engine, order = Simulation(), Engine(), list[Claim]()
    claims = [simulation.claim(engine)[0] for _each in range(3)]
    with holding(claims[0], order):
        job, _other = (simulation.spawn(once(each, 1, order)) for each in claims[1:])
        simulation.run(0)
        simulation.paused.add(job)
        claims[1].leave()
    simulation.run(0)
    assert order == [claims[0], claims[2]]
    simulation.paused.clear()
    claims[1].join()
    simulation.run(0)
    assert order == [claims[0], claims[2], claims[1]]


def test_turn_of_a_device_that_stands_still_before_it_hears_of_it_is_given_to_others() -> None:
    simulation, engine, order = Simulation(), Engine(), list[Claim]()
    claims = [simulation.claim(engine)[0] for _each in range(3)]
    with holding(claims[0], order):
        job, _other = (simulation.spawn(once(each, 1, order)) for each in claims[1:])
        simulation.run(0)
    simulation.paused.add(job)
    claims[1].leave()
    simulation.run(0)
    assert order == [claims[0], claims[2]]
    simulation.paused.clear()
    claims[1].join()
    simulation.run(0)
    assert order == [claims[0], claims[2], claims[1]]


def test_turn_costs_what_it_is_said_to() -> None:
    simulation, engine = Simulation(), Engine()
    claim = simulation.claim(engine)[0]
    with holding(claim, []) as turn:
        turn.cost = 0.25
    assert (claim.given, claim.turns, claim.seconds) == (0.25, 1, 0)


@pytest.mark.parametrize("cost", [0, -1, float("nan")])
def test_turn_costs_something(cost: float) -> None:
    with pytest.raises(DriverError, match="expected a cost above 0"):
        Simulation().claim(Engine())[0].turn(cost)


def test_engine_has_room() -> None:
    with pytest.raises(DriverError, match="width of at least 1"):
        Engine(width=0)


# --- whatever happens -------------------------------------------------------------------------------------------


@st.composite
def stories(draw_: st.DrawFn) -> list[tuple[str, int, float, float]]:
    """What happens to three mdevs: the event, whose it is, a cost and a time."""
    events = st.sampled_from(["ask", "ask", "ask", "cancel", "pause", "resume", "hinder", "weight", "run"])
    costs, times = st.sampled_from([0.5, 1.0, 100.0]), st.sampled_from([0.0, 0.001, 1.0])
    return draw_(st.lists(st.tuples(events, st.integers(0, 2), costs, times), max_size=40))


def hold_up(event: str, simulation: Simulation, claim: Claim, jobs: list[Job]) -> None:
    if event == "pause":
        simulation.paused.update(jobs)
        claim.leave()
    elif event == "resume":
        simulation.paused.difference_update(jobs)
        claim.join()
    else:
        claim.be_passed_over()


@settings(max_examples=150)
@given(story=stories(), policy=st.sampled_from(Policy), width=st.integers(1, 2))
def test_nobody_is_forgotten(story: list[tuple[str, int, float, float]], policy: Policy, width: int) -> None:
    """Whatever happens to some: in the end all that were not cancelled had their turn, and nobody has one."""
    simulation, switch = Simulation(), Switch(policy)
    engine = Engine(switch, width=width)
    claims = [simulation.claim(engine, weight) for weight in (1, 2, 4)]
    order: list[Claim] = []
    jobs: list[list[Job]] = [[], [], []]
    for event, who, cost, seconds in story:
        claim, setting = claims[who]
        if event == "ask":
            jobs[who].append(simulation.spawn(once(claim, cost, order, seconds)))
        elif event == "cancel" and jobs[who]:
            simulation.cancel(jobs[who].pop(0))
        elif event in {"pause", "resume", "hinder"}:
            hold_up(event, simulation, claim, jobs[who])
        elif event == "weight":
            setting.weight = int(cost * 2)
        else:
            simulation.run(seconds)
        assert engine._held <= width
    simulation.paused.clear()
    switch.policy = Policy.BEST_EFFORT  # no part of somebody's is so small that he waits for hours
    for claim, _setting in claims:
        claim.join()
    simulation.run(1000)
    assert all(each.is_over for of_one in jobs for each in of_one)
    assert (engine._held, dict(engine._backlogged), engine._messenger) == (0, {}, None)


@settings(max_examples=25)
@given(
    weights=st.lists(st.integers(1, 8), min_size=2, max_size=4),
    costs=st.lists(st.sampled_from([1.0, 3.0, 10.0]), min_size=4, max_size=4),
    batch=st.sampled_from([1, 16, 1000]),
)
def test_parts_follow_any_weights_and_costs(weights: list[int], costs: list[float], batch: int) -> None:
    simulation, engine = Simulation(), Engine()
    claims = [simulation.claim(engine, weight)[0] for weight in weights]
    for each, cost in zip(claims, costs, strict=False):
        simulation.spawn(draw(each, cost, cost / 10, batch))
    simulation.run(30 * sum(weights))
    for part, weight in zip(parts(claims), weights, strict=True):
        assert part == pytest.approx(weight / sum(weights), rel=TOLERANCE)
