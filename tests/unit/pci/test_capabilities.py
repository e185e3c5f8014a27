"""Capabilities: their registers, and the chain."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.errors import DriverError
from mdev_user.pci.bars import Bar, IoBar, MemoryBar
from mdev_user.pci.capabilities import (
    Capability,
    Msi,
    Msix,
    PciExpress,
    PowerManagement,
    VendorSpecific,
)
from mdev_user.pci.config import ConfigSpace
from mdev_user.pci.identity import PciId

ID = PciId(0x1DE5, 1, 0x120000)
BARS: dict[int, Bar] = {0: MemoryBar(1 << 17), 1: IoBar(8)}


def walk(space: ConfigSpace) -> Iterator[tuple[int, int]]:
    """Offset and id of each capability, as pciutils walks the list: status bit, masked pointers, no loops."""
    if not space.read(0x06, 1)[0] & 0x10:
        return
    seen = set()
    where = space.read(0x34, 1)[0] & ~3
    while where:
        assert where >= 0x40
        assert where not in seen, "the chain loops"
        seen.add(where)
        identity, following = space.read(where, 2)
        assert identity != 0xFF
        yield where, identity
        where = following & ~3


msis = st.builds(Msi, st.sampled_from([1, 2, 4, 8, 16, 32]), st.booleans(), st.booleans())
vendors = st.builds(VendorSpecific, st.binary(max_size=20))
SINGLES: list[Capability] = [Msix(64, 0), PowerManagement(), PciExpress()]
singles = st.lists(st.sampled_from(SINGLES), unique=True)


@st.composite
def chains(draw: st.DrawFn) -> list[Capability]:
    chain: list[Capability] = [*draw(singles), *draw(st.lists(vendors, max_size=2)), *draw(st.lists(msis, max_size=1))]
    return draw(st.permutations(chain))


@given(chains())
def test_the_chain_is_walked_in_declaration_order(chain: list[Capability]) -> None:
    space = ConfigSpace(ID, BARS, chain)
    found = list(walk(space))
    assert [identity for _, identity in found] == [each.capability_id for each in chain]
    for (offset, _), capability in zip(found, chain, strict=True):
        values = capability.image().values
        assert offset % 4 == 0
        assert space.read(offset + 2, len(values) - 2) == values[2:]


@given(chains(), st.binary(min_size=256, max_size=256))
def test_no_write_changes_the_chain(chain: list[Capability], noise: bytes) -> None:
    space = ConfigSpace(ID, BARS, chain)
    before = list(walk(space))
    space.write(0, noise)
    assert list(walk(space)) == before


def test_a_function_without_capabilities_has_no_list() -> None:
    space = ConfigSpace(ID, BARS)
    assert list(walk(space)) == []
    assert space.read(0x34, 1) == b"\0"


def test_the_list_may_fill_its_room_but_not_leave_it() -> None:
    space = ConfigSpace(ID, {}, [VendorSpecific(bytes(0xBD - 8)), PowerManagement()])
    assert list(walk(space)) == [(0x40, 9), (0xF8, 1)]
    with pytest.raises(DriverError, match="ends at 0x108, the list at 0x100"):
        ConfigSpace(ID, {}, [VendorSpecific(bytes(0xBD)), PowerManagement()], size=4096)


@pytest.mark.parametrize(
    ("msi", "registers", "writable"),
    [
        (Msi(1, wide=False, maskable=False), "0500 0000 00000000 0000", "0000 7100 fcffffff ffff"),
        (
            Msi(4, wide=True, maskable=False),
            "0500 8400 00000000 00000000 0000",
            "0000 7100 fcffffff ffffffff ffff",
        ),
        (
            Msi(8, wide=False, maskable=True),
            "0500 0601 00000000 0000 0000 00000000 00000000",
            "0000 7100 fcffffff ffff 0000 ff000000 00000000",
        ),
        (
            Msi(32, wide=True, maskable=True),
            "0500 8a01 00000000 00000000 0000 0000 00000000 00000000",
            "0000 7100 fcffffff ffffffff ffff 0000 ffffffff 00000000",
        ),
    ],
)
def test_msi_has_the_four_layouts_of_the_specification(msi: Msi, registers: str, writable: str) -> None:
    image = msi.image()
    assert (image.values, image.writable) == (bytes.fromhex(registers), bytes.fromhex(writable))


def test_msix_says_where_table_and_pending_bits_are() -> None:
    image = Msix(5, table_bar=2, table_offset=0x1000, pba_bar=4, pba_offset=0x800).image()
    assert image.values == bytes.fromhex("1100 0400 02100000 04080000")
    assert image.writable == bytes.fromhex("0000 00c0 00000000 00000000")


def test_msix_pending_bits_follow_the_table_unless_placed() -> None:
    assert Msix(3, table_bar=1, table_offset=0x40).pba == (1, 0x70, 8)
    assert Msix(65, table_bar=1).pba == (1, 65 * 16, 16)


def test_power_management_offers_d0_and_d3hot_only() -> None:
    image = PowerManagement().image()
    assert image.values == bytes.fromhex("0100 0300 0800 0000")
    assert image.writable == bytes.fromhex("0000 0000 0300 0000")


def test_vendor_bytes_are_read_only_behind_their_length() -> None:
    image = VendorSpecific(b"\0XR24").image()
    assert image.values == b"\x09\0\x08\0XR24"
    assert not any(image.writable)


@pytest.mark.parametrize(
    ("declare", "text"),
    [
        (lambda: Msi(3), "Msi.vectors"),
        (lambda: Msi(64), "Msi.vectors"),
        (lambda: Msi(0), "Msi.vectors"),
        (lambda: Msix(0, 0), "Msix.vectors"),
        (lambda: Msix(2049, 0), "Msix.vectors"),
        (lambda: Msix(1, 6), "Msix.table_bar"),
        (lambda: Msix(1, 0, 4), "Msix.table_offset"),
        (lambda: Msix(1, 0, -8), "Msix.table_offset"),
        (lambda: Msix(1, 0, 0, 7, 0), "Msix.pba_bar"),
        (lambda: Msix(1, 0, 0, 0, 1 << 32), "Msix.pba_offset"),
        (lambda: Msix(1, 0, 0, 2), "say where in its own BAR"),
        (lambda: Msix(2, 0, 0, 0, 24), "overlap"),
        (lambda: Msix(2, 0, 8, 0, 0x28 - 8), "overlap"),
        (lambda: VendorSpecific(bytes(0xBE)), "VendorSpecific.data"),
    ],
)
def test_a_capability_that_cannot_exist_is_refused(declare: Callable[[], object], text: str) -> None:
    with pytest.raises(DriverError, match=text):
        declare()


@pytest.mark.parametrize(
    ("chain", "text"),
    [
        ([Msi(), Msi(2)], "Msi is declared twice"),
        ([Msix(1, 1)], "table_bar: expected a memory BAR, BAR 1 is IoBar"),
        ([Msix(1, 3)], "BAR 3 is None"),
        ([Msix(1, 0, 0x1FFF8)], "do not fit in BAR 0"),
        ([Msix(1, 0, 0, 0, 0x20000)], "Msix.pba: .* do not fit in BAR 0"),
    ],
)
def test_a_capability_that_does_not_fit_the_function_is_refused(chain: list[Capability], text: str) -> None:
    with pytest.raises(DriverError, match=text):
        ConfigSpace(ID, BARS, chain)
