"""Screenshots: a host copies the picture of a head into a file of ours, and it becomes a PNG here.

The file has its size for good, so that no host can take away what is mapped here.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mdev_user.daemon.png import Png, line_room, png, scan_lines
from mdev_user.host.wire import CopiedImage, CopiedPicture
from mdev_user.units import MiB
from mdev_user.vfio.screens import (
    MOST_BYTES,
    MOST_POINTER,
    MOST_POINTER_BYTES,
    ORDERS,
    PIXEL,
    Picture,
    Pointer,
    check,
)

_SIZE = MOST_BYTES + MOST_POINTER_BYTES
"""Bytes that can be addressed; memory is only taken for those that were written."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


_KEPT = 16 * MiB
"""Bytes of a picture whose memory is kept for the next one: to take new memory doubles the time that a guest waits."""


class PictureFile:
    """A file in memory for one picture at a time."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("screenshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, _SIZE)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        self._map = mmap.mmap(self.fd, _SIZE)

    @property
    def memory(self) -> int:
        """Bytes that it takes."""
        return os.fstat(self.fd).st_blocks * 512

    def picture(self, copied: CopiedPicture) -> Picture:
        """What a host says that it has copied; DriverError for what is no picture. Valid until the next one."""
        image = self._image(copied.image)
        check(image)
        if copied.pointer is None:
            return image
        given = copied.pointer
        pointer = Pointer(self._image(given.image), given.x, given.y, given.hot_x, given.hot_y)
        check(pointer.image, MOST_POINTER, MOST_POINTER_BYTES)
        return Picture(image.width, image.height, image.stride, image.format, image.pixels, pointer)

    def _image(self, image: CopiedImage) -> Picture:
        pixels = memoryview(self._map)[max(image.at, 0) :]
        return Picture(image.width, image.height, image.stride, image.format, pixels)

    def close(self) -> None:
        """The map goes with the last view of it."""
        os.close(self.fd)


class PictureFiles:
    """The files of those who take screenshots, one of which is kept."""

    def __init__(self) -> None:
        self._kept: list[tuple[object, PictureFile]] = []

    @contextmanager
    def file(self, host: object) -> Iterator[PictureFile]:
        """For one picture of this host's, which may have the file open from then on: no other host gets it."""
        file = self._free(host)
        try:
            yield file
        except BaseException:  # whoever was asked may still write into it
            file.close()
            raise
        if self._kept or file.memory > _KEPT:
            file.close()
        else:
            self._kept.append((host, file))

    def _free(self, host: object) -> PictureFile:
        with suppress(IndexError):
            whose, file = self._kept.pop()
            if whose is host:
                return file
            file.close()
        return PictureFile()


def encoded(picture: Picture, level: int, *, pointer: bool) -> Png:
    """The picture as PNG; with ``pointer`` the pointer is drawn into its pixels first, if there is one."""
    if pointer and picture.pointer is not None:
        draw(picture, picture.pointer)
    return png(picture, level)


def colours(picture: Picture) -> bytes:
    """Red, green and blue of each pixel, line by line."""
    lines = bytearray(line_room(picture) * picture.height)
    scan_lines(picture, lines, 1)
    size = 3 * picture.width
    ends = range(line_room(picture), len(lines) + 1, line_room(picture))
    return b"".join(lines[end - size : end] for end in ends)


def draw(picture: Picture, pointer: Pointer) -> None:
    """Draw the pointer on top of the picture: its colours are premultiplied, and what is outside is left out."""
    image = pointer.image
    left, top = pointer.x - pointer.hot_x, pointer.y - pointer.hot_y
    columns = range(max(0, -left), min(image.width, picture.width - left))
    to, source = memoryview(picture.pixels), memoryview(image.pixels)
    for y in range(max(0, -top), min(image.height, picture.height - top)):
        for x in columns:
            at, under = y * image.stride + PIXEL * x, (top + y) * picture.stride + PIXEL * (left + x)
            _blend(to[under : under + PIXEL], picture.format, source[at : at + PIXEL], image.format)


def _blend(under: memoryview, under_format: int, pixel: memoryview, pixel_format: int) -> None:
    """One pixel on top of another."""
    to, order = ORDERS[under_format], ORDERS[pixel_format]
    alpha = 255 if order.alpha is None else pixel[order.alpha]
    for place, colour in ((to.red, order.red), (to.green, order.green), (to.blue, order.blue)):
        under[place] = min(255, pixel[colour] + (under[place] * (255 - alpha) + 127) // 255)
