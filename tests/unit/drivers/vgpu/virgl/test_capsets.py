"""Capability sets as a guest gets them."""

from struct import pack_into, unpack_from

from mdev_user.drivers.vgpu.virgl.capsets import VIRGL, VIRGL2, Capset, told
from mdev_user.units import MiB

EVERYTHING = b"\xff" * 64
PLANAR = 166


def test_formats_of_unknown_size_are_left_out() -> None:
    first = told(Capset(VIRGL, 1, b"\xff" * 308), 512 * MiB)
    assert first.contents[:4] == b"\xff" * 4
    for at in range(4, 260, 64):
        mask = int.from_bytes(first.contents[at : at + 64], "little")
        assert mask >> 1 & 1
        assert not mask >> PLANAR & 1
        assert not mask >> 322
    assert first.contents[260:] == b"\xff" * 48


def test_second_set_says_how_much_memory_there_is() -> None:
    contents = bytearray(1376)
    pack_into("<I", contents, 688, 0b1)
    pack_into("<I", contents, 692, 8192)
    second = told(Capset(VIRGL2, 2, bytes(contents)), 384 * MiB)
    assert unpack_from("<2I", second.contents, 688) == (0b101, 384)
    assert second.contents[696:] == bytes(1376 - 696)
    assert (second.number, second.version) == (VIRGL2, 2)


def test_a_set_that_is_too_short_is_told_as_it_is() -> None:
    assert told(Capset(VIRGL2, 1, bytes(308)), MiB).contents == bytes(308)
