"""EDID: what a monitor says of itself (VESA E-EDID 1.4), for a device that has one connected."""

from collections.abc import Iterator
from functools import cache

from mdev_user.errors import DriverError

BLOCK = 128
"""Bytes of an EDID that is one block."""
_LARGEST = 4095
"""Pixels of a detailed timing, either way: there are 12 bits."""
_FASTEST = 0xFFFF
"""The pixel clock, in units of 10 kHz."""
_VENDOR = "MDU"
_STANDARD = (
    (1920, 1200, 0), (1920, 1080, 3), (1680, 1050, 0), (1600, 1200, 1), (1440, 900, 0), (1280, 1024, 2), (1280, 720, 3),
)  # fmt: skip
"""Further sizes at 60 Hz, with the code of their aspect ratio (section 3.9)."""
_STANDARD_TIMINGS = 8


def edid_of(width: int, height: int, name: str) -> bytes:
    """The EDID of a monitor of ``width`` times ``height`` pixels at 60 Hz, which it prefers; 128 bytes.

    Usual smaller sizes are offered too. ``name``, at most 13 letters, is what a desktop calls it. DriverError for a
    size that no detailed timing has (more than 4095 pixels each way, or than 655 MHz).
    """
    if not (0 < width <= _LARGEST and 0 < height <= _LARGEST and _clock(width, height) <= _FASTEST):
        raise DriverError(
            f"EDID: expected 1 to {_LARGEST} pixels each way, at 60 Hz no more than {_FASTEST // 100} MHz, "
            f"given {width}x{height}"
        )
    return _edid(width, height, name)


@cache  # a guest reads it piece by piece
def _edid(width: int, height: int, name: str) -> bytes:
    vendor = sum(ord(letter) - ord("@") << 5 * place for place, letter in enumerate(reversed(_VENDOR)))
    block = b"".join((
        b"\x00\xff\xff\xff\xff\xff\xff\x00", vendor.to_bytes(2, "big"), bytes(6), b"\x00\x24\x01\x04",
        b"\xa0\x00\x00\x78\x06",  # digital, 8 bits a colour; no size in centimetres; gamma 2.2; sRGB
        b"\xee\x91\xa3\x54\x4c\x99\x26\x0f\x50\x54", _established(width, height), _standard(width, height),
        _timing(width, height), b"\x00\x00\x00\xfc\x00" + _text(name), 2 * (b"\x00\x00\x00\x10" + bytes(14)),
        b"\x00",
    ))  # fmt: skip
    return block + bytes((-sum(block) % 256,))


def _text(name: str) -> bytes:
    """13 bytes, of which a line feed ends those that are used."""
    return name.encode("ascii", "replace")[:13].ljust(13, b" ") if len(name) > 12 else f"{name}\n".ljust(13).encode()


def _established(width: int, height: int) -> bytes:
    """640x480 and 800x600, and 1024x768 where it fits."""
    return bytes((0x21, 0x08 if width >= 1024 and height >= 768 else 0x00, 0x00))


def _standard(width: int, height: int) -> bytes:
    fitting = [code for each in _STANDARD for code in _smaller(each, width, height)]
    return bytes(fitting).ljust(2 * _STANDARD_TIMINGS, b"\x01")


def _smaller(standard: tuple[int, int, int], width: int, height: int) -> Iterator[int]:
    x, y, aspect = standard
    if x <= width and y <= height and (x, y) != (width, height):
        yield from (x // 8 - 31, aspect << 6)


def _timing(width: int, height: int) -> bytes:
    """18 bytes (section 3.10.2): blanking of 160 pixels (48 before a sync of 32) and of 30 lines (3 before 6)."""
    return _clock(width, height).to_bytes(2, "little") + bytes((
        width & 255, 160, width >> 8 << 4, height & 255, 30, height >> 8 << 4, 48, 32, 0x36, 0, 0, 0, 0, 0, 0, 0x1A,
    ))  # fmt: skip


def _clock(width: int, height: int) -> int:
    return (width + 160) * (height + 30) * 60 // 10_000
