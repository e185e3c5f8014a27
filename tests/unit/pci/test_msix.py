"""The MSI-X table as bytes in a BAR."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.errors import GuestError, OutOfRange
from mdev_user.pci.capabilities import Msix
from mdev_user.pci.msix import MsixTable

VECTORS = 5
SIZE = 16 * VECTORS


def control_bits(table: MsixTable) -> int:
    return sum((table.read(16 * vector + 12, 1)[0] & 1) << vector for vector in range(VECTORS))


writes = st.lists(
    st.tuples(st.integers(0, SIZE), st.binary(max_size=40)).map(lambda each: (each[0], each[1][: SIZE - each[0]]))
)


def test_after_a_reset_every_vector_is_masked_and_empty() -> None:
    table = MsixTable(Msix(VECTORS, 0))
    assert table.read(0, SIZE) == (bytes(12) + b"\1\0\0\0") * VECTORS
    assert table.masked == 0b11111
    table.write(0, bytes(SIZE))
    assert table.masked == 0
    table.mask_all()
    assert table.masked == 0b11111


@given(writes)
def test_the_masked_vectors_are_those_of_the_control_words(accesses: list[tuple[int, bytes]]) -> None:
    table, other = MsixTable(Msix(VECTORS, 0)), MsixTable(Msix(VECTORS, 0))
    for offset, data in accesses:
        table.write(offset, data)
        assert table.masked == control_bits(table)
    other.load(table.read(0, SIZE))
    assert (other.read(0, SIZE), other.masked) == (table.read(0, SIZE), table.masked)


def test_an_entry_keeps_address_and_data_and_no_reserved_bit() -> None:
    table = MsixTable(Msix(VECTORS, 0))
    table.write(16, b"\xff" * 16)
    assert table.read(16, 16) == b"\xfc" + b"\xff" * 11 + b"\1\0\0\0"


def test_unmasking_takes_the_vectors_named() -> None:
    table = MsixTable(Msix(VECTORS, 0))
    table.unmask([0, 3])
    assert table.masked == 0b10110 == control_bits(table)


def test_a_foreign_table_is_refused() -> None:
    table = MsixTable(Msix(VECTORS, 0))
    with pytest.raises(GuestError):
        table.load(b"\xff" * SIZE)
    with pytest.raises(GuestError):
        table.load(bytes(16))
    with pytest.raises(OutOfRange):
        table.write(SIZE - 2, bytes(4))
    assert table.masked == 0b11111
