"""Every target of the fuzzers, without their guidance: its seeds and some mutations of them, always the same ones."""

from collections.abc import Iterable
from functools import cache
from random import Random

import pytest
from typing_extensions import override

from fuzz import mutation, rig, session
from fuzz.planting import code_of, planted
from fuzz.plants import PLANTS
from fuzz.target import Finding, Target
from fuzz.targets import MODULES, target_of
from mdev_user.vfio.plain import PlainRead, PlainWrite
from mdev_user.vfio_user.loops import why_not_native
from mdev_user.vfio_user.plain_table import PlainTable
from mdev_user.vfio_user.token_lock import TokenLock

INPUTS = {
    "codec": 12000,
    "version": 8000,
    "connection": 5000,
    "session": 300,
    "config": 2000,
    "loader": 600,
    "stream": 80,
    "virtqueue": 8000,
    "gpu": 60,
}
"""Mutations of each: a second or two."""
QUICK = {
    "codec-vectors": 3000,
    "codec-ranges": 3000,
    "connection-fds": 3000,
    "config-w1c": 3000,
    "loader-half": 3000,
    "virtqueue-order": 3000,
    "virtqueue-jump": 3000,
    "virtqueue-nested": 3000,
    "virtqueue-event": 3000,
    "gpu-quota": 300,
    "gpu-part": 300,
    "gpu-hole": 300,
    "gpu-backing": 300,
}
"""Planted faults that so many inputs find without guidance; the others are for `make fuzz-plants`."""


@cache
def inputs(name: str, count: int) -> list[bytes]:
    target, chance = target_of(name), Random(name)
    made = list(target.seeds())
    return made + [_mutated(target, made, chance) for _ in range(count)]


def _mutated(target: Target, seeds: list[bytes], chance: Random) -> bytes:
    data = chance.choice(seeds)
    if target.mutate is not None and chance.randrange(4):
        return target.mutate(data, chance)
    if chance.randrange(3) == 0:
        data = mutation.crossed(data, chance.choice(seeds), chance)
    return mutation.mutated(data, chance)


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_found(name: str) -> None:
    _run(target_of(name), inputs(name, INPUTS[name]))


def _run(target: Target, given: list[bytes]) -> None:
    for data in given:
        try:
            target.one(data)
        except BaseException as error:
            error.add_note(f"{target.name} given bytes.fromhex({data.hex()!r})")
            raise


@pytest.mark.parametrize("name", PLANTS)
def test_plant_fits_into_the_code(name: str) -> None:
    """A fault whose line was changed since is to be planted anew."""
    code_of(PLANTS[name])


@pytest.mark.parametrize("name", QUICK)
def test_planted_fault_is_found(name: str) -> None:
    """The negative control of all the above."""
    plant = PLANTS[name]
    target = target_of(plant.target)
    with planted(plant), pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is
        _run(target, inputs(plant.target, QUICK[name]))


class _Forgetful(PlainTable):
    """Answers every read with 0."""

    @override
    def fill(self, reads: Iterable[PlainRead], writes: Iterable[PlainWrite]) -> None:
        super().fill([each._replace(mask=0) for each in reads], writes)


def test_loop_that_answers_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rig.LOOPS, "forgetful", lambda: (TokenLock(), _Forgetful()))
    with pytest.raises(Finding, match="loop forgetful: other answers"):
        _run(session.TARGET, [each for each in session.seeds() if each[0] >= session._BOTH[0]])


def test_native_loop_is_played_where_it_is_built() -> None:
    assert ("native" in rig.LOOPS) is (not why_not_native())


def test_every_target_has_faults_to_find() -> None:
    assert {plant.target for plant in PLANTS.values()} == set(MODULES) - {"version"}
    assert len(PLANTS) >= 10
