"""What is made of a saved state: something else, and the same for the same numbers."""

from random import Random

import pytest

from drivers.everything import Card
from mdev_user.testing.conformance.drawing import mutations
from mdev_user.testing.conformance.mutations import MUTATIONS, Mutation, mutated
from mdev_user.testing.conformance.operations import Setting, Write
from mdev_user.testing.conformance.player import Player


@pytest.fixture(scope="module")
def state() -> bytes:
    player = Player(Card, Setting("two"))
    for write in (Write(0, 0x10, b"\xff" * 8), Write(0, 0x20, b"\1\0\0\0"), Write(0, 0x1C, b"\2\0\0\0")):
        player.play(write)
    return player.guest.device.save()


@pytest.mark.parametrize("kind", MUTATIONS)
def test_every_kind_changes_the_state_at_some_place(state: bytes, kind: str) -> None:
    made = {mutated(state, Mutation(kind, place, place % 251, b"new")) for place in range(0, 1 << 16, 331)}
    assert made - {state}
    if kind not in {"replace", "body"}:
        assert len(made) > 10


def test_drawn_mutations_never_fail(state: bytes) -> None:
    for number in range(300):
        for each in mutations(Random(number)):
            assert mutated(state, each) == mutated(state, each)
