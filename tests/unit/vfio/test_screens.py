"""What is no picture is told to whoever asks, and never read."""

from dataclasses import replace
from typing import Any

import pytest

from mdev_user.errors import DriverError, InvalidValue, NotSupported
from mdev_user.vfio import screens
from mdev_user.vfio.planes import XR24
from mdev_user.vfio.screens import MOST_BYTES, MOST_SIDE, NoScreens, Picture, Pointer, check_head, shown

GOOD = Picture(3, 2, 16, XR24, bytes(28))


class One:
    """A device with so many heads that all show the same."""

    tells_damage = False

    def __init__(self, picture: Picture | None, heads: int = 1) -> None:
        self.heads, self._picture = heads, picture

    def picture(self, head: int) -> Picture | None:
        return self._picture


def test_a_picture_is_as_the_device_gives_it() -> None:
    assert shown(One(GOOD), 0) is GOOD
    assert shown(One(None), 0) is None
    assert GOOD.size == 28


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"height": -1},
        {"width": MOST_SIDE + 1, "stride": 4 * MOST_SIDE + 4},
        {"stride": 11},
        {"stride": 17},
        {"format": 0},
        {"pixels": bytes(27)},
        {"height": 2 + MOST_BYTES // 16},
    ],
)
def test_what_is_no_picture_is_an_error_of_the_driver(wrong: dict[str, Any]) -> None:
    bad = replace(GOOD, **wrong)
    with pytest.raises(DriverError, match="expected"):
        shown(One(bad), 0)
    with pytest.raises(DriverError, match="expected"):
        shown(One(replace(GOOD, pointer=Pointer(bad, 0, 0))), 0)


def test_a_pointer_is_small() -> None:
    large = Picture(1024, 1, 4096, XR24, bytes(4096))
    assert shown(One(large), 0) is large
    with pytest.raises(DriverError, match="512x512"):
        shown(One(replace(GOOD, pointer=Pointer(large, 0, 0))), 0)


@pytest.mark.parametrize(("heads", "head", "text"), [(1, 1, "the only one"), (4, 4, "0 to 3"), (4, -1, "0 to 3")])
def test_a_head_that_is_not_there_is_named(heads: int, head: int, text: str) -> None:
    with pytest.raises(InvalidValue, match=f"head {head}: expected .*{text}"):
        check_head(One(GOOD, heads), head)


def test_no_screen_is_told_as_that() -> None:
    with pytest.raises(NotSupported, match="no screen"):
        check_head(NoScreens(), 0)
    with pytest.raises(NotSupported):
        NoScreens().picture(0)


def test_every_format_of_virtio_gpu_is_there() -> None:
    names = {format_.to_bytes(4, "little").decode(): order for format_, order in screens.ORDERS.items()}
    virtio = {"AR24": "BGRA", "XR24": "BGRX", "BA24": "ARGB", "BX24": "XRGB", "AB24": "RGBA", "RX24": "XBGR"}
    for name, places in {**virtio, "RA24": "ABGR", "XB24": "RGBX"}.items():
        alpha = None if "X" in places else places.index("A")
        assert names[name] == (places.index("R"), places.index("G"), places.index("B"), alpha)
