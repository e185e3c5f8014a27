"""Bytes of which a guest may write some bits: what config space and the MSI-X table have in common.

An access rule is data, not code: four byte strings of one length say what each bit is after a reset, whether a
guest's write stores it, whether writing 1 clears it, and whether the device itself moves it. Every access, of any
size and alignment, is then the same integer expression, so a wide access cannot differ from its parts.
"""

from dataclasses import dataclass
from typing import TypeAlias

from mdev_user.errors import DriverError, GuestError, OutOfRange

Bytes: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Image:
    """Compiled bytes: reset values, and for each bit who may change it (all of one length)."""

    values: bytes
    writable: bytes
    w1c: bytes
    live: bytes
    """Bits that only the device changes (pending bits, interrupt status): a saved state may differ in them."""

    def repeated(self, times: int) -> "Image":
        """The image of ``times`` equal entries, one behind the other."""
        return Image(self.values * times, self.writable * times, self.w1c * times, self.live * times)


class ImageBuilder:
    """Draws little-endian fields into an image; a field drawn over another one is the author's mistake."""

    __slots__ = ("_live", "_taken", "_values", "_w1c", "_writable")

    def __init__(self, size: int) -> None:
        self._values, self._writable, self._w1c, self._live, self._taken = (bytearray(size) for _ in range(5))

    def field(self, offset: int, size: int, value: int, *, writable: int = 0, w1c: int = 0, live: int = 0) -> None:
        """Draw ``size`` bytes at ``offset``."""
        parts = (part.to_bytes(size, "little") for part in (value, writable, w1c, live))
        self.place(offset, Image(*parts))

    def place(self, offset: int, image: Image) -> None:
        """Draw a finished image at ``offset``."""
        end = self._take(offset, len(image.values), shared=range(0))
        self._values[offset:end] = image.values
        self._writable[offset:end] = image.writable
        self._w1c[offset:end] = image.w1c
        self._live[offset:end] = image.live

    def preset(self, offset: int, data: bytes, shared: range) -> None:
        """Add reset values to bytes that no field has taken, or that lie in ``shared``; the masks stay."""
        self._take(offset, len(data), shared)
        for position, byte in enumerate(data, offset):
            self._values[position] |= byte

    def _take(self, offset: int, size: int, shared: range) -> int:
        end = offset + size
        if offset < 0 or end > len(self._values):
            message = f"bytes {offset:#x} to {end - 1:#x} do not fit in {len(self._values):#x} bytes"
            raise DriverError(message)
        twice = [offset + at for at, taken in enumerate(self._taken[offset:end]) if taken]
        if any(position not in shared for position in twice):
            message = f"byte {twice[0]:#x} is declared twice"
            raise DriverError(message)
        self._taken[offset:end] = b"\1" * size
        return end

    def image(self) -> Image:
        return Image(bytes(self._values), bytes(self._writable), bytes(self._w1c), bytes(self._live))


class MaskedBytes:
    """An image in use: read by everybody, written by a guest as far as its masks allow."""

    __slots__ = ("_image", "_size", "_values")

    def __init__(self, image: Image) -> None:
        self._image = image
        self._size = len(image.values)
        self._values = bytearray(image.values)

    def __len__(self) -> int:
        return self._size

    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes at ``offset``, any alignment. Raises OutOfRange (EFAULT) beyond the end."""
        end = offset + count
        if offset < 0 or count < 0 or end > self._size:
            raise self._out_of_range(offset, count)
        return bytes(self._values[offset:end])

    def store(self, offset: int, data: Bytes) -> int:
        """A guest's write; returns the changed bits, bit 0 being bit 0 of the byte at ``offset``.

        Raises OutOfRange (EFAULT) beyond the end, and then nothing is written.
        """
        count = len(data)
        end = offset + count
        if offset < 0 or end > self._size:
            raise self._out_of_range(offset, count)
        image = self._image
        old = int.from_bytes(self._values[offset:end], "little")
        given = int.from_bytes(data, "little")
        writable = int.from_bytes(image.writable[offset:end], "little")
        w1c = int.from_bytes(image.w1c[offset:end], "little")
        new = ((old & ~writable) | (given & writable)) & ~(given & w1c)
        self._values[offset:end] = new.to_bytes(count, "little")
        return old ^ new

    def reset(self) -> None:
        """Every bit as after power-on."""
        self._values[:] = self._image.values

    def load_values(self, values: bytes) -> None:
        """Take over saved bytes; GuestError (EINVAL) when they are not of this declaration.

        A saved state comes from somebody else: a bit that nobody can change must have its declared value.
        """
        if len(values) != self._size:
            message = f"saved bytes: expected {self._size}, given {len(values)}; was it saved by another device?"
            raise GuestError(message)
        image = self._image
        moving = _number(image.writable) | _number(image.w1c) | _number(image.live)
        foreign = (_number(values) ^ _number(image.values)) & ~moving
        if foreign:
            offset = ((foreign & -foreign).bit_length() - 1) // 8
            message = (
                f"saved byte {offset:#x}: expected {image.values[offset]:#04x} in its read-only bits, "
                f"given {values[offset]:#04x}; load it into the device type that saved it"
            )
            raise GuestError(message)
        self._values[:] = values

    def _out_of_range(self, offset: int, count: int) -> OutOfRange:
        return OutOfRange(f"access of {count} bytes at {offset:#x}: the region has {self._size:#x} bytes")


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
