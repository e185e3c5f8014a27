"""A scatter list is its pieces, one behind the other, and a part of it is a part of that."""

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.errors import DmaFault, DriverError
from mdev_user.units import PAGE
from mdev_user.vfio import scatter_list as module
from mdev_user.vfio.dma import DmaFlags, DmaMappings, Mapping
from mdev_user.vfio.scatter_list import ScatterList

ALL = 1 << 64
LENGTHS = st.integers(0, 40) | st.sampled_from([PAGE, 3 * PAGE])
ENTRIES = st.lists(st.tuples(st.integers(0, 8 * PAGE), LENGTHS), max_size=12)


def listed(pieces: list[tuple[int, int]]) -> ScatterList:
    return ScatterList(b"".join(pack("<QIi", address, length, -1) for address, length in pieces))


def bytes_of(pieces: object) -> list[int]:
    """The address of each byte."""
    return [at for address, length in pieces for at in range(address, address + length)]  # type: ignore[attr-defined]  # pieces of either kind


@given(ENTRIES, st.data())
def test_part_of_a_part_has_its_bytes(entries: list[tuple[int, int]], data: st.DataObject) -> None:
    whole = listed(entries)
    expected, part = bytes_of(entries), whole
    assert whole.size == len(expected)
    for _ in range(2):
        at = data.draw(st.integers(0, part.size))
        length = data.draw(st.integers(0, part.size - at))
        part, expected = part.cut(at, length), expected[at : at + length]
        assert (part.size, bytes_of(part)) == (length, expected)
    assert bytes_of(whole) == bytes_of(entries)


def test_sums_go_on_from_block_to_block(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [(at * 100, at) for at in range(50)]
    monkeypatch.setattr(module, "_SUMMED", 7)
    assert bytes_of(listed(entries).cut(700, 300)) == bytes_of(entries)[700:1000]


@pytest.mark.parametrize("cut", [(0, 21), (-1, 2), (21, 0), (3, -1), (20, 1)])
def test_part_that_is_not_there_is_the_drivers_mistake(cut: tuple[int, int]) -> None:
    with pytest.raises(DriverError, match="expected some of 20"):
        listed([(0, 12), (100, 8)]).cut(*cut)


def test_half_an_entry_is_the_drivers_mistake() -> None:
    with pytest.raises(DriverError, match="multiple of 16"):
        ScatterList(bytes(24))


@given(ENTRIES, st.booleans(), st.booleans())
def test_runs_are_as_of_other_pieces(entries: list[tuple[int, int]], hole: bool, read_only: bool) -> None:
    """Eight pages are in mappings of one to three; one may be missing, or be for reading only."""
    mappings, at = DmaMappings(), 0
    for number, pages in enumerate((1, 2, 1, 3, 1)):
        flags = DmaFlags.READ if read_only and number == 3 else DmaFlags.READ | DmaFlags.WRITE
        if not (hole and number == 2):
            mappings.map(Mapping(at, pages * PAGE, flags, None))
        at += pages * PAGE
    found = []
    for pieces in (entries, listed(entries)):
        try:
            runs = mappings.runs(pieces, DmaFlags.WRITE)
            found.append([(run.mapping.iova, at) for run in runs for at in bytes_of(run.pieces)])
        except DmaFault as fault:
            found.append([(-1, str(fault))])  # type: ignore[list-item]  # it is compared, and nothing else
    assert found[0] == found[1]


def test_piece_behind_all_memory_is_a_fault() -> None:
    mappings = DmaMappings()
    mappings.map(Mapping(ALL - PAGE, PAGE, DmaFlags.READ, None))
    whole = listed([(ALL - 8, 16)])
    assert whole.cut(0, 8).within(ALL - PAGE, PAGE) == 8
    for part in (whole, whole.cut(8, 8), whole.cut(12, 1)):
        assert part.within(ALL - PAGE, PAGE) == 0
        with pytest.raises(DmaFault):
            mappings.runs(part, DmaFlags.READ)
