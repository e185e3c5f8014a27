"""A PNG as a reader of the specification sees it, and pictures to compare it with."""

import zlib
from dataclasses import dataclass
from random import Random
from struct import unpack

from mdev_user.vfio.screens import PIXEL, Picture

PLACES = {
    "XR24": "BGRX", "AR24": "BGRA", "XB24": "RGBX", "AB24": "RGBA", "RX24": "XBGR", "RA24": "ABGR", "BX24": "XRGB",
    "BA24": "ARGB",
}  # fmt: skip
"""What the bytes of a pixel are in memory, by the name of the format: drm_fourcc.h, and virtio 1.2, section 5.7.6.8."""


@dataclass(frozen=True)
class Png:
    """``rgb`` are the pixels, line by line."""

    width: int
    height: int
    rgb: bytes


def read_png(data: bytes) -> Png:
    """Every sum and size is checked; lines must not be filtered."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = [], 8
    while at < len(data):
        size, kind = unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        assert len(body) == size
        assert unpack(">I", data[at + 8 + size : at + 12 + size]) == (zlib.crc32(kind + body),)
        chunks.append((kind, body))
        at += 12 + size
    assert at == len(data)
    assert [kind for kind, _body in chunks] == [b"IHDR", *[b"IDAT"] * (len(chunks) - 2), b"IEND"]
    width, height, *rest = unpack(">IIBBBBB", chunks[0][1])
    assert rest == [8, 2, 0, 0, 0]
    lines = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    pitch = 1 + 3 * width
    assert len(lines) == pitch * height
    assert not any(lines[::pitch]), "a line is filtered"
    return Png(width, height, b"".join(lines[y * pitch + 1 : (y + 1) * pitch] for y in range(height)))


def expected(picture: Picture) -> Png:
    """Pixel by pixel, as the format's name says."""
    places = PLACES[picture.format.to_bytes(4, "little").decode()]
    pixels, rgb = bytes(picture.pixels), bytearray()
    for y in range(picture.height):
        for x in range(picture.width):
            at = y * picture.stride + PIXEL * x
            rgb += bytes(pixels[at + places.index(colour)] for colour in "RGB")
    return Png(picture.width, picture.height, bytes(rgb))


def random_picture(seed: int, width: int, height: int, stride: int, name: str = "XR24") -> Picture:
    size = stride * (height - 1) + PIXEL * width
    return Picture(width, height, stride, int.from_bytes(name.encode(), "little"), Random(seed).randbytes(size))
