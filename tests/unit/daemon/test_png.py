"""PNGs are the pictures, pixel for pixel, whatever their format, size and stride; a pointer is drawn where it is."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdev_user.daemon import png as module
from mdev_user.daemon.png import Png, Room, native_lines, png, python_lines
from mdev_user.daemon.screenshots import PictureFiles, colours, draw, encoded
from mdev_user.errors import DriverError
from mdev_user.host.wire import CopiedImage, CopiedPicture, CopiedPointer
from mdev_user.vfio.planes import XR24
from mdev_user.vfio.screens import AR24, ORDERS, Order, Picture, Pointer
from pictures import PLACES, expected, random_picture, read_png


def file_of(made: Png) -> bytes:
    """Whose size was known before it was made."""
    file = b"".join(map(bytes, made.pieces))
    assert len(file) == made.size
    return file


Lines = Callable[[Picture, Room, int], int]
FORMATS = sorted(PLACES)


def lines_there_are() -> list[Lines]:
    native = native_lines()
    return [python_lines] if native is None else [python_lines, native]


@pytest.fixture(params=lines_there_are(), ids=lambda each: each.__name__)
def lines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture's lines are made by each of those who can."""
    monkeypatch.setattr(module, "scan_lines", request.param)


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_exact(lines: None, name: str, level: int) -> None:
    picture = random_picture(level, 37, 11, 4 * 37 + 5, name)
    assert read_png(file_of(png(picture, level))) == expected(picture)


@given(
    st.integers(0, 1 << 32), st.integers(1, 40), st.integers(1, 12), st.integers(0, 9), st.sampled_from(FORMATS),
    st.sampled_from([0, 1]),
)  # fmt: skip
def test_every_size_and_stride_is_exact(seed: int, width: int, height: int, more: int, name: str, level: int) -> None:
    picture = random_picture(seed, width, height, 4 * width + more, name)
    wanted = expected(picture)
    assert read_png(file_of(png(picture, level))) == wanted
    assert colours(picture) == wanted.rgb
    for each in lines_there_are():
        found = bytearray((5 + 1 + 3 * width) * height)
        each(picture, found, 1)
        assert b"".join(found[at + 6 : at + 6 + 3 * width] for at in range(0, len(found), 6 + 3 * width)) == wanted.rgb


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 16384), (16384, 2), (641, 479), (7, 3000)])
def test_several_blocks_and_bands_are_one_picture(lines: None, width: int, height: int, level: int) -> None:
    picture = random_picture(1, width, height, 4 * width, "XB24")
    rgb = bytearray(3 * width * height)
    for colour in range(3):
        rgb[colour::3] = bytes(picture.pixels)[colour::4]
    assert read_png(file_of(png(picture, level))).rgb == rgb


@pytest.mark.parametrize("byte", [0x00, 0x01, 0xFE, 0xFF])
def test_sums_are_right_where_they_are_largest(lines: None, byte: int) -> None:
    for width in (1, 5, 1850, 1851, 16384):
        picture = Picture(width, 40, 4 * width, XR24, bytes([byte]) * (160 * width))
        assert read_png(file_of(png(picture))).rgb == bytes([byte]) * (120 * width)


def test_a_wrong_colour_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: red and blue are exchanged."""
    red, green, blue, alpha = ORDERS[XR24]
    monkeypatch.setitem(ORDERS, XR24, Order(blue, green, red, alpha))
    picture = random_picture(1, 3, 3, 12)
    assert read_png(file_of(png(picture))) != expected(picture)


@pytest.mark.parametrize(
    ("width", "height", "stride", "room", "most"),
    [(0, 1, 4, 99, 1), (2, 1, 7, 99, 1), (2, 2, 8, 23, 1), (2, 2, 8, 24, 0), (2, 3, 8, 99, 1), (1 << 40, 1, 8, 99, 1),
     (2, 1 << 40, 8, 99, 1), (2, 2, 1 << 60, 99, 1), (-1, -1, -1, 99, 1)],
)  # fmt: skip
def test_native_lines_touch_nothing_outside(width: int, height: int, stride: int, room: int, most: int) -> None:
    make = native_lines()
    if make is None:
        pytest.skip("the native loop is not built")
    with pytest.raises((ValueError, OverflowError)):
        make(Picture(width, height, stride, XR24, bytes(16)), bytearray(room), most)


# --- the pointer ------------------------------------------------------------------------------------------------


def solid(width: int, height: int, pixel: bytes, form: int = XR24) -> Picture:
    return Picture(width, height, 4 * width, form, bytearray(pixel * (width * height)))


@given(st.integers(-9, 12), st.integers(-9, 9), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=50)
def test_a_pointer_covers_what_is_below_its_hot_spot_and_nothing_else(x: int, y: int, hot_x: int, hot_y: int) -> None:
    picture = solid(9, 7, b"\1\2\3\4")
    draw(picture, Pointer(solid(4, 3, b"\x10\x20\x30\xff", AR24), x, y, hot_x, hot_y))
    left, top = x - hot_x, y - hot_y
    for at in range(9 * 7):
        column, line = at % 9, at // 9
        inside = left <= column < left + 4 and top <= line < top + 3
        assert bytes(picture.pixels[4 * at : 4 * at + 4]) == (b"\x10\x20\x30\x04" if inside else b"\1\2\3\4")


def test_a_pointer_is_blended_and_its_format_need_not_be_the_pictures() -> None:
    picture = solid(3, 1, bytes((100, 200, 40, 0)))
    image = Picture(3, 1, 12, int.from_bytes(b"RA24", "little"), bytes((0, 0, 0, 0, 128, 10, 20, 30, 255, 1, 2, 3)))
    draw(picture, Pointer(image, 0, 0))
    half = [10 + round(100 * 127 / 255), 20 + round(200 * 127 / 255), 30 + round(40 * 127 / 255)]
    assert list(picture.pixels) == [100, 200, 40, 0, *half, 0, 1, 2, 3, 0]


def test_a_pointer_without_alpha_covers() -> None:
    picture = solid(1, 1, b"\1\2\3\4")
    draw(picture, Pointer(solid(1, 1, b"\5\6\7\0"), 0, 0))
    assert bytes(picture.pixels) == b"\5\6\7\4"


def test_the_pointer_is_in_the_file_when_it_is_asked_for() -> None:
    picture = replace(solid(2, 1, b"\1\2\3\4"), pointer=Pointer(solid(1, 1, b"\5\6\7\xff"), 1, 0))
    assert read_png(file_of(encoded(picture, 0, pointer=False))).rgb == b"\3\2\1\3\2\1"
    assert read_png(file_of(encoded(picture, 0, pointer=True))).rgb == b"\3\2\1\7\6\5"


# --- files ------------------------------------------------------------------------------------------------------


def test_a_host_that_lies_about_what_it_copied_is_refused() -> None:
    good = CopiedImage(0, 2, 2, 8, XR24)
    for wrong in (CopiedImage(1 << 40, 2, 2, 8, XR24), CopiedImage(0, 1 << 20, 2, 8, XR24), CopiedImage(0, 2, 2, 8, 7)):
        with PictureFiles().file(None) as file:
            assert file.picture(CopiedPicture(good)).size == 16
            with pytest.raises(DriverError):
                file.picture(CopiedPicture(wrong))
            with pytest.raises(DriverError):
                file.picture(CopiedPicture(good, CopiedPointer(wrong, 0, 0, 0, 0)))


def test_one_file_is_kept_and_no_large_one() -> None:
    files = PictureFiles()
    with files.file(None) as first, files.file(None) as second:
        assert first is not second
    with files.file(None) as again, files.file(None):
        assert again in {first, second}
        again._map[: 17 << 20] = Random(1).randbytes(17 << 20)
    with files.file(None) as small:
        assert small is not again


def test_a_file_is_of_one_host_and_kept_only_when_nobody_writes_into_it_any_more() -> None:
    files, one, other = PictureFiles(), object(), object()
    with files.file(one) as first:
        pass
    with files.file(one) as again:
        assert again is first
    with files.file(other) as others:
        assert others is not first
    with pytest.raises(TimeoutError), files.file(other) as late:
        raise TimeoutError
    with files.file(other) as fresh:
        assert fresh is not late
