"""The dirty log: what was written is reported once, whatever the page sizes, and its memory has an end."""

import sys
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.errors import AddressOverflow, GuestError, TooManyRanges
from mdev_user.units import PAGE, GiB, KiB, MiB
from mdev_user.vfio.dirty import LARGEST_BITMAP, LARGEST_PAGE, MOST_CHUNKS, MOST_RANGES, DirtyLog
from mdev_user.vfio.dma import ADDRESS_SPACE, DmaFlags, DmaMappings, Mapping

SPACE = 64 * PAGE
"""Bytes of the model's memory."""


def started(page_size: int = PAGE, *ranges: tuple[int, int]) -> DirtyLog:
    log = DirtyLog()
    log.start(page_size, ranges)
    return log


def pages(bitmap: bytes) -> list[int]:
    """The bits that are set."""
    assert len(bitmap) % 8 == 0
    return [at for at in range(len(bitmap) * 8) if bitmap[at // 8] & 1 << at % 8]


def test_a_written_page_is_reported_once() -> None:
    log = started()
    log.mark(3 * PAGE + 17, 1)
    log.mark(5 * PAGE, 2 * PAGE)
    assert pages(log.report(0, 64 * PAGE, PAGE)) == [3, 5, 6]
    assert pages(log.report(0, 64 * PAGE, PAGE)) == []


def test_a_report_counts_from_its_own_address() -> None:
    log = started()
    log.mark(5 * PAGE, 1)
    assert pages(log.report(4 * PAGE, 4 * PAGE, PAGE)) == [1]


def test_what_lies_outside_a_report_stays() -> None:
    log = started()
    log.mark(0, 8 * PAGE)
    assert pages(log.report(2 * PAGE, 3 * PAGE, PAGE)) == [0, 1, 2]
    assert pages(log.report(0, 8 * PAGE, PAGE)) == [0, 1, 5, 6, 7]


def test_larger_pages_are_dirty_when_a_part_is() -> None:
    log = started()
    log.mark(16 * KiB + 4 * KiB, 1)
    assert pages(log.report(0, 64 * KiB, 16 * KiB)) == [1]


def test_a_page_of_the_log_that_is_reported_in_part_stays_dirty() -> None:
    log = started(16 * KiB)
    log.mark(4 * KiB, 1)
    assert pages(log.report(0, 8 * KiB, PAGE)) == [0, 1]
    assert pages(log.report(0, 16 * KiB, PAGE)) == [0, 1, 2, 3]
    assert pages(log.report(0, 16 * KiB, PAGE)) == []


def test_only_ranges_are_logged() -> None:
    log = started(PAGE, (8 * PAGE, PAGE), (2 * PAGE, 2 * PAGE))
    log.mark(0, 64 * PAGE)
    assert pages(log.report(0, 64 * PAGE, PAGE)) == [2, 3, 8]


def test_nothing_is_logged_before_start_or_after_stop() -> None:
    log = DirtyLog()
    log.mark(0, PAGE)
    log.start(PAGE, ())
    assert pages(log.report(0, PAGE, PAGE)) == []
    log.mark(0, PAGE)
    log.stop()
    log.stop()
    log.mark(PAGE, PAGE)
    log.start(PAGE, ())
    assert pages(log.report(0, 2 * PAGE, PAGE)) == []


@pytest.mark.parametrize(("wish", "given"), [(1, PAGE), (PAGE, PAGE), (64 * KiB, 64 * KiB), (GiB, LARGEST_PAGE)])
def test_start_says_the_page_size_that_it_took(wish: int, given: int) -> None:
    assert DirtyLog().start(wish, ()) == given


@pytest.mark.parametrize(
    ("page_size", "ranges", "error"),
    [
        (0, [], GuestError),
        (PAGE + 1, [], GuestError),
        (PAGE, [(0, 0)], GuestError),
        (PAGE, [(1, PAGE)], GuestError),
        (PAGE, [(0, PAGE + 1)], GuestError),
        (PAGE, [(-PAGE, PAGE)], GuestError),
        (PAGE, [(4 * PAGE, PAGE), (0, 5 * PAGE)], GuestError),
        (PAGE, [(0, PAGE), (0, PAGE)], GuestError),
        (PAGE, [(ADDRESS_SPACE - PAGE, PAGE)], AddressOverflow),
        (PAGE, [(ADDRESS_SPACE - PAGE, 2 * PAGE)], AddressOverflow),
        (PAGE, [(at * PAGE, PAGE) for at in range(MOST_RANGES + 1)], TooManyRanges),
    ],
)
def test_a_wrong_start_is_refused_and_logs_nothing(
    page_size: int, ranges: list[tuple[int, int]], error: type[GuestError]
) -> None:
    log = DirtyLog()
    with pytest.raises(error) as caught:
        log.start(page_size, ranges)
    assert type(caught.value) is error
    assert not log.active


def test_as_many_ranges_as_linux_takes() -> None:
    log = started(PAGE, *((at * 2 * PAGE, PAGE) for at in range(MOST_RANGES)))
    log.mark(0, 4 * MOST_RANGES * PAGE)
    assert pages(log.report(0, 2 * MOST_RANGES * PAGE, PAGE)) == list(range(0, 2 * MOST_RANGES, 2))


def test_a_second_start_is_refused_and_the_first_goes_on() -> None:
    log = started()
    log.mark(0, 1)
    with pytest.raises(GuestError, match="already"):
        log.start(PAGE, ())
    assert pages(log.report(0, PAGE, PAGE)) == [0]


@pytest.mark.parametrize(
    ("iova", "length", "page_size", "error"),
    [
        (0, PAGE, 2048, GuestError),
        (0, PAGE, 0, GuestError),
        (0, PAGE, 3 * PAGE, GuestError),
        (-PAGE, PAGE, PAGE, AddressOverflow),
        (ADDRESS_SPACE - PAGE, PAGE, PAGE, AddressOverflow),
        (0, (LARGEST_BITMAP * 8 + 1) * PAGE, PAGE, GuestError),
    ],
)
def test_a_wrong_report_is_refused_and_clears_nothing(
    iova: int, length: int, page_size: int, error: type[GuestError]
) -> None:
    log = started()
    log.mark(0, PAGE)
    with pytest.raises(error) as caught:
        log.report(iova, length, page_size)
    assert type(caught.value) is error
    assert pages(log.report(0, PAGE, PAGE)) == [0]


def test_a_report_of_what_is_not_logged_is_einval() -> None:
    with pytest.raises(GuestError, match="DMA_LOGGING_START"):
        DirtyLog().report(0, PAGE, PAGE)


def test_the_largest_report_is_of_32_gib() -> None:
    log = started()
    log.mark(32 * GiB - 1, 1)
    bitmap = log.report(0, 32 * GiB, PAGE)
    assert len(bitmap) == LARGEST_BITMAP
    assert bitmap[-1] == 0x80


def test_an_empty_report_is_empty() -> None:
    log = started()
    log.mark(0, 2 * PAGE)
    assert log.report(PAGE, 0, PAGE) == b""


def held(log: DirtyLog) -> int:
    """Bytes, about, that a log holds."""
    return sys.getsizeof(log._chunks) + sum(map(sys.getsizeof, log._chunks.values()))


def test_the_memory_of_a_log_is_bounded_and_no_page_is_forgotten() -> None:
    log = started()
    far = [at * (1 << 40) for at in range(1 << 16)]
    for address in far:
        log.mark(address, 1)
    assert len(log._chunks) <= MOST_CHUNKS
    assert held(log) < 16 * MiB
    assert all(log.report(address, PAGE, PAGE)[0] & 1 for address in far)


def test_a_write_of_the_whole_address_space_takes_no_time_and_no_memory() -> None:
    log = started()
    log.mark(0, ADDRESS_SPACE)
    assert held(log) < 16 * MiB
    assert pages(log.report(1 << 60, 8 * PAGE, PAGE)) == list(range(8))


def test_a_log_of_dense_memory_stays_exact() -> None:
    log = started()
    for at in range(0, 64 * GiB, 16 * MiB):
        log.mark(at + PAGE, 16 * MiB - PAGE)
    assert log.page_size == PAGE
    assert held(log) < 4 * MiB


# --- unmapping ------------------------------------------------------------------------------------------------


def mapped() -> DmaMappings:
    dma = DmaMappings()
    dma.map(Mapping(0, 4 * PAGE, DmaFlags.READ | DmaFlags.WRITE, None))
    dma.map(Mapping(4 * PAGE, 4 * PAGE, DmaFlags.READ | DmaFlags.WRITE, None))
    return dma


def test_unmapping_gives_what_is_dirty_of_it() -> None:
    dma = mapped()
    dma.log.start(PAGE, ())
    dma.log.mark(PAGE, 5 * PAGE)
    assert pages(dma.unmap_dirty(0, 4 * PAGE, PAGE)) == [1, 2, 3]
    assert [each.iova for each in dma] == [4 * PAGE]
    assert pages(dma.log.report(0, 8 * PAGE, PAGE)) == [4, 5]


@pytest.mark.parametrize(("iova", "size", "page_size"), [(0, 2 * PAGE, PAGE), (0, 4 * PAGE, 7), (1, PAGE, PAGE)])
def test_unmapping_that_is_refused_clears_and_unmaps_nothing(iova: int, size: int, page_size: int) -> None:
    dma = mapped()
    dma.log.start(PAGE, ())
    dma.log.mark(0, PAGE)
    with pytest.raises(GuestError):
        dma.unmap_dirty(iova, size, page_size)
    assert len(dma) == 2
    assert pages(dma.log.report(0, PAGE, PAGE)) == [0]


def test_unmapping_with_a_bitmap_that_nobody_keeps_is_einval() -> None:
    dma = mapped()
    with pytest.raises(GuestError, match="not being logged"):
        dma.unmap_dirty(0, 4 * PAGE, PAGE)
    assert len(dma) == 2


def test_unmapping_plainly_forgets_no_dirty_page() -> None:
    dma = mapped()
    dma.log.start(PAGE, ())
    dma.log.mark(0, PAGE)
    assert dma.unmap(0, 4 * PAGE) == 4 * PAGE
    assert dma.unmap_all() == 4 * PAGE
    assert pages(dma.log.report(0, PAGE, PAGE)) == [0]


# --- against a model --------------------------------------------------------------------------------------------


@dataclass
class Model:
    """What is dirty, as a set of numbers of pages of the log."""

    page: int
    ranges: list[tuple[int, int]]
    dirty: set[int] = field(default_factory=set)

    def mark(self, iova: int, length: int) -> None:
        for start, size in self.ranges or [(0, SPACE)]:
            first, end = max(iova, start), min(iova + length, start + size)
            self.dirty |= {at // self.page for at in range(first, end, 512)} | (
                {(end - 1) // self.page} if first < end else set()
            )

    def report(self, iova: int, length: int, size: int) -> list[int]:
        end = iova + length
        found = [
            at
            for at in range(-(-length // size))
            if any(
                each * self.page < min(iova + (at + 1) * size, end) and (each + 1) * self.page > iova + at * size
                for each in self.dirty
            )
        ]
        self.dirty -= {each for each in self.dirty if iova <= each * self.page and (each + 1) * self.page <= end}
        return found


writes = st.tuples(st.just("mark"), st.integers(0, SPACE - 1), st.integers(0, 20 * PAGE), st.just(0))
sizes = st.sampled_from([PAGE, 2 * PAGE, 8 * PAGE])
reports = st.tuples(st.just("report"), st.integers(0, SPACE), st.integers(0, SPACE), sizes)
aligned = st.tuples(
    st.just("report"), st.integers(0, 31).map(PAGE.__mul__), st.integers(0, 33).map(PAGE.__mul__), st.just(PAGE)
)
cuts = st.lists(st.integers(0, SPACE // (8 * PAGE)).map((8 * PAGE).__mul__), max_size=6, unique=True).map(sorted)


@given(sizes, cuts, st.lists(writes | reports | aligned, max_size=12))
def test_a_log_does_what_its_model_does(page: int, cut: list[int], actions: list[tuple[str, int, int, int]]) -> None:
    ranges = [(first, last - first) for first, last in zip(cut[::2], cut[1::2], strict=False)]
    log, model = started(page, *ranges), Model(page, ranges)
    for what, at, length, size in actions:
        if what == "mark":
            log.mark(at, min(length, SPACE - at))
            model.mark(at, min(length, SPACE - at))
        else:
            assert pages(log.report(at, length, size)) == model.report(at, length, size)
    assert pages(log.report(0, SPACE, PAGE)) == model.report(0, SPACE, PAGE)


@given(st.lists(st.integers(0, (1 << 52) - 1), min_size=1, max_size=40))
def test_a_log_that_coarsens_forgets_nothing(written: list[int]) -> None:
    log = started()
    for page in written:
        log.mark(page * PAGE, PAGE)
    for by in (1, 3, 16):
        log._coarsen(by)
    assert all(log.report(page * PAGE, PAGE, PAGE)[0] & 1 for page in written if page + 1 < 1 << 52)
