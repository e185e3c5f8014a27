"""Pictures as PNG (W3C, second edition): 8 bits each of red, green and blue, no filter, compressed as much as one asks.

Level 0 only stores, which is ten times as fast as the fastest compression: a screenshot takes milliseconds then, most
of them for the two sums over all of the file. So the picture is done in *bands* that stay in a processor's cache while
they are converted and summed up, on two processors if there are.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from struct import Struct, pack
from zlib import adler32, compressobj, crc32

from mdev_user.vfio.screens import ORDERS, PIXEL, Picture

LEVELS = range(10)
"""Those of zlib."""
Bytes = bytes | bytearray | memoryview
Room = bytearray | memoryview

_COLOURS = 3
"""Bytes of a pixel in the file."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB = pack(">BBBBB", 8, 2, 0, 0, 0)
"""Bits and kind of colour, and the only methods that there are."""
_STREAM = b"\x78\x01"
"""What a zlib stream begins with: deflate, 32 KiB of window, the fastest level."""
_BLOCK = Struct("<BHH")
"""What a stored block begins with (RFC 1951, section 3.2.4): whether it is the last, its size, and that inverted."""
_LARGEST_BLOCK = 0xFFFF
_SUM = Struct(">I")
_CHUNK = 12
"""Bytes of a chunk beside its data."""
_BAND = 4
"""Blocks, of as many lines as fit into one."""
_AHEAD = 3
"""Bands whose memory is used again and again: to take new memory for a picture costs as much as its sums."""
_ADLER = 65521

_bands = ThreadPoolExecutor(2, "png")


@dataclass(frozen=True, slots=True)
class Png:
    """A file that is made while its pieces are taken; what is stored, on two processors and a little ahead."""

    size: int
    pieces: Iterator[Bytes]
    """Each is valid until the next one is taken."""


def png(picture: Picture, level: int = 0) -> Png:
    """The picture's pointer is not drawn, and its alpha left out."""
    most = _LARGEST_BLOCK // _pitch(picture)
    bands = [_part(picture, first, most * _BAND) for first in range(0, picture.height, most * _BAND)]
    head = [_SIGNATURE, *_chunk(b"IHDR", pack(">II", picture.width, picture.height) + _RGB)]
    end = list(_chunk(b"IEND", b""))
    if level:
        data = list(_compressed(bands, level))
        return Png(sum(map(len, (*head, *data, *end))), chain(head, data, end))
    around = sum(map(len, (*head, *end))) + len(_STREAM) + _SUM.size + _CHUNK * (len(bands) + 2)
    blocks = -(-picture.height // most)
    return Png(around + _BLOCK.size * blocks + _pitch(picture) * picture.height, chain(head, _stored(bands, most), end))


def line_room(picture: Picture) -> int:
    """Bytes of a block of one line."""
    return _BLOCK.size + _pitch(picture)


def _part(picture: Picture, first: int, lines: int) -> Picture:
    pixels = memoryview(picture.pixels)[first * picture.stride :]
    return replace(picture, height=min(lines, picture.height - first), pixels=pixels, pointer=None)


def _pitch(picture: Picture) -> int:
    return 1 + _COLOURS * picture.width


# --- stored -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stored:
    """A band in the file. ``adler`` is the sum over its lines, which are ``size`` bytes."""

    chunk: list[Bytes]
    adler: int
    size: int
    room: bytearray
    """In which it is."""


def _stored(bands: Sequence[Picture], most: int) -> Iterator[Bytes]:
    yield from _chunk(b"IDAT", _STREAM)

    def begin(band: Picture, room: bytearray) -> Future[_Stored]:
        return _bands.submit(_stored_band, most, band, room, is_last=band is bands[-1])

    waiting, adler = iter(bands), 1
    made = deque(begin(band, bytearray()) for band in islice(waiting, _AHEAD))
    while made:
        stored = made.popleft().result()
        adler = _both(adler, stored.adler, stored.size)
        yield from stored.chunk
        for band in islice(waiting, 1):
            made.append(begin(band, stored.room))
    yield from _chunk(b"IDAT", _SUM.pack(adler))


def _stored_band(most: int, band: Picture, room: bytearray, *, is_last: bool) -> _Stored:
    """Blocks of up to ``most`` lines, in ``room`` if that is large enough."""
    pitch = _pitch(band)
    sizes = [min(most, band.height - first) * pitch for first in range(0, band.height, most)]
    size = _BLOCK.size * len(sizes) + pitch * band.height
    room = room if len(room) >= size else bytearray(size)
    data = memoryview(room)[:size]
    adler, at = scan_lines(band, data, most), 0
    for number, block in enumerate(sizes, 1):
        _BLOCK.pack_into(data, at, is_last and number == len(sizes), block, block ^ 0xFFFF)
        at += _BLOCK.size + block
    return _Stored(list(_chunk(b"IDAT", data)), adler, pitch * band.height, room)


def _both(first: int, second: int, size: int) -> int:
    """Adler's sum over two pieces, of which the second has ``size`` bytes, of the sum over each (RFC 1950)."""
    low, high = first & 0xFFFF, first >> 16
    both_low = (low + (second & 0xFFFF) - 1) % _ADLER
    return both_low | (high + (second >> 16) + size * (low - 1)) % _ADLER << 16


# --- compressed -------------------------------------------------------------------------------------------------


def _compressed(bands: Iterable[Picture], level: int) -> Iterator[Bytes]:
    compress = compressobj(level)
    for band in bands:
        lines = bytearray(_BLOCK.size + _pitch(band) * band.height)
        scan_lines(band, lines, band.height)
        yield from _chunk(b"IDAT", compress.compress(memoryview(lines)[_BLOCK.size :]))
    yield from _chunk(b"IDAT", compress.flush())


# --- lines ------------------------------------------------------------------------------------------------------


def python_lines(picture: Picture, lines: Room, most: int) -> int:
    """Write each line as PNG has it: a byte that says how it is filtered (not at all), and red, green and blue.

    Before the first line of a block, which has up to ``most`` of them, is left room for what a block begins with.
    Returns Adler's sum over the lines.
    """
    view, stride, pitch = memoryview(picture.pixels), picture.stride, _pitch(picture)
    order, adler, written = ORDERS[picture.format], 1, memoryview(lines)
    for y in range(picture.height):
        line = bytearray(view[y * stride : y * stride + PIXEL * picture.width])
        begin = (y // most + 1) * _BLOCK.size + y * pitch
        lines[begin + 1 : begin + pitch : _COLOURS] = line[order.red :: PIXEL]
        lines[begin + 2 : begin + pitch : _COLOURS] = line[order.green :: PIXEL]
        lines[begin + 3 : begin + pitch : _COLOURS] = line[order.blue :: PIXEL]
        adler = adler32(written[begin : begin + pitch], adler)
    return adler


def native_lines() -> Callable[[Picture, Room, int], int] | None:
    """What does the same without the interpreter's lock, ten times as fast; None where it is not built."""
    try:
        from mdev_user.vfio_user._native import scan_lines as native  # noqa: PLC0415 - it may be absent
    except ImportError:
        return None

    def lines_of(picture: Picture, lines: Room, most: int) -> int:
        red, green, blue, _alpha = ORDERS[picture.format]
        order = red, green, blue
        return native(picture.pixels, picture.stride, picture.width, picture.height, order, lines, most, _BLOCK.size)

    return lines_of


scan_lines = native_lines() or python_lines


def _chunk(kind: bytes, data: Bytes) -> Iterator[Bytes]:
    yield pack(">I", len(data)) + kind
    yield data
    yield pack(">I", crc32(data, crc32(kind)))
