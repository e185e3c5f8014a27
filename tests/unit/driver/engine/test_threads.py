"""An engine whose mdevs run in threads of their own: parts by weight, and nobody waits for ever."""

import random
from itertools import count
from threading import Event, Thread
from time import monotonic, thread_time

import pytest

from mdev_user.driver import Claim, Engine, Policy
from unit.driver.engine.simulation import Worker, nap, real_claim

SECONDS = 20


async def burn(claim: Claim, seconds: float, until: Event) -> None:
    """Turns of so much processor time each."""
    while not until.is_set():
        async with claim.turn(1.0):
            end = thread_time() + seconds
            while thread_time() < end:
                pass


def test_parts_follow_the_weights() -> None:
    engine, until = Engine(), Event()
    claims = [real_claim(engine, weight) for weight in (1, 2, 4)]
    deadline = monotonic() + SECONDS
    workers = [Worker(burn(each, 0.0005, until)) for each in claims]
    while claims[0].turns < 150 and monotonic() < deadline:
        until.wait(0.01)
    until.set()
    assert all(each.join(SECONDS) for each in workers)
    total = sum(each.given for each in claims)
    # Nobody's queue of ready jobs orders these threads: one that the machine does not run for a while counts as idle.
    assert [each.given / total for each in claims] == pytest.approx([1 / 7, 2 / 7, 4 / 7], abs=0.08)


@pytest.mark.parametrize("policy", [Policy.BEST_EFFORT, Policy.FIXED_SHARE])
def test_nobody_waits_for_ever(policy: Policy) -> None:
    """Turns of all lengths in eight threads, while devices come to stand still and go on."""
    engine = Engine(policy)
    claims = [real_claim(engine, weight) for weight in (1, 2, 4, 8)]
    over = Event()

    async def turns(claim: Claim, seed: int) -> None:
        dice = random.Random(seed)
        for number in range(150):
            async with claim.turn(dice.choice([0.1, 1, 10])):
                if not number % 8:
                    await nap(dice.random() / 5000)

    def stop_and_go() -> None:
        for number in count():
            if over.wait(0.0005):
                return
            claims[number % 4].leave()
            claims[number % 4].join()

    restless = Thread(target=stop_and_go, daemon=True)
    restless.start()
    workers = [Worker(turns(claims[number % 4], number)) for number in range(8)]
    assert all(each.join(SECONDS) for each in workers)
    over.set()
    restless.join(SECONDS)
    assert [each.error for each in workers] == [None] * 8
    assert sum(each.turns for each in claims) == 8 * 150
    assert engine._held == 0
