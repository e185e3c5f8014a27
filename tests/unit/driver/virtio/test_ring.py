"""The ring parser and a driver's side agree; what no driver may write is refused, and in bounded time."""

from collections.abc import Awaitable, Coroutine
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.driver.virtio import ring as module
from mdev_user.driver.virtio.ring import INDIRECT, MOST_INDIRECT, NEXT, WRITE, Buffer, Buffers, Feature, Ring
from mdev_user.errors import DmaFault, GuestError
from mdev_user.vfio.work import Sleep
from unit.driver.virtio.ring_driver import AVAILABLE, DESCRIPTORS, FEATURES, TABLES, USED, Piece, RingDriver

T = TypeVar("T")
SIZE = 8
Entries = list[tuple[int, int, int, int]]


class Memory(bytearray):
    """All of a guest's memory; ``reads`` are counted, and have an end."""

    reads = 0

    async def read(self, address: int, length: int) -> bytes:
        self.reads += 1
        if self.reads > 10 * MOST_INDIRECT:
            raise TimeoutError
        if address + length > len(self):
            raise DmaFault(f"{address:#x}")
        return bytes(self[address : address + length])

    async def write(self, address: int, data: bytes) -> None:
        self[address : address + len(data)] = data


def run(work: Awaitable[T]) -> T:
    """What it gives: nothing here ever waits."""
    assert isinstance(work, Coroutine)
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("it waits")


class Shared:
    """A queue from both sides."""

    def __init__(self, size: int = SIZE, features: int = FEATURES, kind: type[Any] = Ring) -> None:
        self.memory = Memory(0x10000)
        self.driver = RingDriver(self.memory, size)
        self.ring: Ring = kind(self.memory, size, DESCRIPTORS, AVAILABLE, USED, features)


pieces = st.builds(Piece, st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 32) // SIZE), st.sampled_from([0, WRITE]))


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Piece], list[int], int]:
    """The buffers, the descriptors that have them, and how many of them are in an indirect table."""
    found = sorted(draw(st.lists(pieces, min_size=1, max_size=SIZE)), key=lambda each: each.flags)
    indirect = draw(st.integers(0, len(found)))
    return found, draw(st.permutations(range(SIZE))), indirect


@given(chains())
def test_what_a_driver_describes_is_what_the_device_finds(drawn: tuple[list[Piece], list[int], int]) -> None:
    described, indexes, indirect = drawn
    shared = Shared()
    direct = described[: len(described) - indirect]
    used = [*direct, shared.driver.indirect(described[len(direct) :])] if indirect else direct
    shared.driver.chain(indexes[: len(used)], used)
    shared.driver.offer(indexes[0])
    assert run(shared.ring.waiting(0)) == 1
    found = run(shared.ring.buffers(*run(shared.ring.heads(0, 1))))
    for flags, buffers in ((0, found.readable), (WRITE, found.writable)):
        assert buffers == [Buffer(each.address, each.length) for each in described if each.flags == flags]


@given(st.binary(max_size=16 * SIZE), st.binary(max_size=256), st.integers(0, 0xFFFF))
def test_no_bytes_in_the_tables_take_long_or_give_too_many_buffers(queue: bytes, table: bytes, head: int) -> None:
    shared = Shared()
    shared.memory[DESCRIPTORS : DESCRIPTORS + len(queue)] = queue
    shared.memory[TABLES : TABLES + len(table)] = table
    try:
        found = run(shared.ring.buffers(head))
    except GuestError:
        pass
    else:
        assert len(found.readable) + len(found.writable) <= SIZE + MOST_INDIRECT
        assert all(address + length <= 1 << 64 for address, length in (*found.readable, *found.writable))
    assert shared.memory.reads <= SIZE + 1


def looped(shared: Shared) -> None:
    shared.driver.describe(0, 0, 0, NEXT, 1)
    shared.driver.describe(1, 0, 0, NEXT, 0)


def test_loop_ends() -> None:
    shared = Shared()
    looped(shared)
    with pytest.raises(GuestError, match="more than 8 descriptors: a loop"):
        run(shared.ring.buffers(0))
    assert shared.memory.reads == SIZE


def test_loop_would_not_end_without_the_bound() -> None:
    """The negative control: the parser without its bound."""
    text = Path(module.__file__).read_text()
    bound = "for passed in range(1, table.count + 1):"
    assert text.count(bound) == 1
    unbound: dict[str, Any] = {"__name__": module.__name__}
    exec(compile(text.replace(bound, "while passed := 1:"), "unbound", "exec"), unbound)
    shared = Shared(kind=unbound["Ring"])
    looped(shared)
    with pytest.raises(TimeoutError):
        run(shared.ring.buffers(0))


def turns_of(shared: Shared) -> int:
    """How often others have their turn while a long chain is followed."""
    shared.driver.chain([0], [shared.driver.indirect([Piece(0, 0)] * MOST_INDIRECT)])
    work, turns, found = shared.ring.buffers(0), 0, Buffers()
    try:
        while work.send(None) == Sleep(0):
            turns += 1
    except StopIteration as stop:
        found = stop.value
    assert found.count == MOST_INDIRECT
    return turns


def test_long_chain_lets_others_have_their_turn() -> None:
    assert turns_of(Shared()) == MOST_INDIRECT // module.STRETCH - 1


def test_it_would_not_without_an_end_to_a_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(module, "STRETCH", MOST_INDIRECT)
    assert turns_of(Shared()) == 0


TABLE = TABLES, 32, INDIRECT
LIES = {
    "head 8: expected 0 to 7": (8, []),
    "descriptor 9: expected 0 to 7": (0, [(0, 8, NEXT, 9)]),
    "behind all memory": (0, [((1 << 64) - 4, 8, 0, 0)]),
    "a buffer to read behind one to write": (0, [(0, 8, WRITE | NEXT, 1), (0, 8, 0, 0)]),
    "a chain of 0x1fffffffe bytes": (0, [(0, 0xFFFF_FFFF, NEXT, 1), (0, 0xFFFF_FFFF, 0, 0)]),
    "an indirect table with a next descriptor": (0, [(TABLES, 32, INDIRECT | NEXT, 1)]),
    "an indirect table of 24 bytes": (0, [(TABLES, 24, INDIRECT, 0)]),
    "an indirect table of 0 bytes": (0, [(TABLES, 0, INDIRECT, 0)]),
    "an indirect table of 16400 bytes": (0, [(TABLES, 16 * (MOST_INDIRECT + 1), INDIRECT, 0)]),
    "0xffff0": (0, [(0xFFFF0, 32, INDIRECT, 0)]),
}


@pytest.mark.parametrize(("message", "lie"), LIES.items(), ids=LIES)
def test_lie_in_the_descriptors_is_a_guests_error(message: str, lie: tuple[int, Entries]) -> None:
    shared = Shared()
    head, entries = lie
    for index, entry in enumerate(entries):
        shared.driver.describe(index, *entry)
    with pytest.raises(GuestError, match=message.replace("head", "descriptor")):
        run(shared.ring.buffers(head))


NESTED = {
    "an indirect table in an indirect table": [(TABLES, 16, INDIRECT, 0)],
    "descriptor of an indirect table 2: expected 0 to 1": [(0, 8, NEXT, 2), (0, 8, 0, 0)],
    "more than 2 descriptors: a loop": [(0, 8, NEXT, 1), (0, 8, NEXT, 0)],
    "a buffer to read behind one to write": [(0, 8, WRITE | NEXT, 1), (0, 8, 0, 0)],
}


@pytest.mark.parametrize(("message", "entries"), NESTED.items(), ids=NESTED)
def test_lie_in_an_indirect_table_is_a_guests_error(message: str, entries: Entries) -> None:
    shared = Shared()
    shared.driver.chain([0], [shared.driver.table(entries)])
    with pytest.raises(GuestError, match=message):
        run(shared.ring.buffers(0))


def test_indirect_table_has_to_be_negotiated() -> None:
    shared = Shared(features=Feature.VERSION_1)
    shared.driver.chain([0], [shared.driver.indirect([Piece(0, 8)])])
    with pytest.raises(GuestError, match="not negotiated"):
        run(shared.ring.buffers(0))


def test_more_chains_than_entries_are_not_available() -> None:
    shared = Shared()
    shared.driver.begin_at(8)
    assert run(shared.ring.waiting(0)) == 8
    shared.driver.begin_at(9)
    with pytest.raises(GuestError, match="9 chains are available in a queue of 8"):
        run(shared.ring.waiting(0))


@pytest.mark.parametrize(("kept", "refused"), [(3, False), (4, True)])
def test_chains_that_are_kept_have_their_place_in_the_queue(kept: int, refused: bool) -> None:
    shared = Shared()
    shared.driver.begin_at(5)
    with pytest.raises(GuestError, match="and 4 are kept") if refused else nullcontext():
        assert run(shared.ring.waiting(0, kept)) == 5


@given(st.integers(0, 0xFFFF), st.integers(1, SIZE))
def test_heads_are_read_in_order_up_to_the_end_of_the_ring(served: int, count: int) -> None:
    shared = Shared()
    shared.driver.begin_at(served)
    wanted = [(each * 3) % SIZE for each in range(count)]
    for each in wanted:
        shared.driver.offer(each)
    found = run(shared.ring.heads(served, count))
    assert 0 < len(found) == min(count, SIZE - served % SIZE)
    assert found == wanted[: len(found)]


@pytest.mark.parametrize("size", [0, 3, 48, 0x10000])
def test_size_is_a_power_of_two(size: int) -> None:
    with pytest.raises(GuestError, match="expected a power of two"):
        Ring(Memory(), size, 0, 0, 0, 0).check()


@pytest.mark.parametrize("areas", [(8, 0, 0), (0, 1, 0), (0, 0, 2)])
def test_areas_are_aligned(areas: tuple[int, int, int]) -> None:
    with pytest.raises(GuestError, match="expected a multiple"):
        Ring(Memory(), 8, *areas, 0).check()


@given(st.integers(0, 0xFFFF), st.integers(1, SIZE), st.integers(0, 0xFFFF))
def test_event_index_is_one_of_those_that_were_served(told: int, count: int, distance: int) -> None:
    shared = Shared()
    for event in (told + distance, told + distance % (2 * SIZE)):
        shared.driver.wake_at(event % 0x10000)
        wanted = event % 0x10000 in {(told + each) % 0x10000 for each in range(count)}
        assert run(shared.ring.wants_interrupt(told, (told + count) % 0x10000)) == wanted


def test_without_event_index_a_flag_keeps_interrupts_away() -> None:
    shared = Shared(features=Feature.VERSION_1)
    assert run(shared.ring.wants_interrupt(0, 1))
    shared.driver.mute()
    assert not run(shared.ring.wants_interrupt(0, 1))
    run(shared.ring.ask_for_notification(5))
    assert shared.driver.notify_at == 0
