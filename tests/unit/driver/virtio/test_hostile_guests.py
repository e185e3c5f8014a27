"""Whatever a guest writes into rings and registers, the device goes on after a reset, and others have their turn."""

from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.driver.virtio import function as module
from mdev_user.drivers import virtio_rng
from mdev_user.testing import Guest
from unit.driver.virtio.devices import PinnedCard
from unit.driver.virtio.ring_driver import AVAILABLE, BUFFERS, DESCRIPTORS, TABLES, USED, Piece, VirtioDriver

SIZE = 4
addresses = st.one_of(
    st.sampled_from([BUFFERS, TABLES, DESCRIPTORS, USED, (1 << 20) - 8, 1 << 40, (1 << 64) - 1]),
    st.integers(0, 1 << 20),
)
lengths = st.one_of(st.integers(0, 64), st.sampled_from([0xFFFF_FFFF, 1 << 20]))
descriptors = st.builds(lambda *each: pack("<QIHH", *each), addresses, lengths, st.integers(0, 7), st.integers(0, SIZE))
tables = st.lists(descriptors, max_size=SIZE).map(b"".join)
indexes = st.lists(st.integers(0, SIZE + 1), max_size=SIZE).map(
    lambda heads: b"".join(pack("<H", each) for each in heads)
)
writes = st.lists(
    st.tuples(st.sampled_from([0x08, 0x0C, 0x10, 0x16, 0x18, 0x1A, 0x1C, 0x20, 0x28, 0x30]), st.integers(0, 64))
)


@given(tables, tables, st.integers(0, SIZE + 1), indexes, writes, st.integers(0, 20))
def test_device_lives_on(queue: bytes, table: bytes, added: int, heads: bytes, registers: Any, steps: int) -> None:
    with Guest(PinnedCard) as guest:
        driver = VirtioDriver(guest, SIZE, queues=2).start()
        for at, data in ((DESCRIPTORS, queue), (TABLES, table), (AVAILABLE, pack("<HH", 0, added) + heads)):
            guest.memory[at : at + len(data)] = data
        driver.kick()
        for _ in range(steps):
            guest.step()
        for register, value in registers:
            guest.write_bytes(0, register, pack("<H", value))
        driver.kick()
        guest.run()
        assert driver.needs_reset or guest.errors == 0
        assert guest.errors <= 2
        guest.memory[BUFFERS : BUFFERS + 2] = b"ab"
        assert driver.start().ask(Piece(BUFFERS, 2, 0), Piece(BUFFERS + 8, 2)) == (0, 2)
        assert guest.memory[BUFFERS + 8 : BUFFERS + 10] == b"ba"


def turns_for(chains: int, entries: int = 1) -> int:
    """How many jobs serve so many chains, one behind the other, each of so many empty buffers and one of a byte."""
    with Guest(virtio_rng.Card) as guest:
        driver = VirtioDriver(guest, 64).start()
        ring = driver.rings[0]
        for index in range(chains):
            pieces = [Piece(BUFFERS + index, 1), *[Piece(BUFFERS, 0)] * (entries - 1)]
            ring.chain([index], pieces if entries == 1 else [ring.indirect(pieces)]).offer(index)
        driver.kick()
        (work,) = guest.device.jobs
        turns, last = 1, guest.device._works[work]
        while guest.step():
            for each in guest.device._works.values():
                turns, last = turns + (each is not last), each
        assert len(ring.taken()) == chains
        return turns


@pytest.mark.parametrize(("chains", "entries", "turns"), [(64, 1, 5), (64, 4, 5), (32, 16, 9), (16, 64, 17)])
def test_endless_ring_leaves_others_their_turn(chains: int, entries: int, turns: int) -> None:
    assert turns_for(chains, entries) == turns


def test_endless_ring_would_be_served_in_one_turn_without_an_end_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(module, "_BATCH", 1 << 20)
    assert turns_for(64) == 1
    assert turns_for(16, 64) == 1
