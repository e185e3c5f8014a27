"""The DMA mappings of a device: ranges, overlaps, limits, and which mappings an access touches."""

from collections.abc import Coroutine

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from mdev_user.errors import DmaFault, GuestError, MappingExists, TooManyMappings
from mdev_user.units import PAGE, GiB
from mdev_user.vfio.dma import (
    ADDRESS_SPACE,
    LARGEST_MAPPING,
    Backing,
    DmaFlags,
    DmaMappings,
    DmaRead,
    DmaWrite,
    Mapping,
)

BOTH = DmaFlags.READ | DmaFlags.WRITE


class Closed(Backing):
    """A backing that only knows whether it was closed."""

    closed = 0

    @override
    def read(self, offset: int, length: int) -> bytes:
        raise NotImplementedError

    @override
    def write(self, offset: int, data: bytes) -> None:
        raise NotImplementedError

    @override
    def close(self) -> None:
        self.closed += 1


def mapping(iova: int, size: int = PAGE, flags: DmaFlags = BOTH, backing: Backing | None = None) -> Mapping:
    return Mapping(iova, size, flags, backing)


@pytest.fixture
def dma() -> DmaMappings:
    """[0x1000, 0x3000), then a hole, then [0x4000, 0x5000)."""
    dma = DmaMappings()
    dma.map(mapping(0x4000))
    dma.map(mapping(0x1000, 0x2000))
    return dma


def test_mappings_are_kept_by_address(dma: DmaMappings) -> None:
    assert [each.iova for each in dma] == [0x1000, 0x4000]
    assert len(dma) == 2


@pytest.mark.parametrize(
    ("iova", "size"),
    [
        (0, 0),
        (0, -PAGE),
        (0, LARGEST_MAPPING + PAGE),
        (-PAGE, PAGE),
        (ADDRESS_SPACE - PAGE, 2 * PAGE),
        (1, PAGE),
        (0, PAGE + 1),
    ],
)
def test_a_range_that_no_mapping_can_have_is_einval(iova: int, size: int) -> None:
    with pytest.raises(GuestError, match="DMA mapping"):
        DmaMappings().map(mapping(iova, size))


def test_the_last_page_and_the_largest_mapping_can_be_mapped() -> None:
    dma = DmaMappings()
    dma.map(mapping(ADDRESS_SPACE - PAGE))
    dma.map(mapping(0, LARGEST_MAPPING))
    assert len(dma) == 2


@pytest.mark.parametrize(
    ("iova", "size"),
    [(0x1000, 0x2000), (0x1000, PAGE), (0x2000, PAGE), (0, 2 * PAGE), (0x2000, 0x3000), (0, GiB), (0x3000, 0x2000)],
)
def test_an_overlap_is_eexist_and_changes_nothing(dma: DmaMappings, iova: int, size: int) -> None:
    with pytest.raises(MappingExists, match="overlaps"):
        dma.map(mapping(iova, size))
    assert [each.iova for each in dma] == [0x1000, 0x4000]


def test_neighbours_do_not_overlap(dma: DmaMappings) -> None:
    dma.map(mapping(0x3000))
    dma.map(mapping(0))
    assert [each.iova for each in dma] == [0, 0x1000, 0x3000, 0x4000]


def test_the_agreed_number_is_enospc() -> None:
    dma = DmaMappings(limit=1)
    dma.map(mapping(0))
    with pytest.raises(TooManyMappings):
        dma.map(mapping(PAGE))
    dma.unmap(0, PAGE)
    dma.map(mapping(PAGE))


@pytest.mark.parametrize(
    ("iova", "size", "left"),
    [
        (0x1000, 0x2000, [0x4000]),
        (0x4000, PAGE, [0x1000]),
        (0, 0x4000, [0x4000]),
        (0x3000, GiB, [0x1000]),
        (0x1000, 0x4000, []),
        (0, LARGEST_MAPPING + PAGE, []),
        (0, ADDRESS_SPACE, []),
        (0, PAGE, [0x1000, 0x4000]),
        (0x3000, PAGE, [0x1000, 0x4000]),
        (0x5000, ADDRESS_SPACE - 0x5000, [0x1000, 0x4000]),
    ],
)
def test_every_mapping_in_a_range_is_unmapped(dma: DmaMappings, iova: int, size: int, left: list[int]) -> None:
    dma.unmap(iova, size)
    assert [each.iova for each in dma] == left


@pytest.mark.parametrize(
    ("iova", "size"),
    [(0x1000, PAGE), (0x2000, PAGE), (0, 0x2000), (0x2000, 0x3000), (0x2000, 0x2000), (0x2000, ADDRESS_SPACE - 0x2000)],
)
def test_a_range_that_would_split_a_mapping_is_einval_and_unmaps_nothing(
    dma: DmaMappings, iova: int, size: int
) -> None:
    with pytest.raises(GuestError, match="would split the mapping of 0x2000 bytes at 0x1000; unmap that whole"):
        dma.unmap(iova, size)
    assert [each.iova for each in dma] == [0x1000, 0x4000]


def test_a_mapping_that_contains_the_range_is_not_split() -> None:
    dma = DmaMappings()
    dma.map(mapping(0, 3 * PAGE))
    with pytest.raises(GuestError, match="would split"):
        dma.unmap(PAGE, PAGE)
    assert len(dma) == 1


@pytest.mark.parametrize(
    ("iova", "size"),
    [
        (0x1000, 0),
        (0x1000, -PAGE),
        (-PAGE, 2 * PAGE),
        (0, ADDRESS_SPACE + PAGE),
        (ADDRESS_SPACE - PAGE, 2 * PAGE),
        (ADDRESS_SPACE - 1, ADDRESS_SPACE - 1),
        (0x800, 0x2000),
        (0, 0x1800),
    ],
)
def test_a_range_that_is_none_of_pages_is_einval_and_unmaps_nothing(dma: DmaMappings, iova: int, size: int) -> None:
    with pytest.raises(GuestError, match="DMA unmapping"):
        dma.unmap(iova, size)
    assert len(dma) == 2


@given(
    pages=st.sets(st.integers(0, 12)),
    first=st.integers(0, 13),
    count=st.integers(1, 14),
)
def test_unmapping_single_pages_leaves_exactly_those_outside(pages: set[int], first: int, count: int) -> None:
    dma, backings = DmaMappings(), {page: Closed() for page in pages}
    for page, backing in backings.items():
        dma.map(mapping(page * PAGE, backing=backing))
    dma.unmap(first * PAGE, count * PAGE)
    gone = {page for page in pages if first <= page < first + count}
    assert {each.iova // PAGE for each in dma} == pages - gone
    assert {page for page, backing in backings.items() if backing.closed == 1} == gone


def test_unmapping_closes_the_backing_once() -> None:
    dma, backing = DmaMappings(), Closed()
    dma.map(mapping(0, backing=backing))
    dma.map(mapping(PAGE))
    dma.unmap(0, PAGE)
    dma.unmap(PAGE, PAGE)
    dma.unmap_all()
    assert backing.closed == 1


def test_unmapping_all_closes_every_backing() -> None:
    dma, backings = DmaMappings(), [Closed(), Closed()]
    for at, backing in enumerate(backings):
        dma.map(mapping(at * PAGE, backing=backing))
    dma.map(mapping(2 * PAGE))
    dma.unmap_all()
    assert [backing.closed for backing in backings] == [1, 1]
    assert not len(dma)
    with pytest.raises(DmaFault):
        dma.segments(0, 1, DmaFlags.READ)


def test_a_refused_mapping_leaves_its_backing_to_the_caller(dma: DmaMappings) -> None:
    backing = Closed()
    with pytest.raises(MappingExists):
        dma.map(mapping(0x1000, backing=backing))
    assert not backing.closed


def test_an_access_is_cut_at_the_mappings_it_touches(dma: DmaMappings) -> None:
    dma.map(mapping(0x3000))
    found = dma.segments(0x1800, 0x3000, BOTH)
    assert [(each.mapping.iova, each.offset, each.start, each.length) for each in found] == [
        (0x1000, 0x800, 0, 0x1800),
        (0x3000, 0, 0x1800, 0x1000),
        (0x4000, 0, 0x2800, 0x800),
    ]


def test_no_bytes_touch_nothing(dma: DmaMappings) -> None:
    assert dma.segments(0x9000, 0, BOTH) == []


@pytest.mark.parametrize(
    ("iova", "length"),
    [(0, 1), (0xFFF, 2), (0x2FFF, 2), (0x3000, 1), (0x4FFF, 2), (0x5000, 1), (1 << 63, 8), (0x1000, 0x4000)],
)
def test_an_access_with_an_unmapped_byte_is_a_fault(dma: DmaMappings, iova: int, length: int) -> None:
    with pytest.raises(DmaFault, match="has not mapped"):
        dma.segments(iova, length, DmaFlags.READ)


def test_a_direction_that_is_not_mapped_is_a_fault() -> None:
    dma = DmaMappings()
    dma.map(mapping(0, flags=DmaFlags.READ))
    dma.map(mapping(PAGE, flags=DmaFlags.WRITE))
    assert dma.segments(0, 4, DmaFlags.READ)
    assert dma.segments(PAGE, 4, DmaFlags.WRITE)
    for iova, needed in ((0, DmaFlags.WRITE), (PAGE, DmaFlags.READ), (0, BOTH), (PAGE - 1, DmaFlags.READ)):
        with pytest.raises(DmaFault):
            dma.segments(iova, 4, needed)


@given(
    maps=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8)), max_size=12),
    iova=st.integers(0, 50 * PAGE),
    length=st.integers(0, 12 * PAGE),
)
def test_an_access_succeeds_exactly_when_every_byte_is_mapped(
    maps: list[tuple[int, int]], iova: int, length: int
) -> None:
    dma, pages = DmaMappings(), set[int]()
    for first, count in maps:
        wanted = set(range(first, first + count))
        try:
            dma.map(mapping(first * PAGE, count * PAGE))
        except MappingExists:
            assert wanted & pages
        else:
            assert not wanted & pages
            pages |= wanted
    reached = set(range(iova // PAGE, -(-(iova + length) // PAGE))) if length else set()
    try:
        found = dma.segments(iova, length, DmaFlags.READ)
    except DmaFault:
        assert not reached <= pages
        return
    assert reached <= pages
    assert sum(each.length for each in found) == length
    assert all(each.mapping.iova + each.offset == iova + each.start for each in found)


def drive(work: Coroutine[object, bytes, object], *results: bytes) -> list[object]:
    """Everything that a coroutine awaits, given these results."""
    awaited = [work.send(None)]  # type: ignore[arg-type]  # None starts a coroutine
    for result in results:
        try:
            awaited.append(work.send(result))
        except StopIteration as end:
            awaited.append(end.value)
    return awaited


def test_reads_and_writes_are_awaited_and_give_their_result(dma: DmaMappings) -> None:
    async def copy() -> bytes:
        data = await dma.read(0x1000, 4)
        await dma.write(0x2000, data)
        return data

    assert drive(copy(), b"data", b"") == [DmaRead(0x1000, 4), DmaWrite(0x2000, b"data"), b"data"]


def test_what_is_written_is_copied_when_the_write_is_made(dma: DmaMappings) -> None:
    data = bytearray(b"before")
    write = dma.write(0, data)  # type: ignore[arg-type]  # what an author without a checker may pass
    data[:] = b"behind"
    assert write.data == b"before"


def test_a_job_may_catch_a_fault(dma: DmaMappings) -> None:
    async def careful() -> str:
        try:
            await dma.read(0, 4)
        except DmaFault:
            return "caught"
        return "read"

    work: Coroutine[object, bytes, str] = careful()
    work.send(None)  # type: ignore[arg-type]  # None starts a coroutine
    with pytest.raises(StopIteration, match="caught"):
        work.throw(DmaFault("unmapped"))
