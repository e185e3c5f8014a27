"""What a test sees on a device's screen."""

from dataclasses import dataclass, replace

from mdev_user.daemon.screenshots import colours, draw
from mdev_user.vfio.screens import Picture


@dataclass(frozen=True)
class Screenshot:
    """The picture of a head: ``rgb`` are red, green and blue of each pixel, line by line."""

    width: int
    height: int
    rgb: bytes

    def pixel(self, x: int, y: int) -> tuple[int, int, int]:
        """Red, green and blue, 0 to 255 each."""
        at = 3 * (y * self.width + x)
        red, green, blue = self.rgb[at : at + 3]
        return red, green, blue


def screenshot_of(picture: Picture, *, pointer: bool) -> Screenshot:
    """The picture as it is now; the device's own is left alone."""
    above = picture.pointer if pointer else None
    if above is not None:
        picture = replace(picture, pixels=bytearray(picture.pixels[: picture.size]))
        draw(picture, above)
    return Screenshot(picture.width, picture.height, colours(picture))
