"""The interrupt logic of a function."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.errors import DriverError, GuestError, OutOfRange
from mdev_user.pci.bars import MemoryBar
from mdev_user.pci.capabilities import Capability, Msi, Msix
from mdev_user.pci.config import ConfigChange, ConfigSpace, StatusError
from mdev_user.pci.identity import PciId
from mdev_user.pci.interrupts import InterruptKind, Interrupts, InterruptState

INTX, MSI, MSIX = InterruptKind.INTX, InterruptKind.MSI, InterruptKind.MSIX
MSI_CAP, MSIX_CAP = 0x40, 0x58
MASTER, DISABLE_INTX = 0x0004, 0x0400
BOTH: Sequence[Capability] = (Msi(4), Msix(70, 0, 0x1000, 0, 0x2000))


class Guest:
    """A guest that listens to what it chooses, and the function it uses."""

    def __init__(self, capabilities: Sequence[Capability] = BOTH, pin: int = 1) -> None:
        identity = PciId(0x1DE5, 1, 0x120000)
        self.config = ConfigSpace(identity, {0: MemoryBar(0x4000)}, capabilities, interrupt_pin=pin)
        self.pin: list[bool] = []
        self.sent: list[tuple[InterruptKind, int]] = []
        self.listens = True
        self.function = Interrupts(self.config, self.pin.append, self.receive)

    def receive(self, kind: InterruptKind, vector: int) -> bool:
        if self.listens:
            self.sent.append((kind, vector))
        return self.listens

    def write(self, offset: int, value: int, size: int = 2) -> None:
        self.function.config_written(self.config.write(offset, value.to_bytes(size, "little")))

    def command(self, value: int) -> None:
        self.write(0x04, value)

    def enable_msi(self, log2_vectors: int = 2, enabled: int = 1) -> None:
        self.command(MASTER)
        self.write(MSI_CAP + 2, enabled | log2_vectors << 4)

    def mask_msi(self, mask: int) -> None:
        self.write(MSI_CAP + 0x10, mask, 4)

    def msi_pending(self) -> int:
        state = self.config.msi
        assert state is not None
        return state.pending

    def control_msix(self, *, enabled: bool = True, masked: bool = False) -> None:
        self.command(MASTER)
        self.write(MSIX_CAP + 2, enabled << 15 | masked << 14)

    def mask_vector(self, vector: int, masked: int) -> None:
        table, _ = self.function.windows()
        table.write(16 * vector + 12, masked.to_bytes(4, "little"))

    def pba(self) -> int:
        _, pba = self.function.windows()
        return int.from_bytes(pba.read(0, pba.size), "little")

    def status(self) -> bool:
        return self.config.read(0x06, 1)[0] & 0x08 != 0

    def take(self) -> list[tuple[InterruptKind, int]]:
        sent, self.sent = self.sent, []
        return sent


# --- INTx -------------------------------------------------------------------------------------------------------


def test_the_pin_is_up_while_any_level_is() -> None:
    guest = Guest()
    guest.function.raise_level(0)
    guest.function.raise_level(0)
    guest.function.raise_level(31)
    guest.function.lower_level(0)
    assert guest.pin == [True]
    assert guest.status()
    guest.function.lower_level(31)
    guest.function.lower_level(31)
    assert guest.pin == [True, False]
    assert not guest.status()
    assert guest.sent == []


def test_the_disable_bit_holds_the_pin_but_not_the_status() -> None:
    guest = Guest()
    guest.command(DISABLE_INTX)
    guest.function.raise_level(0)
    assert guest.pin == []
    assert guest.status()
    guest.command(0)
    assert guest.pin == [True]
    guest.command(DISABLE_INTX)
    assert guest.pin == [True, False]
    assert guest.status()
    assert not guest.function.pin


def test_a_function_without_a_pin_never_drives_it() -> None:
    guest = Guest(pin=0)
    guest.function.raise_level(0)
    assert guest.pin == []
    assert not guest.status()
    assert guest.function.counts == (0, 4, 70)


def test_an_event_has_no_pin() -> None:
    guest = Guest()
    guest.function.fire(0)
    assert (guest.pin, guest.sent, guest.function.pending) == ([], [], 0)


def test_enabling_messages_takes_the_pin_down_and_tells_the_level_again() -> None:
    guest = Guest()
    guest.function.raise_level(2)
    guest.enable_msi()
    assert guest.pin == [True, False]
    assert guest.take() == [(MSI, 2)]
    assert not guest.status()
    guest.write(MSI_CAP + 2, 0)
    assert guest.pin == [True, False, True]
    guest.control_msix()
    guest.mask_vector(2, 0)
    assert guest.take() == [(MSIX, 2)]


# --- MSI --------------------------------------------------------------------------------------------------------


def test_a_held_pin_is_up_with_intx_and_sends_nothing_otherwise() -> None:
    guest = Guest()
    guest.function.hold_pin()
    guest.function.hold_pin()
    guest.function.release_pin()
    assert (guest.pin, guest.status()) == ([True], True)
    guest.enable_msi()
    assert (guest.pin, guest.status(), guest.take()) == ([True, False], False, [])
    guest.enable_msi(enabled=0)
    assert (guest.pin, guest.status()) == ([True, False, True], True)
    guest.function.release_pin()
    assert (guest.pin, guest.status()) == ([True, False, True, False], False)


def test_a_reset_releases_the_pin() -> None:
    guest = Guest()
    guest.function.hold_pin()
    guest.config.reset()
    guest.function.reset()
    assert (guest.pin, guest.status()) == ([True, False], False)


def test_a_message_is_sent_for_each_rise_and_each_event() -> None:
    guest = Guest()
    guest.enable_msi()
    for _ in range(2):
        guest.function.raise_level(1)
        guest.function.raise_level(1)
        guest.function.lower_level(1)
    guest.function.fire(3)
    guest.function.fire(3)
    assert guest.take() == [(MSI, 1), (MSI, 1), (MSI, 3), (MSI, 3)]
    assert guest.pin == []


@pytest.mark.parametrize(
    ("log2", "expected"), [(0, [0, 0, 0, 0]), (1, [0, 1, 0, 1]), (2, [0, 1, 2, 3]), (5, [0, 1, 2, 3])]
)
def test_with_fewer_messages_than_vectors_they_are_shared(log2: int, expected: list[int]) -> None:
    guest = Guest()
    guest.enable_msi(log2)
    for vector in range(4):
        guest.function.fire(vector)
    assert [vector for _, vector in guest.take()] == expected


def test_a_masked_message_is_pending_and_sent_once_on_unmask() -> None:
    guest = Guest()
    guest.enable_msi()
    guest.mask_msi(0b0010)
    guest.function.fire(1)
    guest.function.fire(1)
    guest.function.fire(2)
    assert guest.take() == [(MSI, 2)]
    assert (guest.msi_pending(), guest.function.pending) == (0b0010, 0b0010)
    guest.mask_msi(0)
    assert guest.take() == [(MSI, 1)]
    assert guest.msi_pending() == 0


def test_without_masks_nothing_is_held_back() -> None:
    guest = Guest([Msi(1, maskable=False)])
    guest.enable_msi()
    guest.function.fire(0)
    assert guest.take() == [(MSI, 0)]
    assert guest.function.windows() == ()


def test_a_condition_that_is_served_while_masked_sends_nothing() -> None:
    """PCI 3.0 section 6.8.3.5: software that polls must not get a spurious message when it unmasks."""
    guest = Guest()
    guest.enable_msi(log2_vectors=1)
    guest.mask_msi(0b1)
    guest.function.raise_level(0)
    guest.function.raise_level(2)
    guest.function.lower_level(0)
    assert guest.msi_pending() == 0b1, "vector 2 shares the message and its condition still holds"
    guest.function.lower_level(2)
    assert guest.msi_pending() == 0
    guest.mask_msi(0)
    assert guest.take() == []


def test_only_a_bus_master_sends_messages() -> None:
    guest = Guest()
    guest.enable_msi()
    guest.command(0)
    guest.function.fire(1)
    assert guest.take() == []
    guest.command(MASTER)
    assert guest.take() == [(MSI, 1)]


def test_a_smaller_allocation_drops_what_it_has_no_message_for() -> None:
    guest = Guest()
    guest.enable_msi()
    guest.mask_msi(0b1111)
    guest.function.fire(0)
    guest.function.fire(3)
    guest.enable_msi(log2_vectors=1)
    assert guest.msi_pending() == 0b0001


# --- MSI-X ------------------------------------------------------------------------------------------------------


def test_msix_holds_masked_vectors_in_the_pending_bits() -> None:
    guest = Guest()
    guest.control_msix()
    guest.function.fire(0)
    guest.function.fire(69)
    assert guest.sent == []
    assert guest.pba() == 1 << 69 | 1
    guest.mask_vector(69, 0)
    assert guest.take() == [(MSIX, 69)]
    assert guest.pba() == 1
    guest.function.fire(69)
    assert guest.take() == [(MSIX, 69)]
    guest.mask_vector(0, 0)
    assert guest.take() == [(MSIX, 0)]
    assert guest.pba() == 0


def test_pending_bits_that_ignored_the_mask_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without the mask the first step of the test above already sends."""
    monkeypatch.setattr(Interrupts, "_blocked", lambda self: 0)
    with pytest.raises(AssertionError):
        test_msix_holds_masked_vectors_in_the_pending_bits()


def test_the_function_mask_holds_every_vector() -> None:
    guest = Guest()
    guest.control_msix(masked=True)
    guest.mask_vector(5, 0)
    guest.function.fire(5)
    assert guest.sent == []
    assert guest.pba() == 1 << 5
    guest.control_msix()
    assert guest.take() == [(MSIX, 5)]


def test_msix_goes_before_msi() -> None:
    guest = Guest()
    guest.enable_msi()
    guest.control_msix()
    assert guest.function.kind is MSIX


def test_windows_are_where_the_capability_says() -> None:
    table, pba = Guest().function.windows()
    assert (table.bar, table.offset, table.size) == (0, 0x1000, 70 * 16)
    assert (pba.bar, pba.offset, pba.size) == (0, 0x2000, 16)


@pytest.mark.parametrize(("offset", "count"), [(-1, 1), (0, 17), (16, 1), (0, -1)])
def test_the_pending_bits_end_where_they_end(offset: int, count: int) -> None:
    _, pba = Guest().function.windows()
    with pytest.raises(OutOfRange, match="the pending bit array has 0x10 bytes"):
        pba.read(offset, count)


def test_the_pending_bits_are_read_only_and_read_in_any_size() -> None:
    guest = Guest()
    guest.control_msix()
    guest.function.fire(9)
    _, pba = guest.function.windows()
    pba.write(0, bytes(16))
    assert pba.read(0, 8) == b"\0\2" + bytes(6)
    assert pba.read(1, 1) == b"\2"
    guest.control_msix(enabled=False)
    assert guest.pba() == 0


# --- a VFIO client ----------------------------------------------------------------------------------------------


def test_a_client_that_only_arms_gets_its_interrupts() -> None:
    """Like DPDK or QEMU: eventfds, the bus master bit, and never a byte of the MSI-X table."""
    guest = Guest()
    guest.command(MASTER)
    guest.function.arm(MSIX, [0, 1])
    assert guest.config.msix_enabled
    for vector in range(3):
        guest.function.fire(vector)
    assert guest.take() == [(MSIX, 0), (MSIX, 1)]
    assert guest.pba() == 0b100
    guest.function.arm(INTX, [0])
    assert (guest.function.kind, guest.config.msix_enabled, guest.function.pending) == (INTX, False, 0)
    guest.function.arm(MSI, range(4))
    assert (guest.function.kind, guest.config.msi_enabled) == (MSI, True)


def test_a_message_that_nobody_hears_waits_for_the_eventfd() -> None:
    """QEMU enables in config space before it arms, and disarms all vectors to arm one more."""
    guest = Guest()
    guest.listens = False
    guest.control_msix()
    guest.function.fire(7)
    guest.function.arm(MSIX, [7])
    assert (guest.sent, guest.pba()) == ([], 1 << 7)
    guest.listens = True
    guest.function.arm(MSIX, [6, 7])
    assert guest.take() == [(MSIX, 7)]
    assert guest.pba() == 0


def test_a_message_that_is_heard_again_is_not_pending_any_more() -> None:
    guest = Guest()
    guest.enable_msi()
    guest.listens = False
    guest.function.fire(1)
    assert guest.msi_pending() == 0b10
    guest.listens = True
    guest.function.fire(1)
    assert (guest.take(), guest.msi_pending()) == ([(MSI, 1)], 0)


@pytest.mark.parametrize(("kind", "vectors"), [(INTX, [1]), (MSI, [4]), (MSIX, [70]), (MSIX, [-1])])
def test_arming_what_is_not_there_is_refused(kind: InterruptKind, vectors: list[int]) -> None:
    guest = Guest()
    with pytest.raises(GuestError, match=f"{kind.name} vectors"):
        guest.function.arm(kind, vectors)
    assert guest.function.kind is INTX


def test_a_function_without_capabilities_counts_one_interrupt() -> None:
    guest = Guest([])
    assert guest.function.counts == (1, 0, 0)
    guest.function.arm(INTX, [0])
    with pytest.raises(GuestError):
        guest.function.arm(MSI, [0])


@pytest.mark.parametrize(("capabilities", "limit"), [([], 32), ([Msi(2)], 32), (BOTH, 70)])
def test_a_vector_beyond_is_the_authors_mistake(capabilities: list[Capability], limit: int) -> None:
    function = Guest(capabilities).function
    assert function.vectors == limit
    for call in (function.raise_level, function.lower_level, function.fire):
        for vector in (-1, limit):
            with pytest.raises(DriverError, match=f"expected 0 to {limit - 1}"):
                call(vector)


# --- reset and state --------------------------------------------------------------------------------------------


def test_a_reset_forgets_levels_messages_and_the_table() -> None:
    guest = Guest()
    guest.control_msix()
    guest.mask_vector(1, 0)
    guest.function.raise_level(0)
    guest.config.reset()
    guest.function.reset()
    assert guest.function.save() == Guest().function.save()
    assert (guest.function.kind, guest.function.pin, guest.status()) == (INTX, False, False)
    without = Guest([])
    without.function.raise_level(0)
    without.function.reset()
    assert without.pin == [True, False]


def test_other_config_changes_settle_nothing() -> None:
    guest = Guest()
    guest.config.write(0x04, DISABLE_INTX.to_bytes(2, "little"))
    guest.function.raise_level(0)
    guest.config.write(0x04, bytes(2))
    guest.function.config_written(ConfigChange.BARS | ConfigChange.POWER)
    assert guest.pin == []
    guest.function.config_written(ConfigChange.COMMAND)
    assert guest.pin == [True]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("raise_level"), st.integers(0, 69)),
        st.tuples(st.just("lower_level"), st.integers(0, 69)),
        st.tuples(st.just("fire"), st.integers(0, 69)),
        st.tuples(st.just("command"), st.sampled_from([0, MASTER, DISABLE_INTX, MASTER | DISABLE_INTX])),
        st.tuples(st.just("msi"), st.sampled_from([0, 1, 0x11, 0x21, 0x71])),
        st.tuples(st.just("mask_msi"), st.integers(0, 15)),
        st.tuples(st.just("msix"), st.sampled_from([0, 0x8000, 0xC000, 0x4000])),
        st.tuples(st.just("mask_vector"), st.integers(0, 69)),
        st.tuples(st.just("unmask_vector"), st.integers(0, 69)),
        st.tuples(st.just("arm_msix"), st.integers(0, 69)),
        st.tuples(st.just("listen"), st.integers(0, 1)),
    ),
    max_size=25,
)


def act(guest: Guest, step: tuple[str, int]) -> None:
    name, value = step
    actions: dict[str, Callable[[int], object]] = {
        "raise_level": guest.function.raise_level,
        "lower_level": guest.function.lower_level,
        "fire": guest.function.fire,
        "command": guest.command,
        "msi": lambda value: guest.write(MSI_CAP + 2, value),
        "mask_msi": guest.mask_msi,
        "msix": lambda value: guest.write(MSIX_CAP + 2, value),
        "mask_vector": lambda value: guest.mask_vector(value, 1),
        "unmask_vector": lambda value: guest.mask_vector(value, 0),
        "arm_msix": lambda value: guest.function.arm(MSIX, [value]),
        "listen": lambda value: setattr(guest, "listens", bool(value)),
    }
    actions[name](value)


@given(steps)
def test_whatever_happens_registers_and_signals_agree(history: list[tuple[str, int]]) -> None:
    guest = Guest()
    for step in history:
        act(guest, step)
        function, config = guest.function, guest.config
        expected_kind = MSIX if config.msix_enabled else MSI if config.msi_enabled else INTX
        assert function.kind is expected_kind
        assert guest.pin == [bool(n % 2 == 0) for n in range(len(guest.pin))], "the pin is told changes only"
        assert function.pin == (len(guest.pin) % 2 == 1) == (config.interrupt_status and not config.intx_disabled)
        assert guest.pba() == (function.pending if expected_kind is MSIX else 0)
        assert guest.msi_pending() == (function.pending if expected_kind is MSI else 0)


@given(steps, steps)
def test_a_saved_function_goes_on_as_if_nothing_had_happened(
    past: list[tuple[str, int]], future: list[tuple[str, int]]
) -> None:
    here, there = Guest(), Guest()
    for step in past:
        act(here, step)
    there.listens = here.listens
    there.config.load(here.config.save())
    there.function.load(here.function.save())
    assert (there.config.save(), there.function.save()) == (here.config.save(), here.function.save())
    here.take()
    del here.pin[:], there.pin[:]
    for step in future:
        act(here, step)
        act(there, step)
    assert (there.sent, there.pin) == (here.sent, here.pin)
    assert there.function.save() == here.function.save()


def test_a_load_that_forgot_the_levels_would_be_noticed() -> None:
    """Negative control of the test above: the next rise would send a message too many."""
    here, there = Guest(), Guest()
    for guest in (here, there):
        guest.enable_msi()
    here.function.raise_level(0)
    here.take()
    saved = here.function.save()
    there.function.load(InterruptState(0, saved.pending, saved.table))
    for guest in (here, there):
        guest.function.raise_level(0)
    assert there.sent != here.sent


@pytest.mark.parametrize(
    ("levels", "pending", "table", "text"),
    [
        (1 << 70, 0, None, "saved levels"),
        (-1, 0, None, "saved levels"),
        (0, 1, None, "saved pending: expected a number of 0 bits"),
        (0, 0, b"", "saved bytes: expected 1120, given 0"),
    ],
)
def test_a_saved_state_that_cannot_be_is_refused(levels: int, pending: int, table: bytes | None, text: str) -> None:
    guest = Guest()
    before = guest.function.save()
    with pytest.raises(GuestError, match=text):
        guest.function.load(InterruptState(levels, pending, before.table if table is None else table))
    assert guest.function.save() == before
    without = Guest([])
    with pytest.raises(GuestError, match="the function has none"):
        without.function.load(InterruptState(0, 0, bytes(16)))
    without.function.load(without.function.save())


def test_an_error_bit_concerns_no_interrupt() -> None:
    guest = Guest()
    guest.config.latch(StatusError.RECEIVED_MASTER_ABORT)
    guest.write(0x06, 0xFFFF)
    assert (guest.pin, guest.sent) == ([], [])
