"""Target: a split virtqueue of any bytes; what is found in it is what a second reading of the specification finds.

The first bytes are features, a size, how far the device has come, and the available ring's index, head and event; then
come the queue's descriptors, and a table that they may name.
"""

from collections.abc import Coroutine, Sequence
from struct import Struct
from typing import TypeVar

from fuzz.target import Target, expect
from mdev_user.driver.virtio.ring import Feature, Ring
from mdev_user.errors import DmaFault, GuestError
from mdev_user.vfio.work import Sleep

T = TypeVar("T")
_HEAD = Struct("<BBHHHHH")
"""Features, size, queue's size as the guest has it, index served, index available, head, event."""
_ENTRY = Struct("<QIHH")
BASE, AVAILABLE, USED, TABLE, END = 0x0000, 0x1000, 0x2000, 0x3000, 0x8000
SIZES = (1, 2, 4, 8)
Found = list[tuple[int, int, bool]] | None
"""Address, length, and whether the device writes; None for what no driver may describe."""


class Memory(bytearray):
    async def read(self, address: int, length: int) -> bytes:
        if address + length > END:
            raise DmaFault(f"{address:#x}")
        return bytes(self[address : address + length])

    async def write(self, address: int, data: bytes) -> None:
        self[address : address + len(data)] = data


def run(work: Coroutine[object, object, T]) -> T | None:
    """What it gives; None where it is refused. A long chain lets others have their turn, and nothing else waits."""
    try:
        while work.send(None) == Sleep(0):
            pass
    except StopIteration as stop:
        result: T = stop.value
        return result
    except GuestError:
        return None
    raise AssertionError("it waits")


def one(data: bytes) -> None:
    if len(data) < _HEAD.size:
        return
    bits, which, odd, served, available, head, event = _HEAD.unpack_from(data)
    size, features = SIZES[which % len(SIZES)], Feature.VERSION_1
    features |= Feature.RING_INDIRECT_DESC if bits & 1 else 0
    features |= Feature.RING_EVENT_IDX if bits & 2 else 0
    memory = Memory(END)
    queue, table = data[_HEAD.size :][: 16 * size], data[_HEAD.size + 16 * size :][: END - TABLE]
    memory[BASE : BASE + len(queue)], memory[TABLE : TABLE + len(table)] = queue, table
    memory[AVAILABLE : AVAILABLE + 4] = bits.to_bytes(2, "little") + available.to_bytes(2, "little")
    memory[AVAILABLE + 4 + 2 * size : AVAILABLE + 6 + 2 * size] = event.to_bytes(2, "little")
    ring = Ring(memory, size, BASE, AVAILABLE, USED, features)
    _check_chain(ring, memory, head)
    _check_indexes(ring, served, available, event, bits)
    _check_kept(ring, memory, served, available, odd % (size + 1))
    _check_shape(odd, event)


def _check_chain(ring: Ring, memory: Memory, head: int) -> None:
    given, wanted = run(ring.buffers(head)), _chain(memory, ring.size, head, bool(ring.features & 1 << 28))
    found: Found = None
    if given is not None:
        found = [(*each, False) for each in given.readable] + [(*each, True) for each in given.writable]
    expect(found == wanted, f"found {found}, expected {wanted}")


def _chain(memory: Memory, size: int, head: int, tables: bool) -> Found:
    """The second reading: sections 2.7.5 and 2.7.5.3."""
    base, count, left, at, inside, chain = BASE, size, size, head, False, list[tuple[int, int, bool]]()
    while at < count and left:
        address, length, flags, following = _ENTRY.unpack_from(memory, base + 16 * at)
        if flags & 4:
            good = tables and not inside and not flags & 1 and length % 16 == 0 and 16 <= length <= 16 * 1024
            if not good or address + length > END:
                return None
            base, count, left, at, inside = address, length // 16, length // 16, 0, True
            continue
        chain.append((address, length, bool(flags & 2)))
        left, at = left - 1, following
        if not flags & 1:
            return chain if _is_good(chain) else None
    return None


def _is_good(chain: list[tuple[int, int, bool]]) -> bool:
    ordered = [written for _address, _length, written in chain]
    fits = all(address + length <= 1 << 64 for address, length, _written in chain)
    return fits and ordered == sorted(ordered) and sum(length for _address, length, _written in chain) <= 1 << 32


def _check_indexes(ring: Ring, served: int, available: int, event: int, bits: int) -> None:
    between = (available - served) & 0xFFFF
    expect(run(ring.waiting(served)) == (between if between <= ring.size else None), f"{between} chains are waiting")
    count = bits % ring.size + 1
    told = {(served + each) & 0xFFFF for each in range(count)}
    wanted = event in told if bits & 2 else not bits & 1
    expect(run(ring.wants_interrupt(served, (served + count) & 0xFFFF)) == wanted, f"an interrupt: {wanted}")


def _check_kept(ring: Ring, memory: Memory, served: int, available: int, kept: int) -> None:
    """With chains that the device has kept; and the heads of those that are available."""
    between = (available - served) & 0xFFFF
    wanted = between if between + kept <= ring.size else None
    expect(run(ring.waiting(served, kept)) == wanted, f"{between} chains are waiting, and {kept} kept: {wanted}")
    if not wanted:
        return
    heads, entries = run(ring.heads(served, wanted)), memory[AVAILABLE + 4 : AVAILABLE + 4 + 2 * ring.size]
    every = [int.from_bytes(entries[2 * at : 2 * at + 2], "little") for at in range(ring.size)]
    following = [every[(served + each) % ring.size] for each in range(wanted)]
    expect(heads is not None and len(heads) > 0 and heads == following[: len(heads)], f"heads {heads}: {following}")


def _check_shape(size: int, address: int) -> None:
    """Sizes and addresses as a guest may write them."""
    good = bin(size).count("1") == 1 and size <= 1 << 15 and address % 16 == 0
    try:
        Ring(Memory(), size, address, address, address, 0).check()
    except GuestError:
        expect(not good, f"a queue of {size} at {address:#x} was refused")
    else:
        expect(good, f"a queue of {size} at {address:#x} was taken")


def seeds() -> Sequence[bytes]:
    def queue(*entries: tuple[int, int, int, int], bits: int = 3, served: int = 0, more: bytes = b"") -> bytes:
        head = _HEAD.pack(bits, 2, 64, served, served + 1 & 0xFFFF, 0, served & ~0xF)
        return head + b"".join(_ENTRY.pack(*each) for each in entries).ljust(64, b"\0") + more

    table = _ENTRY.pack(0x100, 8, 1, 1) + _ENTRY.pack(0x200, 8, 3, 2) + _ENTRY.pack(0x300, 8, 2, 0)
    return [
        queue((0x100, 8, 2, 0)),
        queue((0x100, 8, 1, 1), (0x200, 8, 3, 2), (0x300, 1 << 31, 2, 0), served=0xFFFF),
        queue((TABLE, 48, 4, 0), more=table),
        queue((0x100, 8, 1, 3), (0, 0, 0, 0), (0, 0, 0, 0), (TABLE, 48, 4, 0), bits=1, more=table),
        queue((0x100, 8, 1, 1), (0x100, 8, 1, 0), bits=0),
    ]


TARGET = Target("virtqueue", "a split virtqueue in a guest's memory", one, seeds, ("mdev_user.driver.virtio.ring",))
