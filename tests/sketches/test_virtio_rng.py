"""The virtio-rng of the sketches: a guest's driver in memory uses it, and abuses it."""

from collections.abc import Iterator
from struct import pack, unpack

import pytest

from mdev_user.testing import Guest
from sketches.rings import AVAILABLE, BUFFERS, DESCRIPTORS, USED, Ring
from sketches.virtio_rng import NEXT, NO_VECTOR, WRITE, Card, Regs, Rng, VectoredCard


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(Card, "small") as made:
        yield made


def test_structures_are_found_by_vendor_capabilities(guest: Guest) -> None:
    found: dict[int, tuple[int, int, int]] = {}
    at = guest.read_config(0x34, 1)[0]
    while at:
        identity, following, length, kind, bar = guest.read_config(at, 5)
        if identity == 0x09:
            found[kind] = (bar, *unpack("<II", guest.read_config(at + 8, 8)))
            assert length == (20 if kind == 2 else 16)
        at = following
    assert found == {1: (0, 0, 0x38), 2: (0, 0x80, 2), 3: (0, 0x40, 1), 4: (0, 0xC0, 4)}


def test_features_are_negotiated(guest: Guest) -> None:
    for select, features in ((0, 0), (1, 1), (2, 0)):
        guest.write(Regs.device_feature_select, select)
        assert guest.read_bytes(0, 4, 4) == pack("<I", features)
    guest.write(Regs.status, 11)
    assert not guest.read(Regs.status.features_ok)  # without VERSION_1


def test_other_queues_are_not_there(guest: Guest) -> None:
    guest.write(Regs.queue_select, 1)
    assert guest.read_bytes(0, 0x18, 2) == bytes(2)


def test_buffers_are_filled_and_the_pin_tells(guest: Guest) -> None:
    ring = Ring(guest)
    ring.start()
    assert len(set(ring.request(32))) > 4
    assert (guest.pin, guest.signals) == (True, 1)
    assert guest.read(Regs.isr) == 1  # and clears it
    assert (guest.pin, guest.read(Regs.isr)) == (False, 0)
    assert len(ring.request(24, chained=2)) == 48
    assert len(ring.request(40, chained=3)) == 64  # at most what the type gives


def test_no_ring_of_the_bell_is_lost(guest: Guest) -> None:
    """A request that is made while the device looks at the ring for the last time is served."""
    ring = Ring(guest)
    ring.start()
    ring.describe(0, BUFFERS, 8)
    for steps in range(20):
        ring.offer(0)
        ring.kick()
        for _ in range(steps):
            guest.step()
        ring.offer(0)
        ring.kick()
        guest.run()
        assert ring.taken() == [(0, 8), (0, 8)]
    assert guest.errors == 0


def test_ring_wraps_and_so_does_its_index(guest: Guest) -> None:
    ring = Ring(guest, size=8)
    ring.start()
    ring.describe(3, BUFFERS, 1)
    function = guest.device.function
    assert isinstance(function, Rng)
    function.served = function.told = ring.added = ring.seen = 0xFF00
    for _ in range(40):
        for _ in range(8):
            ring.offer(3)
        ring.kick()
        guest.run()
        assert ring.taken() == [(3, 1)] * 8
    assert ring.seen == 0x40
    assert guest.errors == 0


def test_messages_go_to_the_queues_own_vector() -> None:
    with Guest(VectoredCard, "small") as guest:
        guest.enable_msix()
        ring = Ring(guest)
        ring.start(vector=1)
        ring.request(8)
        assert (guest.take_messages(), guest.pin, guest.signals) == ([1], False, 0)
        guest.write(Regs.queue_vector, 2)
        assert guest.read(Regs.queue_vector) == NO_VECTOR


def test_reset_by_status_ends_what_is_under_way(guest: Guest) -> None:
    ring = Ring(guest)
    ring.start()
    ring.describe(0, BUFFERS, 8)
    for steps in range(8):
        ring.offer(0)
        ring.kick()
        for _ in range(steps):
            guest.step()
        guest.write(Regs.status, 0)
        assert (guest.device.jobs, guest.pin) == ([], False)
        guest.memory[USED : USED + 0x100] = bytes(0x100)
        guest.run()
        assert guest.memory[USED : USED + 0x100] == bytes(0x100)
        ring.start()
        assert len(ring.request(8)) == 8


@pytest.mark.parametrize("count", [1, 3])
def test_request_is_answered_once_wherever_the_device_is_migrated(guest: Guest, count: int) -> None:
    ring = Ring(guest)
    for steps in range(14 * count):
        ring.start()
        for index in range(count):
            ring.describe(index, BUFFERS + 16 * index, 16)
            ring.offer(index)
        ring.kick()
        for _ in range(steps):
            guest.step()
        taken = ring.taken()
        for head, _length in taken:  # the guest uses its buffer for something else
            guest.memory[BUFFERS + 16 * head : BUFFERS + 16 * head + 16] = bytes(16)
        guest.device.load(guest.device.save())
        guest.run()
        assert taken + ring.taken() == [(each, 16) for each in range(count)]
        for head, _length in taken:
            assert guest.memory[BUFFERS + 16 * head : BUFFERS + 16 * head + 16] == bytes(16)
        assert guest.read(Regs.isr) == 1
    assert guest.errors == 0


HOSTILE = {
    "descriptor out of range": lambda ring: (ring.describe(0, BUFFERS, 8, WRITE | NEXT, 64), ring.offer(0)),
    "head out of range": lambda ring: ring.offer(0xFFFF),
    "loop": lambda ring: (ring.describe(0, BUFFERS, 8, WRITE | NEXT, 0), ring.offer(0)),
    "device-readable": lambda ring: (ring.describe(0, BUFFERS, 8, 0), ring.offer(0)),
    "indirect": lambda ring: (ring.describe(0, BUFFERS, 16, 4), ring.offer(0)),
    "unmapped buffer": lambda ring: (ring.describe(0, 0xFFFF_FFFF_FFFF_FFFF, 8), ring.offer(0)),
    "unmapped ring": lambda ring: (ring.guest.write_bytes(0, 0x20, b"\xff" * 8), ring.offer(0)),
    "unmapped used ring": lambda ring: (ring.guest.write_bytes(0, 0x30, b"\xff" * 8), ring.offer(0)),
    "too many requests": lambda ring: ring.guest.memory.write(AVAILABLE + 2, pack("<H", 65)),
    "size of zero": lambda ring: (ring.guest.write(Regs.queue_size, 0), ring.offer(0)),
    "odd size": lambda ring: (ring.guest.write(Regs.queue_size, 48), ring.offer(0)),
}


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE)
def test_hostile_ring_needs_a_reset_and_the_device_lives_on(guest: Guest, spoil: object) -> None:
    ring = Ring(guest)
    ring.start()
    assert callable(spoil)
    spoil(ring)
    ring.kick()
    guest.run()
    assert guest.errors == 1
    assert guest.read(Regs.status.needs_reset)
    assert guest.read(Regs.isr) == 2
    ring.kick()
    guest.run()
    assert guest.errors == 1
    ring.start()
    assert len(ring.request(16)) == 16


def test_huge_length_costs_no_memory(guest: Guest) -> None:
    ring = Ring(guest)
    ring.start()
    ring.describe(0, BUFFERS, 0xFFFF_FFFF)
    ring.offer(0)
    ring.kick()
    guest.run()
    assert ring.taken() == [(0, 64)]
    assert guest.memory[DESCRIPTORS + 8 : DESCRIPTORS + 12] == b"\xff" * 4
