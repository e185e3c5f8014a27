"""A guest's driver for split virtqueues, in memory: what the tests of rings and of virtio devices drive them with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import pack, unpack
from typing import Protocol, Self

from mdev_user.driver.virtio.ring import INDIRECT, NEXT, WRITE, Feature
from mdev_user.testing import Guest

AREA = 0x8000
"""Bytes of one queue's areas."""
DESCRIPTORS, AVAILABLE, USED, TABLES = 0x1000, 0x3000, 0x5000, 0x7000
"""Where its areas are; ``AREA`` further for each queue."""
BUFFERS = 0x40000
FEATURES = Feature.VERSION_1 | Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX


class Bytes(Protocol):
    """Memory by address."""

    def __getitem__(self, place: slice) -> bytes | bytearray: ...
    def __setitem__(self, place: slice, data: bytes) -> None: ...


@dataclass(frozen=True)
class Piece:
    """A buffer as a driver describes it."""

    address: int
    length: int
    flags: int = WRITE


class RingDriver:
    """The driver's side of one queue."""

    def __init__(self, memory: Bytes, size: int, number: int = 0) -> None:
        self.memory, self.size, self.at = memory, size, number * AREA
        self.added = self.seen = 0

    def clear(self) -> None:
        self.added = self.seen = 0
        self.memory[DESCRIPTORS + self.at : TABLES + self.at] = bytes(TABLES - DESCRIPTORS)

    def begin_at(self, index: int) -> None:
        """Both rings have gone on to this index."""
        self.added = self.seen = index
        self._store(AVAILABLE + 2, pack("<H", index))
        self._store(USED + 2, pack("<H", index))

    def describe(self, index: int, address: int, length: int, flags: int = WRITE, following: int = 0) -> Self:
        self._store(DESCRIPTORS + 16 * index, pack("<QIHH", address, length, flags, following))
        return self

    def table(self, entries: Iterable[tuple[int, int, int, int]]) -> Piece:
        """An indirect table, as the buffer that a descriptor names."""
        data = b"".join(pack("<QIHH", *each) for each in entries)
        self._store(TABLES, data)
        return Piece(TABLES + self.at, len(data), INDIRECT)

    def chain(self, indexes: Sequence[int], pieces: Sequence[Piece]) -> Self:
        """Describe a chain by these descriptors."""
        for at, (index, each) in enumerate(zip(indexes, pieces, strict=True)):
            last = at + 1 == len(pieces)
            flags, following = (each.flags, 0) if last else (each.flags | NEXT, indexes[at + 1])
            self.describe(index, each.address, each.length, flags, following)
        return self

    def indirect(self, pieces: Sequence[Piece]) -> Piece:
        """A table of these, in order."""
        last = len(pieces) - 1
        return self.table(
            (each.address, each.length, each.flags if at == last else each.flags | NEXT, (at + 1) % len(pieces))
            for at, each in enumerate(pieces)
        )

    def offer(self, head: int) -> None:
        """Make a chain available, without telling the device."""
        self._store(AVAILABLE + 4 + 2 * (self.added % self.size), pack("<H", head))
        self.added = (self.added + 1) % 0x10000
        self._store(AVAILABLE + 2, pack("<H", self.added))

    def taken(self) -> list[tuple[int, int]]:
        """The chains that came back since the last time: head and bytes."""
        (index,) = unpack("<H", self._load(USED + 2, 2))
        found: list[tuple[int, int]] = []
        while self.seen != index:
            head, length = unpack("<II", self._load(USED + 4 + 8 * (self.seen % self.size), 8))
            found.append((head, length))
            self.seen = (self.seen + 1) % 0x10000
        return found

    def wake_at(self, index: int) -> None:
        """Ask for an interrupt when the chain with this index came back (``used_event``)."""
        self._store(AVAILABLE + 4 + 2 * self.size, pack("<H", index))

    @property
    def notify_at(self) -> int:
        """The index from which on the device wants to be notified (``avail_event``)."""
        (index,) = unpack("<H", self._load(USED + 4 + 8 * self.size, 2))
        return int(index)

    def mute(self) -> None:
        """Ask for no interrupts, without event index."""
        self._store(AVAILABLE, pack("<H", 1))

    def _store(self, address: int, data: bytes) -> None:
        self.memory[address + self.at : address + self.at + len(data)] = data

    def _load(self, address: int, count: int) -> bytes:
        return bytes(self.memory[address + self.at : address + self.at + count])


class VirtioDriver:
    """The driver of a device, whose queues are all of one size."""

    def __init__(self, guest: Guest, size: int = 64, queues: int = 1) -> None:
        self.guest, self.size = guest, size
        self.rings = [RingDriver(guest.memory, size, number) for number in range(queues)]

    def negotiate(self, features: int) -> bool:
        """From the reset to FEATURES_OK (section 3.1.1): whether the device took them."""
        write = self.guest.write_bytes
        for status in (0, 1, 3):
            write(0, 0x14, bytes([status]))
        for half in (0, 1):
            write(0, 0x08, pack("<I", half))
            write(0, 0x0C, pack("<I", features >> 32 * half & 0xFFFF_FFFF))
        write(0, 0x14, bytes([11]))
        return bool(self.status & 8)

    def start(self, features: int = FEATURES, vector: int = 0xFFFF) -> "VirtioDriver":
        write = self.guest.write_bytes
        assert self.negotiate(features)
        write(0, 0x10, pack("<H", 0 if vector != 0xFFFF else vector))
        for number, ring in enumerate(self.rings):
            ring.clear()
            write(0, 0x16, pack("<H", number))
            write(0, 0x18, pack("<H", self.size))
            write(0, 0x1A, pack("<H", vector))
            for register, area in ((0x20, DESCRIPTORS), (0x28, AVAILABLE), (0x30, USED)):  # as Linux: two halves
                write(0, register, pack("<I", area + ring.at))
                write(0, register + 4, bytes(4))
            write(0, 0x1C, pack("<H", 1))
        write(0, 0x14, bytes([15]))
        return self

    @property
    def status(self) -> int:
        return self.guest.read_bytes(0, 0x14, 1)[0]

    @property
    def needs_reset(self) -> bool:
        return bool(self.status & 64)

    def isr(self) -> int:
        """The causes of interrupts, which this clears."""
        return self.guest.read_bytes(0, 0x40, 1)[0]

    def kick(self, queue: int = 0) -> None:
        self.guest.write_bytes(0, 0x80, pack("<H", queue))

    def ask(self, *pieces: Piece, queue: int = 0) -> tuple[int, int]:
        """Offer one chain, wait, and give what came back."""
        ring = self.rings[queue]
        ring.chain(range(len(pieces)), pieces)
        ring.offer(0)
        self.kick(queue)
        self.guest.run()
        (came,) = ring.taken()
        return came
