"""Windows: what answers the accesses to each region of a device."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mdev_user.errors import OutOfRange
from mdev_user.pci import interrupts
from mdev_user.regs.space import RegisterSpace
from mdev_user.vfio.requests import Area


class Window(Protocol):
    """A region as accesses see it; any size and alignment, OutOfRange (EFAULT) beyond its end."""

    def read(self, offset: int, count: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...


OwnPart = interrupts.Window
"""A part of a bar that answers for itself: the MSI-X table and its pending bits, or memory."""

Read = Callable[[int, int], bytes]
Write = Callable[[int, bytes], None]


class Reads(dict[int, Read]):
    """The read of each region, by its index; of one that is not there, OutOfRange."""

    def __missing__(self, region: int) -> Read:
        raise _absent(region, self)


class Writes(dict[int, Write]):
    """As `Reads`."""

    def __missing__(self, region: int) -> Write:
        raise _absent(region, self)


def _absent(region: int, regions: Mapping[int, object]) -> OutOfRange:
    return OutOfRange(f"region {region}: the function has the regions {', '.join(map(str, sorted(regions)))}")


class ConfigWindow:
    """The region of the config space."""

    def __init__(self, read: Read, write: Write) -> None:
        self.read, self.write = read, write


class MixedWindow:
    """A bar with mapped pages, or parts that the function answers for itself, and registers beside them.

    An access that crosses from one into the other is split there.
    """

    def __init__(self, size: int, parts: Sequence[OwnPart], registers: RegisterSpace | None) -> None:
        """``parts`` do not overlap; bytes of neither read as zero."""
        self._size = size
        self._parts = sorted(parts, key=lambda part: part.offset)
        self._registers = registers

    def read(self, offset: int, count: int) -> bytes:
        return b"".join(
            part.read(start - part.offset, length) if part else self._read_beside(start, length)
            for start, length, part in self._split(offset, count)
        )

    def write(self, offset: int, data: bytes) -> None:
        for start, length, part in self._split(offset, len(data)):
            piece = data[start - offset : start - offset + length]
            if part:
                part.write(start - part.offset, piece)
            elif self._registers:
                self._registers.write(start, piece)

    def _read_beside(self, offset: int, count: int) -> bytes:
        return self._registers.read(offset, count) if self._registers else bytes(count)

    def _split(self, offset: int, count: int) -> list[tuple[int, int, OwnPart | None]]:
        """The access in pieces: start, length and the part that answers."""
        end = offset + count
        if offset < 0 or end > self._size:
            raise OutOfRange(f"access of {count} bytes at {offset:#x}: the bar has {self._size:#x} bytes")
        pieces: list[tuple[int, int, OwnPart | None]] = []
        for part in self._parts:
            start, stop = max(offset, part.offset), min(end, part.offset + part.size)
            if start < stop:
                if offset < start:
                    pieces.append((offset, start - offset, None))
                pieces.append((start, stop - start, part))
                offset = stop
        if offset < end:
            pieces.append((offset, end - offset, None))
        return pieces


def memory_part(bar: int, area: Area, memory: Callable[[], memoryview]) -> OwnPart:
    """A mapped part of a bar, for users who access it by messages. ``memory`` gives the bytes of the open device."""

    def read(offset: int, count: int) -> bytes:
        return bytes(memory()[offset : offset + count])

    def write(offset: int, data: bytes | bytearray | memoryview) -> None:
        memory()[offset : offset + len(data)] = data

    return OwnPart(bar, area.offset, area.size, read, write)
