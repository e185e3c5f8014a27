"""What is on a device's heads, as tools and viewers see it: pictures of pixels, with the pointer on top.

A *head* is what a monitor would be plugged into. The formats are those of ``drm_fourcc.h`` with four bytes a pixel;
with them a device says all that virtio-gpu has (virtio 1.2, section 5.7.6.8).
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mdev_user.errors import DriverError, InvalidValue, NotSupported
from mdev_user.units import MiB
from mdev_user.vfio.planes import XR24


def _fourcc(name: str) -> int:
    return int.from_bytes(name.encode(), "little")


AR24 = _fourcc("AR24")
"""DRM_FORMAT_ARGB8888, as XR24 (blue, green, red, and nothing) with alpha."""
XB24, AB24 = _fourcc("XB24"), _fourcc("AB24")
"""DRM_FORMAT_XBGR8888 and ABGR8888; in memory red, green, blue, and nothing or alpha."""
RX24, RA24 = _fourcc("RX24"), _fourcc("RA24")
"""DRM_FORMAT_RGBX8888 and RGBA8888; in memory nothing or alpha, and blue, green, red."""
BX24, BA24 = _fourcc("BX24"), _fourcc("BA24")
"""DRM_FORMAT_BGRX8888 and BGRA8888; in memory nothing or alpha, and red, green, blue."""

PIXEL = 4
"""Bytes of a pixel."""
MOST_BYTES = 64 * MiB
"""Of a picture; it is copied while its guest waits."""
MOST_SIDE = 16384
"""Pixels of a picture in either direction, as most display servers have it."""
MOST_POINTER, MOST_POINTER_BYTES = 512, 4 * MiB
"""Pixels of a pointer in either direction, and bytes; guests' have 64, and 256 where the screen is a large one."""


class Order(NamedTuple):
    """Where the bytes of a pixel are. ``alpha`` is None where the format has none."""

    red: int
    green: int
    blue: int
    alpha: int | None


ORDERS = {
    XR24: Order(2, 1, 0, None),
    AR24: Order(2, 1, 0, 3),
    XB24: Order(0, 1, 2, None),
    AB24: Order(0, 1, 2, 3),
    RX24: Order(3, 2, 1, None),
    RA24: Order(3, 2, 1, 0),
    BX24: Order(1, 2, 3, None),
    BA24: Order(1, 2, 3, 0),
}
"""By format."""


@dataclass(frozen=True, slots=True)
class Picture:
    """``height`` lines of ``width`` pixels; from one line to the next it is ``stride`` bytes.

    ``pixels`` are at least ``stride * (height - 1) + 4 * width`` bytes, and valid during the step only in which the
    picture was asked for. A pixel has four, which its ``format`` names in the order of a number's digits, so that they
    lie in memory the other way round: XR24 and AR24 blue, green, red, and nothing or alpha; XB24 and AB24 red, green,
    blue, and that; RX24 and RA24 first that, then blue, green, red; BX24 and BA24 first that, then red, green, blue.
    Alpha counts in a pointer, where it is premultiplied, as DRM has it.
    """

    width: int
    height: int
    stride: int
    format: int
    pixels: memoryview | bytes | bytearray
    pointer: "Pointer | None" = None

    @property
    def size(self) -> int:
        """How many of the bytes belong to it."""
        return self.stride * (self.height - 1) + PIXEL * self.width


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a mouse moves, on top of the picture: its hot spot, ``hot_x`` and ``hot_y`` in its image, is at x, y."""

    image: Picture
    x: int
    y: int
    hot_x: int = 0
    hot_y: int = 0


class Screens(Protocol):
    """What has heads."""

    @property
    def heads(self) -> int: ...

    @property
    def tells_damage(self) -> bool: ...

    def picture(self, head: int) -> Picture | None: ...


class NoScreens:
    """The heads of a device without any."""

    heads = 0
    tells_damage = False

    def picture(self, head: int) -> Picture | None:
        raise NotSupported(f"there is no head {head}")


def check_head(screens: Screens, head: int) -> None:
    """NotSupported without a screen, InvalidValue for a head that is not there."""
    heads = screens.heads
    if not heads:
        raise NotSupported("the device has no screen")
    if not 0 <= head < heads:
        raise InvalidValue(f"head {head}: expected 0" + (f" to {heads - 1}" if heads > 1 else ", the only one"))


def shown(screens: Screens, head: int) -> Picture | None:
    """What is on a head; None for nothing. A part of a step. DriverError for a picture that is none."""
    picture = screens.picture(head)
    if picture is not None:
        check(picture)
        if picture.pointer is not None:
            check(picture.pointer.image, MOST_POINTER, MOST_POINTER_BYTES)
    return picture


def check(picture: Picture, most: int = MOST_SIDE, most_bytes: int = MOST_BYTES) -> None:
    """DriverError for what is no picture of up to ``most`` pixels in either direction, and so many bytes."""
    width, height, stride = picture.width, picture.height, picture.stride
    if not (0 < width <= most and 0 < height <= most):
        raise DriverError(f"a picture of {width}x{height} pixels: expected 1x1 to {most}x{most}")
    if stride < PIXEL * width:
        raise DriverError(f"a picture {width} pixels wide with a stride of {stride}: expected {PIXEL * width} or more")
    if picture.size > most_bytes:
        raise DriverError(f"a picture of {picture.size} bytes: expected at most {most_bytes}")
    if picture.format not in ORDERS:
        raise DriverError(f"a picture in the format {picture.format:#010x}: expected one of 8 bits a colour, XR24 ...")
    if picture.size > len(picture.pixels):
        raise DriverError(f"a picture of {picture.size} bytes: expected as many pixels, given {len(picture.pixels)}")
