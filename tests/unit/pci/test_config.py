"""The config space of a function in use."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.errors import DriverError, GuestError, OutOfRange
from mdev_user.pci import layout
from mdev_user.pci.bars import Bar, IoBar, MemoryBar
from mdev_user.pci.capabilities import Capability, Msi, Msix, PciExpress, PowerManagement, VendorSpecific
from mdev_user.pci.config import ConfigChange, ConfigSpace, ConfigState, MsiState, MsixState, StatusError
from mdev_user.pci.identity import PciId

ID = PciId(0x1DE5, 0x0C3C, 0x120000, 1, 0x1AF4, 0x1100)
BARS: dict[int, Bar] = {0: MemoryBar(4096), 2: MemoryBar(1 << 20, prefetchable=True, wide=True), 4: IoBar(8)}
PM, MSI, MSIX, VENDOR, EXPRESS = 0x40, 0x48, 0x60, 0x6C, 0x74
CHAIN: Sequence[Capability] = (
    PowerManagement(),
    Msi(4),
    Msix(8, 0),
    VendorSpecific(b"mdev!"),
    PciExpress(),
)
C = ConfigChange


def full(size: int = 256) -> ConfigSpace:
    return ConfigSpace(ID, BARS, CHAIN, size=size)


READ_ONLY = {  # offset: bits that no guest may move, whatever it does (PCI 3.0 chapter 6, PCIe 5.0 chapter 7)
    0x00: 0xFFFF_FFFF,
    0x04: 0x06FF_FAB8,
    0x08: 0xFFFF_FFFF,
    0x0C: 0xFFFF_FF00,
    0x10: 0x0000_0FFF,
    0x14: 0xFFFF_FFFF,
    0x18: 0x000F_FFFF,
    0x20: 0x0000_0007,
    0x24: 0xFFFF_FFFF,
    0x28: 0xFFFF_FFFF,
    0x2C: 0xFFFF_FFFF,
    0x30: 0xFFFF_FFFF,
    0x34: 0xFFFF_FFFF,
    0x38: 0xFFFF_FFFF,
    0x3C: 0xFFFF_FF00,
    PM: 0xFFFF_FFFF,
    PM + 4: 0xFFFF_FFFC,
    MSI: 0xFF8E_FFFF,
    MSI + 0x10: 0xFFFF_FFF0,
    MSI + 0x14: 0xFFFF_FFFF,
    MSIX: 0x3FFF_FFFF,
    MSIX + 4: 0xFFFF_FFFF,
    MSIX + 8: 0xFFFF_FFFF,
    VENDOR: 0xFFFF_FFFF,
    VENDOR + 4: 0xFFFF_FFFF,
    EXPRESS: 0xFFFF_FFFF,
    EXPRESS + 4: 0xFFFF_FFFF,
}
writes = st.lists(
    st.tuples(st.integers(0, 0xFF), st.binary(max_size=64)).map(lambda each: (each[0], each[1][: 256 - each[0]])),
    max_size=12,
)


def moved_read_only_bits(space: ConfigSpace, accesses: list[tuple[int, bytes]]) -> dict[int, int]:
    before = {offset: space.read(offset, 4) for offset in READ_ONLY}
    for offset, data in accesses:
        space.write(offset, data)
    now = {offset: space.read(offset, 4) for offset in READ_ONLY}
    moved = {
        offset: bits & (int.from_bytes(before[offset], "little") ^ int.from_bytes(now[offset], "little"))
        for offset, bits in READ_ONLY.items()
    }
    return {offset: bits for offset, bits in moved.items() if bits}


@given(writes)
def test_a_guest_never_moves_a_read_only_bit(accesses: list[tuple[int, bytes]]) -> None:
    assert moved_read_only_bits(full(), accesses) == {}


def test_a_mask_with_one_bit_too_many_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the test above fails when bus mastering's neighbour becomes writable."""
    monkeypatch.setattr(layout, "COMMAND_MASTER", 0x000C)
    layout.lay_out.cache_clear()
    mutant = full()
    layout.lay_out.cache_clear()
    assert moved_read_only_bits(mutant, [(0x04, b"\xff\xff")]) == {0x04: 0x8}


def test_the_spaces_of_one_declaration_share_their_masks_but_no_value() -> None:
    one, other = full(), full()
    assert one._image is other._image
    one.write(0x3C, b"\x0b")
    assert other.read(0x3C, 1) == b"\0"


@given(writes)
def test_a_write_reports_what_it_changed_and_nothing_else(accesses: list[tuple[int, bytes]]) -> None:
    space = full()
    places = {C.COMMAND: (4, 2), C.BARS: (0x10, 24), C.POWER: (PM, 8), C.MSI: (MSI, 24), C.MSIX: (MSIX, 12)}
    for offset, data in accesses:
        before = {change: space.read(*place) for change, place in places.items()}
        expected = C.NONE
        reported = space.write(offset, data)
        for change, place in places.items():
            if space.read(*place) != before[change]:
                expected |= change
        assert reported == expected


def test_sizing_and_writing_back_reports_each_step_and_rewriting_reports_nothing() -> None:
    space = full()
    assert space.write(0x10, b"\xff" * 4) is C.BARS
    assert space.write(0x10, b"\xff" * 4) is C.NONE
    assert space.write(0x10, bytes(4)) is C.BARS
    assert space.write(0x3C, b"\x0b") is C.NONE


def test_the_whole_space_is_read_at_once() -> None:
    space = full()
    whole = space.read(0, 256)
    assert whole == b"".join(space.read(offset, 1) for offset in range(256))
    with pytest.raises(OutOfRange):
        space.read(0, 257)
    with pytest.raises(OutOfRange):
        space.write(255, b"\0\0")


def test_a_pci_express_space_has_4096_bytes() -> None:
    space = full(size=4096)
    assert space.read(0x100, 0xF00) == bytes(0xF00)
    assert space.write(0x100, b"\xff" * 4) is C.NONE
    assert space.read(0x100, 4) == bytes(4)


def test_header_storage_is_the_guests() -> None:
    plain, express = ConfigSpace(ID, BARS), full()
    for space in (plain, express):
        space.write(0x0C, b"\x10\x40")
        space.write(0x3C, b"\x0b\x55")
        assert space.read(0x3C, 4) == b"\x0b\x01\0\0"
    assert plain.read(0x0C, 4) == b"\x10\x40\0\0"
    assert express.read(0x0C, 4) == b"\x10\0\0\0", "PCI Express wires the latency timer to zero"


@pytest.mark.parametrize(
    ("bars", "pin", "writable"),
    [({}, 0, 0x0144), ({}, 1, 0x0544), ({0: IoBar(8)}, 1, 0x0545), ({0: MemoryBar(16)}, 1, 0x0546)],
)
def test_command_has_bits_for_what_the_function_has(bars: dict[int, Bar], pin: int, writable: int) -> None:
    space = ConfigSpace(ID, bars, interrupt_pin=pin)
    space.write(0x04, b"\xff\xff")
    assert int.from_bytes(space.read(0x04, 2), "little") == writable
    assert space.interrupt_pin == pin


@pytest.mark.parametrize(
    ("bit", "name"),
    [(0x001, "io_enabled"), (0x002, "memory_enabled"), (0x004, "bus_master"), (0x400, "intx_disabled")],
)
def test_each_command_bit_is_one_property(bit: int, name: str) -> None:
    names = {"io_enabled", "memory_enabled", "bus_master", "intx_disabled"}
    space = full()
    assert space.write(0x04, bit.to_bytes(2, "little")) is C.COMMAND
    assert {each for each in names if getattr(space, each)} == {name}


def test_interrupt_status_is_live_and_not_the_guests() -> None:
    space = full()
    space.interrupt_status = True
    assert space.read(0x06, 2) == b"\x18\0"
    space.write(0x06, b"\xff\xff")
    assert space.interrupt_status
    space.interrupt_status = False
    assert space.read(0x06, 2) == b"\x10\0"
    without = ConfigSpace(ID, {}, interrupt_pin=0)
    without.interrupt_status = True
    assert not without.interrupt_status


@pytest.mark.parametrize("error", list(StatusError))
def test_an_error_bit_stays_until_the_guest_writes_one(error: StatusError) -> None:
    space = full()
    space.latch(error)
    latched = (error | 0x10).to_bytes(2, "little")
    space.write(0x06, bytes(2))
    space.write(0x04, bytes(2))
    assert space.read(0x06, 2) == latched
    assert space.write(0x06, latched) is C.NONE
    assert space.read(0x06, 2) == b"\x10\0"


def test_clearing_one_error_bit_keeps_the_others() -> None:
    space = full()
    space.latch(StatusError.DETECTED_PARITY | StatusError.RECEIVED_MASTER_ABORT)
    space.write(0x07, b"\x80")
    assert space.read(0x07, 1) == b"\x20"


def test_bar_addresses_are_what_the_guest_wrote() -> None:
    space = full()
    assert [space.bar_address(index) for index in (0, 2, 4)] == [0, 0, 0]
    space.write(0x10, (0xFEB00000).to_bytes(4, "little"))
    space.write(0x18, (0x38_0000_0000).to_bytes(8, "little"))
    space.write(0x20, (0xC040).to_bytes(4, "little"))
    assert [space.bar_address(index) for index in (0, 2, 4)] == [0xFEB00000, 0x38_0000_0000, 0xC040]


def test_msi_registers_as_one_value() -> None:
    space = full()
    assert space.msi == MsiState(enabled=False, address=0, data=0, vectors=1, mask=0, pending=0)
    space.write(MSI + 4, (0x1_FEE0_1007).to_bytes(8, "little"))
    space.write(MSI + 0xC, b"\x34\x12")
    space.write(MSI + 0x10, b"\xff\xff\xff\xff")
    assert space.write(MSI + 2, b"\x21\0") is C.MSI
    space.show_msi_pending(0b0100)
    assert space.msi == MsiState(enabled=True, address=0x1_FEE0_1004, data=0x1234, vectors=4, mask=0xF, pending=0b0100)
    assert space.msi_capacity == 4


def test_a_narrow_msi_without_masks() -> None:
    space = ConfigSpace(ID, {}, [Msi(2, wide=False, maskable=False)])
    space.write(0x44, b"\xff" * 8)
    space.show_msi_pending(1)
    assert space.msi == MsiState(enabled=False, address=0xFFFF_FFFC, data=0xFFFF, vectors=1, mask=0, pending=0)


@pytest.mark.parametrize("field", range(8))
def test_no_more_messages_are_allocated_than_declared(field: int) -> None:
    space = full()
    space.write(MSI + 2, bytes((field << 4,)))
    assert space.msi_vectors == min(1 << field, 4)


def test_msix_control_as_one_value() -> None:
    space = full()
    assert space.msix == MsixState(enabled=False, function_mask=False)
    assert space.write(MSIX + 3, b"\xc0") is C.MSIX
    assert space.msix == MsixState(enabled=True, function_mask=True)
    space.write(MSIX + 3, b"\x40")
    assert space.msix == MsixState(enabled=False, function_mask=True)


def test_absent_capabilities_are_none_and_disabled() -> None:
    space = ConfigSpace(ID, BARS)
    space.write(0, b"\xff" * 256)
    space.show_msi_pending(1)
    space.enable_messages(msi=True, msix=True)
    assert (space.msi, space.msix, space.msix_layout) == (None, None, None)
    assert (space.msi_enabled, space.msix_enabled, space.msix_function_mask) == (False, False, False)
    assert (space.msi_vectors, space.msi_capacity, space.msi_mask, space.power_state) == (1, 0, 0, 0)
    assert space.read(0x40, 0xC0) == bytes(0xC0)


def test_enabling_messages_moves_only_the_enable_bits() -> None:
    space = full()
    before = space.read(0, 256)
    space.enable_messages(msi=False, msix=True)
    assert (space.msi_enabled, space.msix_enabled) == (False, True)
    space.enable_messages(msi=True, msix=False)
    assert (space.msi_enabled, space.msix_enabled) == (True, False)
    space.enable_messages(msi=False, msix=False)
    assert space.read(0, 256) == before


def test_power_goes_to_d3hot_and_back_and_nowhere_else() -> None:
    space = full()
    assert space.write(PM + 4, b"\x03") is C.POWER
    for unsupported in (b"\x01", b"\x02"):
        assert space.write(PM + 4, unsupported) is C.NONE
        assert space.power_state == 3
    assert space.write(PM + 4, b"\x00") is C.POWER
    assert space.write(PM + 4, b"\x02") is C.NONE
    assert (space.power_state, space.read(PM + 4, 2)) == (0, b"\x08\0")


def test_reset_values_are_the_devices_own_bytes() -> None:
    """Linux's mtty: I/O enabled and medium DEVSEL from the start, and a text outside of any capability."""
    space = ConfigSpace(
        PciId(0x4348, 0x3253, 0x070002, 0x10),
        {0: IoBar(8)},
        reset_values={0x04: b"\x01\0\0\x02", 0x60: b"PCI Serial/UART"},
    )
    space.write(0, b"\xff" * 256)
    assert space.read(0x60, 15) == b"PCI Serial/UART"
    space.reset()
    assert space.read(0x04, 4) == b"\x01\0\0\x02"
    space.write(0x04, bytes(4))
    assert space.read(0x04, 4) == b"\0\0\0\x02"


@pytest.mark.parametrize("offset", [0x00, 0x10, 0x34, 0x40, 0x8F, 0x100 - 1])
def test_reset_values_do_not_lie_over_registers(offset: int) -> None:
    with pytest.raises(DriverError, match=r"declared twice|do not fit"):
        ConfigSpace(ID, BARS, CHAIN, reset_values={offset: b"\xff\xff"})


@pytest.mark.parametrize(
    ("size", "pin", "text"),
    [(255, 1, "256 or 4096"), (512, 1, "256 or 4096"), (256, 5, "interrupt_pin"), (256, -1, "interrupt_pin")],
)
def test_a_bad_shape_is_refused(size: int, pin: int, text: str) -> None:
    with pytest.raises(DriverError, match=text):
        ConfigSpace(ID, BARS, size=size, interrupt_pin=pin)


@given(writes)
def test_what_was_saved_is_loaded_bit_for_bit(accesses: list[tuple[int, bytes]]) -> None:
    space, other = full(), full()
    for offset, data in accesses:
        space.write(offset, data)
    space.interrupt_status = True
    space.show_msi_pending(5)
    space.latch(StatusError.DETECTED_PARITY)
    other.load(space.save())
    assert other.save() == space.save()


@given(st.binary(min_size=256, max_size=256), writes)
def test_a_loaded_state_is_one_that_a_guest_could_have_made(noise: bytes, accesses: list[tuple[int, bytes]]) -> None:
    space = full()
    before = space.save()
    mixed = bytearray(before.values)
    for offset, data in [(0, noise), *accesses][len(accesses) > 6 :]:
        mixed[offset : offset + len(data)] = data
    try:
        space.load(ConfigState(bytes(mixed)))
    except GuestError:
        assert space.save() == before
        return
    assert moved_read_only_bits(space, [(0, bytes(before.values))]) == {}


@pytest.mark.parametrize("state", [1, 2])
def test_a_power_state_that_cannot_be_is_not_loaded(state: int) -> None:
    space = full()
    values = bytearray(space.save().values)
    values[PM + 4] |= state
    with pytest.raises(GuestError, match="D0 or D3hot"):
        space.load(ConfigState(bytes(values)))
    with pytest.raises(GuestError, match="expected 256, given 0"):
        space.load(ConfigState(b""))
    assert space.power_state == 0
