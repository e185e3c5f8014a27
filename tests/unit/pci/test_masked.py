"""Bytes of which a guest may write some bits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.errors import DriverError, GuestError, OutOfRange
from mdev_user.pci.masked import Image, ImageBuilder, MaskedBytes

SIZE = 24


@st.composite
def images(draw: st.DrawFn) -> Image:
    """Any image in which each bit has at most one rule."""
    part = st.binary(min_size=SIZE, max_size=SIZE)
    values, first, second = draw(part), draw(part), draw(part)
    writable = bytes(a & b for a, b in zip(first, second, strict=True))
    w1c = bytes(a & ~b & 0xFF for a, b in zip(first, second, strict=True))
    live = bytes(~a & b & 0xFF for a, b in zip(first, second, strict=True))
    return Image(values, writable, w1c, live)


@st.composite
def accesses(draw: st.DrawFn) -> tuple[int, bytes]:
    offset = draw(st.integers(0, SIZE))
    return offset, draw(st.binary(max_size=SIZE - offset))


def store_by_bit(image: Image, old: bytes, offset: int, data: bytes) -> bytes:
    """The rule written down a second time, a bit at a time."""
    new = bytearray(old)
    for position, byte in enumerate(data, offset):
        for bit in (1 << n for n in range(8)):
            if image.writable[position] & bit:
                new[position] = new[position] & ~bit | byte & bit
            if image.w1c[position] & byte & bit:
                new[position] &= ~bit
    return bytes(new)


@given(images(), st.lists(accesses(), max_size=8))
def test_a_guest_changes_only_what_the_masks_allow(image: Image, writes: list[tuple[int, bytes]]) -> None:
    space, expected = MaskedBytes(image), image.values
    for offset, data in writes:
        changed = space.store(offset, data)
        before, expected = expected, store_by_bit(image, expected, offset, data)
        assert space.read(0, SIZE) == expected
        difference = int.from_bytes(before, "little") ^ int.from_bytes(expected, "little")
        assert changed << 8 * offset == difference


def test_the_rule_above_notices_a_wrong_mask() -> None:
    """Negative control: one writable bit too many is seen."""
    right = Image(bytes(4), b"\x0f\0\0\0", bytes(4), bytes(4))
    wrong = MaskedBytes(Image(bytes(4), b"\x1f\0\0\0", bytes(4), bytes(4)))
    wrong.store(0, b"\xff")
    assert wrong.read(0, 4) != store_by_bit(right, bytes(4), 0, b"\xff")


@given(images(), accesses(), st.integers(0, SIZE))
def test_a_split_write_equals_the_wide_one(image: Image, access: tuple[int, bytes], cut: int) -> None:
    offset, data = access
    wide, split = MaskedBytes(image), MaskedBytes(image)
    wide.store(offset, data)
    split.store(offset, data[:cut])
    split.store(offset + len(data[:cut]), data[cut:])
    assert wide.read(0, SIZE) == split.read(0, SIZE)


@given(images(), accesses(), st.integers(0, SIZE))
def test_a_split_read_equals_the_wide_one(image: Image, access: tuple[int, bytes], cut: int) -> None:
    space = MaskedBytes(image)
    offset, count = access[0], len(access[1])
    first = min(cut, count)
    parts = space.read(offset, first) + space.read(offset + first, count - first)
    assert parts == space.read(offset, count)


@given(images(), accesses())
def test_reset_and_load_bring_back_every_bit(image: Image, access: tuple[int, bytes]) -> None:
    space, other = MaskedBytes(image), MaskedBytes(image)
    space.store(*access)
    other.load_values(space.read(0, SIZE))
    assert other.read(0, SIZE) == space.read(0, SIZE)
    space.reset()
    assert space.read(0, SIZE) == image.values


@pytest.mark.parametrize(("offset", "count"), [(-1, 1), (0, 5), (4, 1), (3, 2), (0, -1), (1 << 64, 1)])
def test_out_of_range_is_refused_and_changes_nothing(offset: int, count: int) -> None:
    space = MaskedBytes(Image(bytes(4), b"\xff" * 4, bytes(4), bytes(4)))
    with pytest.raises(OutOfRange, match="the region has 0x4 bytes"):
        space.read(offset, count)
    if count > 0:
        with pytest.raises(OutOfRange, match="the region has 0x4 bytes"):
            space.store(offset, b"\xff" * count)
    assert space.read(0, 4) == bytes(4)
    assert len(space) == 4


def test_a_saved_byte_differs_only_where_something_may_change_it() -> None:
    image = Image(b"\x10\x20\x30\x40", b"\x0f\0\0\0", b"\0\x0f\0\0", b"\0\0\x0f\0")
    space = MaskedBytes(image)
    space.load_values(b"\x1f\x2f\x3f\x40")
    with pytest.raises(GuestError, match="saved byte 0x3: expected 0x40 in its read-only bits, given 0x41"):
        space.load_values(b"\x10\x20\x30\x41")
    with pytest.raises(GuestError, match="expected 4, given 3"):
        space.load_values(b"\x10\x20\x30")
    assert space.read(0, 4) == b"\x1f\x2f\x3f\x40"


def test_fields_do_not_overlap_and_stay_inside() -> None:
    builder = ImageBuilder(8)
    builder.field(0, 4, 0x11223344, writable=0xFF, w1c=0xFF00, live=0xFF0000)
    with pytest.raises(DriverError, match="byte 0x3 is declared twice"):
        builder.field(3, 2, 0)
    for offset in (-1, 7):
        with pytest.raises(DriverError, match="do not fit in 0x8 bytes"):
            builder.field(offset, 2, 0)
    builder.preset(0, b"\x80", shared=range(1))
    assert builder.image() == Image(
        b"\xc4\x33\x22\x11\0\0\0\0", b"\xff" + bytes(7), b"\0\xff" + bytes(6), b"\0\0\xff" + bytes(5)
    )
