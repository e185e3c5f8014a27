"""BAR kinds and their registers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.errors import DriverError
from mdev_user.pci.bars import Bar, IoBar, MemoryBar
from mdev_user.pci.config import ConfigSpace
from mdev_user.pci.identity import PciId

ID = PciId(0x1DE5, 1, 0x120000)
ALL = [
    *(IoBar(1 << n) for n in range(2, 9)),
    *(MemoryBar(1 << n, prefetchable) for n in range(4, 32) for prefetchable in (False, True)),
    *(MemoryBar(1 << n, prefetchable, wide=True) for n in range(4, 64) for prefetchable in (False, True)),
]


def size_like_firmware(space: ConfigSpace, index: int) -> tuple[int, int]:
    """Type bits and size, found by writing all ones as PCI 3.0 section 6.2.5.1 says."""
    register = 0x10 + 4 * index
    space.write(register, b"\xff" * 4)
    low = int.from_bytes(space.read(register, 4), "little")
    if low & 1:
        return low & 3, (~(low & ~3) & 0xFFFF_FFFF) + 1
    mask, width = low & ~0xF, 32
    if low & 6 == 4:
        space.write(register + 4, b"\xff" * 4)
        mask, width = mask | int.from_bytes(space.read(register + 4, 4), "little") << 32, 64
    return low & 0xF, (~mask & ((1 << width) - 1)) + 1


@pytest.mark.parametrize("bar", ALL, ids=repr)
def test_sizing_finds_kind_and_size(bar: Bar) -> None:
    space = ConfigSpace(ID, {2: bar})
    assert size_like_firmware(space, 2) == (bar.type_bits, bar.size)


@given(st.sampled_from(ALL), st.integers(0, (1 << 64) - 1))
def test_an_address_is_aligned_to_the_size(bar: Bar, address: int) -> None:
    space = ConfigSpace(ID, {4: bar})
    space.write(0x20, address.to_bytes(8, "little"))
    expected = address & ((1 << 32 * bar.slots) - 1) & -bar.size
    assert space.bar_address(4) == expected
    register = int.from_bytes(space.read(0x20, 4 * bar.slots), "little")
    assert register == expected | bar.type_bits


def test_mtty_bars_size_as_on_linux_but_clear_low_address_bits() -> None:
    space = ConfigSpace(ID, {0: IoBar(8), 1: IoBar(8)})
    space.write(0x10, b"\xff" * 24)
    assert space.read(0x10, 24) == bytes.fromhex("f9ffffff f9ffffff") + bytes(16)
    space.write(0x10, bytes.fromhex("341200e0"))
    assert space.read(0x10, 4) == bytes.fromhex("311200e0")


def test_an_absent_bar_reads_zero_and_ignores_writes() -> None:
    space = ConfigSpace(ID, {})
    space.write(0x10, b"\xff" * 24)
    space.write(0x30, bytes.fromhex("00f8ffff"))
    assert space.read(0x10, 24) == bytes(24)
    assert space.read(0x30, 4) == bytes(4)
    with pytest.raises(DriverError, match=r"bar_address\(0\)"):
        space.bar_address(0)


@pytest.mark.parametrize("size", [0, -8, 2, 12, 512])
def test_an_io_bar_is_a_power_of_two_from_4_to_256(size: int) -> None:
    with pytest.raises(DriverError, match="IoBar: expected a power of two"):
        IoBar(size)


@pytest.mark.parametrize(("size", "wide"), [(0, False), (8, False), (4097, False), (1 << 32, False), (1 << 64, True)])
def test_a_memory_bar_is_a_power_of_two_within_its_width(size: int, wide: bool) -> None:
    with pytest.raises(DriverError, match="MemoryBar: expected a power of two"):
        MemoryBar(size, wide=wide)


@pytest.mark.parametrize(
    ("bars", "text"),
    [
        ({6: IoBar(8)}, "BAR 6: .* slots 6; a function has slots 0 to 5"),
        ({-1: IoBar(8)}, "BAR -1"),
        ({5: MemoryBar(4096, wide=True)}, "slots 5 and 6"),
        ({0: MemoryBar(4096, wide=True), 1: IoBar(8)}, "slot 1 is the upper half of the wide BAR 0"),
    ],
)
def test_slots_are_checked(bars: dict[int, Bar], text: str) -> None:
    with pytest.raises(DriverError, match=text):
        ConfigSpace(ID, bars)
