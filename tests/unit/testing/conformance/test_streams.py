"""What becomes of a migration stream: pieces, damage, forgery; the same for the same numbers."""

from random import Random

import pytest

from drivers.everything import Card
from mdev_user.errors import StateError
from mdev_user.testing.conformance.drawing import tamperings
from mdev_user.testing.conformance.mutations import Mutation
from mdev_user.testing.conformance.operations import Copy, MappedWrite, Setting, Write
from mdev_user.testing.conformance.player import Player
from mdev_user.testing.conformance.streams import DAMAGES, FORGERIES, Tampering, cut, joined, records, tampered

BEFORE = (
    Write(0, 0x10, b"\xff" * 8), MappedWrite(1, 0, b"one"), Copy(1 << 20), MappedWrite(1, 0, b"two"),
    Write(0, 0x1C, b"\2\0\0\0"), Copy(1 << 20), MappedWrite(1, 4096, b"three"),
)  # fmt: skip


@pytest.fixture(scope="module")
def stream() -> bytes:
    player = Player(Card, Setting("two"))
    for operation in BEFORE:
        player.play(operation)
    return player.guest.save()


def test_pieces_are_the_stream(stream: bytes) -> None:
    assert b"".join(cut(stream)) == stream
    assert cut(stream) == cut(stream)
    assert len(cut(stream)) > 5
    assert cut(b"") == []


def test_records_are_the_stream(stream: bytes) -> None:
    found = records(stream)
    assert joined(found) == stream
    assert [kind.name for kind, _payload in found if kind.name != "NOTHING"] == [
        "HEADER", "PAGES", "PAGES", "PAGES", "STATE", "END",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [*DAMAGES, *FORGERIES])
def test_every_kind_makes_something_else_of_it_at_some_place(stream: bytes, kind: str) -> None:
    made = {
        tampered(stream, Tampering(kind, Mutation("odd", place, place % 251, b"new")))
        for place in range(0, 1 << 16, 2048)
    }
    assert bool(made - {stream}) is (kind != "leave it")


def test_drawn_tampering_never_fails(stream: bytes) -> None:
    for number in range(100):
        for each in tamperings(Random(number)):
            assert tampered(stream, each) == tampered(stream, each)


@pytest.mark.parametrize("kind", sorted(DAMAGES.keys() - {"leave it"}))
def test_damage_is_refused_unless_it_is_none(stream: bytes, kind: str) -> None:
    player = Player(Card, Setting("two"))
    before = player.guest.device.save()
    for place in range(0, 1 << 16, 4096):
        damaged = tampered(stream, Tampering(kind, Mutation("odd", place, place % 251, b"new")))
        if damaged != stream:
            with pytest.raises(StateError):
                player.guest.load(damaged)
            assert player.guest.device.save() == before
