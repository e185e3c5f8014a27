"""Pieces of a guest's memory are copied natively as in Python, and while they are, other threads run."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from mmap import mmap
from struct import pack
from threading import Event, Thread
from time import monotonic, sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import core_skip
from mdev_user.errors import DmaFault
from mdev_user.units import PAGE, MiB
from mdev_user.vfio.dma import DmaFlags
from mdev_user.vfio.scatter_list import ScatterList
from mdev_user.vfio_user.guest_memory import GuestMemory
from mdev_user.vfio_user.loops import why_not_native
from mdev_user.vfio_user.scattered import Copy, native_copies, python_gather, python_scatter

SIZE, PLACE, BASE = 256, 224, 0x1000
TOP = (1 << 64) - 1
WORDS = st.integers(BASE - 8, BASE + SIZE + 8) | st.integers(TOP - 64, TOP)
ENTRIES = st.lists(st.tuples(WORDS, st.integers(0, 48) | st.sampled_from([TOP >> 32])), max_size=8)


@pytest.fixture(autouse=True)
def native() -> None:
    if absent := why_not_native():
        core_skip(absent)


def listed(*pieces: tuple[int, int]) -> ScatterList:
    return ScatterList(b"".join(pack("<QI4x", *piece) for piece in pieces))


def outcome(copy: Copy, memory: bytearray, base: int, pieces: ScatterList, stretch: bytearray) -> object:
    """What it returned, or that it was a fault, and what is in both memories then."""
    try:
        done: object = copy(memoryview(memory), 16, 16 + PLACE, base, pieces, memoryview(stretch))
    except DmaFault as fault:
        done = str(fault)
    return done, bytes(memory), bytes(stretch)


def some(entries: list[tuple[int, int]], data: st.DataObject) -> ScatterList:
    whole = listed(*entries)
    at = data.draw(st.integers(0, whole.size))
    return whole.cut(at, data.draw(st.integers(0, min(whole.size - at, 400))))


@given(ENTRIES, st.sampled_from([0, BASE, TOP + 1 - PLACE]), st.data())
def test_native_copies_are_those_in_python(entries: list[tuple[int, int]], base: int, data: st.DataObject) -> None:
    copies = native_copies()
    assert copies is not None
    pieces = some(entries, data)
    for python, made in ((python_gather, copies[0]), (python_scatter, copies[1])):
        found = []
        for copy in (python, made):
            memory, stretch = bytearray(range(256)), bytearray(b"\xee" * (pieces.size + 3))
            found.append(outcome(copy, memory, base, pieces, stretch))
        assert found[0] == found[1]
    assert copies[2](pieces, base, PLACE) == pieces.within(base, PLACE)


def test_python_copies_where_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mdev_user.vfio_user._native", None)
    monkeypatch.delattr("mdev_user.vfio_user._native")
    assert native_copies() is None


def test_pieces_that_lie_over_each_other_are_copied_in_their_order() -> None:
    copies = native_copies()
    assert copies is not None
    memory = bytearray(range(64))
    pieces = listed((BASE, 8), (BASE + 4, 8), (BASE, 4))
    assert copies[1](memoryview(memory), 0, 64, BASE, pieces, memoryview(bytes(range(100, 120)))) == 20
    assert list(memory[:13]) == [116, 117, 118, 119, 108, 109, 110, 111, 112, 113, 114, 115, 12]


@pytest.mark.parametrize(("low", "high", "room"), [(-1, 8, 8), (9, 8, 8), (0, 65, 8), (0, 64, 7)])
def test_what_does_not_lie_in_the_views_is_refused(low: int, high: int, room: int) -> None:
    copies = native_copies()
    assert copies is not None
    for copy in copies[:2]:
        with pytest.raises(ValueError, match="expected a part"):
            copy(memoryview(bytearray(64)), low, high, BASE, listed((BASE, 8)), memoryview(bytearray(room)))


def test_read_only_memory_is_not_written() -> None:
    copies = native_copies()
    assert copies is not None
    with pytest.raises((TypeError, BufferError)):
        copies[1](memoryview(bytes(64)), 0, 64, BASE, listed((BASE, 8)), memoryview(bytes(8)))
    with pytest.raises((TypeError, BufferError)):
        copies[0](memoryview(bytes(64)), 0, 64, BASE, listed((BASE, 8)), memoryview(bytes(8)))


@pytest.fixture
def patient() -> Iterator[None]:
    """No thread has to let others run that does not do so by itself."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    yield
    sys.setswitchinterval(interval)


def others_run(copy: Copy, seconds: float) -> bool:
    """Whether another thread got on within one of the copies of single pages that are made for so long."""
    ticks, ended = [0], False

    def tick() -> None:
        while not ended:
            ticks[0] += 1
            sleep(0)

    memory, into = (memoryview(mmap(-1, 8 * MiB)) for _ in range(2))
    pages = listed(*((at, PAGE) for at in range(0, 8 * MiB, PAGE)))
    other, deadline, got_on = Thread(target=tick), monotonic() + seconds, False
    other.start()
    while not got_on and monotonic() < deadline:
        before = ticks[0]
        copy(memory, 0, 8 * MiB, 0, pages, into)
        got_on = ticks[0] > before
    ended = True
    other.join()
    return got_on


@pytest.mark.usefixtures("patient")
def test_other_threads_run_while_pages_are_copied() -> None:
    copies = native_copies()
    assert copies is not None
    assert others_run(copies[0], 10)
    assert others_run(copies[1], 10)


@pytest.mark.usefixtures("patient")
def test_other_threads_would_wait_if_python_copied_them() -> None:
    """The negative control."""
    assert not others_run(python_gather, 0.2)


def test_memory_is_not_unmapped_while_it_is_copied() -> None:
    """Nobody tries, who has to hold the step lock for it. Who did would be told, and all of the copy is there."""
    copies = native_copies()
    assert copies is not None
    size, deadline, refused = 64 * MiB, monotonic() + 10, list[BufferError]()
    pieces, into = listed((0, size)), memoryview(mmap(-1, size))
    while not refused and monotonic() < deadline:
        memory = memoryview(mmap(-1, size))
        begun = Event()
        other = Thread(target=release, args=(memory, begun, refused))
        other.start()
        begun.set()
        with suppress(ValueError):  # it was released before the copy began
            assert copies[0](memory, 0, size, 0, pieces, into) == size
        other.join()
    assert refused


def release(memory: memoryview, begun: Event, refused: list[BufferError]) -> None:
    begun.wait()
    try:
        memory.release()
    except BufferError as error:
        refused.append(error)


def test_file_that_is_cut_short_is_a_fault() -> None:
    """Of what is not sealed against that, nothing is mapped."""
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 4 * PAGE)
    other = os.dup(fd)
    backing = GuestMemory().backing(fd, 0, 4 * PAGE, DmaFlags.READ | DmaFlags.WRITE)
    pages = listed(*((BASE + at, PAGE) for at in range(0, 4 * PAGE, PAGE)))
    stretch = memoryview(bytearray(4 * PAGE))
    assert backing.gather(BASE, pages, stretch) == backing.scatter(BASE, pages, stretch) == 4 * PAGE
    os.ftruncate(other, 2 * PAGE)
    for copy in (backing.gather, backing.scatter):
        with pytest.raises(DmaFault, match="ends before"):
            copy(BASE, pages, stretch)
    os.close(other)
    backing.close()


def test_file_that_is_mapped_cannot_be_cut_short() -> None:
    fd = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 2 * PAGE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    other = os.dup(fd)
    memory = GuestMemory()
    backing = memory.backing(fd, 0, 2 * PAGE, DmaFlags.READ)
    assert memory.mapped_files == 1
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(other, PAGE)
    os.close(other)
    backing.close()
