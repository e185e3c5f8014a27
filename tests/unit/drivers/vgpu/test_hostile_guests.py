"""Whatever a guest says, vgpu answers or asks for a reset; its quota holds, and its resources do not overlap."""

from struct import pack, unpack_from
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mdev_user.drivers.vgpu.card import Card
from mdev_user.testing import Guest
from unit.driver.virtio.ring_driver import BUFFERS
from unit.drivers.vgpu.gpu_driver import ATTACH, CREATE, DISPLAY_INFO, EDID, MOVE, OK, UPDATE, GpuDriver

kinds = st.sampled_from([*range(DISPLAY_INFO, ATTACH + 4), EDID, *range(0x200, 0x208), UPDATE, MOVE, 0, 0xFFFF_FFFF])
small = st.integers(0, 9)
sizes = st.sampled_from([64, 1024, 4096, 16384, 16385, 0x7FFF_FFFF, 0xFFFF_FFFF, BUFFERS])
words = st.one_of(small, sizes, st.integers(0, 0xFFFF_FFFF))
commands = st.builds(
    lambda kind, body: pack("<IIQII", kind, 1, 5, 0, 0) + b"".join(pack("<I", each & 0xFFFF_FFFF) for each in body),
    kinds,
    st.lists(words, max_size=16),
)
creates = st.builds(lambda *each: pack("<IIQII4I", CREATE, 0, 0, 0, 0, *each), small, small, words, words)
attaches = st.builds(
    lambda number, pieces: (
        pack("<IIQII2I", ATTACH, 0, 0, 0, 0, number, len(pieces)) + b"".join(pack("<QI4x", *each) for each in pieces)
    ),
    small,
    st.lists(st.tuples(st.integers(0, (1 << 64) - 1), words), max_size=4),
)


@settings(max_examples=80)
@given(st.lists(st.tuples(st.one_of(commands, creates, attaches), st.integers(0, 9), st.integers(24, 64)), max_size=20))
def test_gpu_lives_on(said: Any) -> None:
    with Guest(Card, "GVTg_V5_8") as guest:
        driver = GpuDriver(guest)
        for data, chance, room in said:
            own = int(unpack_from("<I", data)[0] in {UPDATE, MOVE})
            driver.send(data, queue=own if chance else 1 - own, room=room)
            assert not driver.needs_reset
            assert driver.is_sound()
        driver.start()
        assert driver.gpu.resources == {}
        assert driver.create(1, 16384, 1024) == OK


@settings(max_examples=100)
@given(st.binary(max_size=100), st.integers(0, 1), st.integers(0, 100))
def test_any_bytes_are_answered_or_end_in_a_reset(data: bytes, queue: int, room: int) -> None:
    with Guest(Card, "GVTg_V5_8") as guest:
        driver = GpuDriver(guest)
        ring = driver.rings[queue]
        guest.memory[BUFFERS : BUFFERS + len(data)] = data
        ring.describe(0, BUFFERS, len(data), 1, 1).describe(1, BUFFERS + 0x1000, room, 2)
        ring.offer(0)
        driver.kick(queue)
        guest.run()
        assert bool(ring.taken()) is (len(data) >= 24) is not driver.needs_reset
