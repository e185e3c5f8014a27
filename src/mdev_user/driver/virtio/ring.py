"""Ring: a split virtqueue in a guest's memory (virtio 1.2, section 2.7), of which nothing is believed.

Everything that a guest says here is checked before it is used; what cannot be is a GuestError.
"""

from dataclasses import dataclass, field
from enum import IntFlag
from struct import Struct, unpack
from typing import NamedTuple, Protocol

from mdev_user.driver.dma import sleep
from mdev_user.errors import GuestError
from mdev_user.units import is_power_of_two

NEXT, WRITE, INDIRECT = 1, 2, 4
NO_INTERRUPT = 1
LARGEST_QUEUE = 1 << 15
MOST_INDIRECT = 1024
"""Entries of an indirect table. Section 2.7.5.3.1 allows as many as the queue has, but Linux's drivers use more."""
LONGEST_CHAIN = 1 << 32
"""Bytes of all its buffers (section 2.7.5.2)."""
STRETCH = 64
"""Descriptors that are looked at until others have their turn: a tenth of a millisecond."""
INDEXES = 1 << 16
"""The indexes of both rings count to here, and go on at 0."""

_DESCRIPTOR, _USED, _INDEX = Struct("<QIHH"), Struct("<II"), Struct("<H")
_ADDRESSES = 1 << 64


class Feature(IntFlag):
    """What the transport offers, by bit (section 6)."""

    RING_INDIRECT_DESC = 1 << 28
    RING_EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32


_INDIRECT_TABLES, _EVENT_INDEX = int(Feature.RING_INDIRECT_DESC), int(Feature.RING_EVENT_IDX)  # plain ints are quicker


class GuestMemory(Protocol):
    """What a ring lies in."""

    async def read(self, address: int, length: int) -> bytes: ...
    async def write(self, address: int, data: bytes) -> None: ...


class Buffer(NamedTuple):
    """A piece of the guest's memory."""

    address: int
    length: int


class Descriptor(NamedTuple):
    """An entry of a table, as the guest wrote it."""

    address: int
    length: int
    flags: int
    following: int


@dataclass(slots=True)
class Buffers:
    """Those of one chain: first what the device reads, then what it writes."""

    readable: list[Buffer] = field(default_factory=list)
    writable: list[Buffer] = field(default_factory=list)
    total: int = 0

    @property
    def count(self) -> int:
        return len(self.readable) + len(self.writable)

    def add(self, each: Descriptor) -> None:
        """GuestError for what no chain may have."""
        if each.address + each.length > _ADDRESSES:
            raise GuestError(f"a buffer of {each.length:#x} bytes at {each.address:#x}: it ends behind all memory")
        self.total += each.length
        if self.total > LONGEST_CHAIN:
            raise GuestError(f"a chain of {self.total:#x} bytes: expected at most {LONGEST_CHAIN:#x}")
        if each.flags & WRITE:
            self.writable.append(Buffer(each.address, each.length))
        elif self.writable:
            raise GuestError("a chain with a buffer to read behind one to write")
        else:
            self.readable.append(Buffer(each.address, each.length))


class _Table(Protocol):
    count: int

    async def entry(self, index: int) -> Descriptor: ...


@dataclass(slots=True)
class _QueueTable:
    """The descriptors of the queue: one is read when it is needed."""

    memory: GuestMemory
    address: int
    count: int

    async def entry(self, index: int) -> Descriptor:
        at = self.address + _DESCRIPTOR.size * _checked("descriptor", index, self.count)
        return Descriptor(*_DESCRIPTOR.unpack(await self.memory.read(at, _DESCRIPTOR.size)))


@dataclass(slots=True)
class _IndirectTable:
    """The descriptors of one chain: they were read at once."""

    data: bytes
    count: int

    async def entry(self, index: int) -> Descriptor:
        at = _DESCRIPTOR.size * _checked("descriptor of an indirect table", index, self.count)
        return Descriptor(*_DESCRIPTOR.unpack_from(self.data, at))


@dataclass(frozen=True, slots=True)
class Ring:
    """One queue: ``size`` entries, the addresses of its three areas, and the features that were negotiated."""

    memory: GuestMemory
    size: int
    descriptors: int
    available: int
    used: int
    features: int

    def check(self) -> None:
        """GuestError unless its size and addresses are such as a queue can have."""
        if not (0 < self.size <= LARGEST_QUEUE and is_power_of_two(self.size)):
            raise GuestError(f"a queue of {self.size}: expected a power of two up to {LARGEST_QUEUE}")
        for what, address, alignment in (
            ("descriptors", self.descriptors, 16), ("available ring", self.available, 2), ("used ring", self.used, 4)
        ):  # fmt: skip
            if address % alignment:
                raise GuestError(f"{what} at {address:#x}: expected a multiple of {alignment}")

    async def waiting(self, served: int, kept: int = 0) -> int:
        """How many chains are available of which ``served`` is the index of the first; of others so many are kept."""
        waiting = (await self._index(self.available + 2) - served) % INDEXES
        if waiting + kept > self.size:
            raise GuestError(f"{waiting} chains are available in a queue of {self.size}, and {kept} are kept")
        return waiting

    async def heads(self, served: int, count: int) -> list[int]:
        """The first descriptors of so many chains, or fewer, from the one with that index on."""
        first = served % self.size
        count = min(count, self.size - first)
        return list(unpack(f"<{count}H", await self.memory.read(self.available + 4 + 2 * first, 2 * count)))

    async def buffers(self, head: int) -> Buffers:
        """All buffers of a chain."""
        found = Buffers()
        indirect = await _walk(_QueueTable(self.memory, self.descriptors, self.size), head, found)
        if indirect is not None and await _walk(await self._indirect(indirect), 0, found) is not None:
            raise GuestError("an indirect table in an indirect table")
        return found

    async def put_used(self, served: int, head: int, written: int) -> None:
        """Give a chain back; the guest knows of it by `publish`."""
        # Both were saved, perhaps, and a saved state is as hostile as a guest.
        at = self.used + 4 + _USED.size * (served % self.size)
        await self.memory.write(at, _USED.pack(head % LONGEST_CHAIN, written % LONGEST_CHAIN))

    async def publish(self, served: int) -> None:
        """The guest may take back all chains before this index."""
        await self.memory.write(self.used + 2, _INDEX.pack(served % INDEXES))

    async def wants_interrupt(self, told: int, served: int) -> bool:
        """Whether the guest waits for one of the chains that it was not ``told`` of (section 2.7.7)."""
        if not self.features & _EVENT_INDEX:
            return not await self._index(self.available) & NO_INTERRUPT
        event = await self._index(self.available + 4 + _INDEX.size * self.size)
        return (served - event - 1) % INDEXES < (served - told) % INDEXES

    async def ask_for_notification(self, served: int) -> None:
        """Let the guest notify the device of the chain with this index (section 2.7.10)."""
        if self.features & _EVENT_INDEX:
            await self.memory.write(self.used + 4 + _USED.size * self.size, _INDEX.pack(served % INDEXES))

    async def _index(self, address: int) -> int:
        (index,) = _INDEX.unpack(await self.memory.read(address, _INDEX.size))
        return int(index)

    async def _indirect(self, each: Descriptor) -> _IndirectTable:
        if not self.features & _INDIRECT_TABLES:
            raise GuestError("an indirect table, which was not negotiated")
        if each.flags & NEXT:
            raise GuestError("an indirect table with a next descriptor")
        count, rest = divmod(each.length, _DESCRIPTOR.size)
        if rest or not 0 < count <= MOST_INDIRECT:
            raise GuestError(
                f"an indirect table of {each.length} bytes: expected 1 to {MOST_INDIRECT} times {_DESCRIPTOR.size}"
            )
        return _IndirectTable(await self.memory.read(each.address, each.length), count)


async def _walk(table: _Table, index: int, found: Buffers) -> Descriptor | None:
    """Follow a chain through a table; the descriptor of an indirect table ends it."""
    for passed in range(1, table.count + 1):
        each = await table.entry(index)
        if each.flags & INDIRECT:
            return each
        found.add(each)
        if not each.flags & NEXT:
            return None
        index = each.following
        if not passed % STRETCH:
            await sleep(0)
    raise GuestError(f"a chain of more than {table.count} descriptors: a loop")


def _checked(what: str, index: int, count: int) -> int:
    if index >= count:
        raise GuestError(f"{what} {index}: expected 0 to {count - 1}")
    return index
