"""What a guest's accesses do to registers: one meaning for every size and alignment."""

from collections.abc import Mapping
from types import new_class

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdev_user.errors import GuestError, OutOfRange
from mdev_user.regs.arrays import Each, RegisterFile
from mdev_user.regs.bar import Bar
from mdev_user.regs.dispatch import Dispatch, Everything, ReadHook, WriteHook
from mdev_user.regs.fields import Field, Flag
from mdev_user.regs.kinds import RC, RO, RSVD, RW, RW1C, RW1S, UNIMPL, WO, Access
from mdev_user.regs.registers import U8, U16, U32, U64, Register
from mdev_user.regs.space import RegisterSpace


class Told:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.settled = 0
        self.refused: list[str] = []
        self.unmodelled: list[tuple[int, int, bool]] = []

    def settle(self) -> None:
        self.settled += 1

    def refuse(self, error: GuestError) -> None:
        self.refused.append(str(error))

    def count_unmodelled(self, offset: int, count: int, *, written: bool) -> None:
        self.unmodelled.append((offset, count, written))


def in_use(bar: type[Bar], dispatch: Dispatch | None = None, owner: object = None) -> tuple[RegisterSpace, Told]:
    told = Told()
    compiled = dispatch or Dispatch(bar._layout)
    return RegisterSpace(compiled, list(bar._layout.resets), owner, told), told


class Lcr(Register, size=1):
    parity = Field(3, 3)
    dlab = Flag(7)


class Uart(Bar, index=0, size=8, io=True):
    """A 16550's map: two registers at one offset, and divisor latches over both and over their neighbour."""

    rbr = U8(0, RO, reset=0x55)
    thr = U8(0, WO)
    ier = U8(1)
    iir = U8(2, RO, reset=1)
    fcr = U8(2, WO)
    lcr = Lcr.at(3)
    divisor = U16(0, bank=Lcr.dlab)


class Mixed(Register):
    """A field of each kind."""

    rw = Field(0, 4)
    ro = Field(4, 4, RO)
    wo = Field(8, 4, WO)
    w1c = Field(12, 4, RW1C)
    w1s = Field(16, 4, RW1S)
    rc = Field(20, 4, RC)
    rsvd = Field(24, 4, RSVD)


class Kinds(Bar, index=0, size=64):
    mixed = Mixed.at(0, reset=0xFA5A_5A5A)
    wide = U64(8)
    gap = U16(20, UNIMPL, reset=0xBEEF)


class Queue(RegisterFile):
    tail = U32(0)
    flags = Mixed.at(4)


class Queues(Bar, index=2, size=4096):
    queue = Each(Queue, at=0x100, count=4, stride=0x10)
    doorbell = Each(Mixed, at=0x200, count=2)


def test_each_kind_reads_as_it_says() -> None:
    space, _ = in_use(Kinds)
    assert space.read(0, 4) == bytes.fromhex("5a505afa")  # wo hidden, the rest as reset, undeclared bits too


def test_read_to_clear_clears_what_was_read_and_nothing_else() -> None:
    space, _ = in_use(Kinds)
    space.read(0, 2)
    assert space.read(2, 1) == b"\x5a"
    assert space.read(2, 1) == b"\x0a"


def test_each_kind_takes_what_it_says() -> None:
    space, _ = in_use(Kinds)
    space.write(0, bytes.fromhex("ffffffff"))
    # rw and wo stored; ro, rc and reserved kept; 1 cleared w1c and set w1s
    assert space.values[0] == 0xFA5F_0F5F


def test_zeros_leave_write_one_bits_alone() -> None:
    space, _ = in_use(Kinds)
    space.write(0, bytes(4))
    assert space.values[0] == 0xFA5A_5050


def test_guest_cannot_write_ro() -> None:
    space, _ = in_use(Uart)
    space.write(2, b"\xff")
    assert space.read(2, 1) == b"\x01"


def test_read_only_and_write_only_share_an_offset() -> None:
    space, told = in_use(Uart)
    space.write(0, b"\x41")
    regs = Uart._on(space.values, 0)
    assert (regs.rbr, regs.thr) == (0x55, 0x41)
    assert space.read(0, 1) == b"\x55"
    assert told.unmodelled == []


def test_bank_lays_registers_over_both_directions() -> None:
    space, _ = in_use(Uart)
    regs = Uart._on(space.values, 0)
    space.write(3, b"\x83")
    space.write(0, b"\x0c\x01")
    assert (regs.divisor, regs.thr, regs.ier) == (0x010C, 0, 0)
    assert space.read(1, 1) == b"\x01"
    space.write(3, b"\x03")
    assert space.read(0, 2) == b"\x55\x00"


def test_bank_is_looked_at_when_a_registers_turn_comes() -> None:
    space, _ = in_use(Uart)
    space.write(0, b"\x41\x0f\x00\x83")  # selects the bank last
    regs = Uart._on(space.values, 0)
    assert (regs.thr, regs.ier, regs.divisor) == (0x41, 0x0F, 0)


def test_access_between_registers_reads_zero_and_is_counted() -> None:
    space, told = in_use(Kinds)
    assert space.read(32, 4) == bytes(4)
    space.write(4, bytes(8))  # four bytes of nothing, then the low half of `wide`
    assert told.unmodelled == [(32, 4, False), (4, 8, True)]


def test_unimplemented_register_is_counted_and_reads_its_reset_value() -> None:
    space, told = in_use(Kinds)
    assert space.read(20, 2) == b"\xef\xbe"
    space.write(20, b"\x01\x00")
    assert space.read(20, 2) == b"\xef\xbe"
    assert told.unmodelled == [(20, 2, False), (20, 2, True), (20, 2, False)]


@pytest.mark.parametrize(("offset", "count"), [(64, 1), (61, 4), (1 << 40, 8), (0, 65)])
def test_access_past_the_bar_is_refused(offset: int, count: int) -> None:
    space, _ = in_use(Kinds)
    with pytest.raises(OutOfRange):
        space.read(offset, count)
    with pytest.raises(OutOfRange):
        space.write(offset, bytes(count))


def test_long_access_is_served_whole() -> None:
    space, _ = in_use(Kinds)
    space.write(0, bytes(8) + b"\x11" * 8 + bytes(48))
    assert space.read(0, 64)[8:16] == b"\x11" * 8


def test_elements_of_an_array_are_registers_of_their_own() -> None:
    space, _ = in_use(Queues)
    regs = Queues._on(space.values, 0)
    space.write(0x120, b"\x07\0\0\0")
    regs.queue[3].flags.ro = 5
    assert [each.tail for each in regs.queue] == [0, 0, 7, 0]
    assert space.read(0x134, 1) == b"\x50"
    with pytest.raises(IndexError):
        regs.queue[4]


def test_register_without_a_file_can_be_repeated() -> None:
    space, _ = in_use(Queues)
    regs = Queues._on(space.values, 0)
    regs.doorbell[1].ro = 5
    assert (int(regs.doorbell[0]), space.read(0x204, 4)) == (0, b"\x50\0\0\0")
    assert [slot.name for slot in Queues._layout.find("doorbell")] == ["doorbell[0]", "doorbell[1]"]


def test_reset_keeps_sticky_registers_only_when_asked() -> None:
    class Sticky(Bar, index=0, size=16):
        kept = U32(0, reset=1, sticky=True)
        lost = U32(4, reset=2)

    space, _ = in_use(Sticky)
    space.values[:] = [8, 9]
    space.reset(sticky=True)
    assert space.values == [8, 2]
    space.reset(sticky=False)
    assert space.values == [1, 2]


# --- the driver's methods ---------------------------------------------------------------------------------------


def hooked(owner: list[object]) -> tuple[RegisterSpace, Told]:
    """`Kinds` with a method on `rw` and on `w1c`, on `wide`, and a computed `ro`."""
    layout = Kinds._layout
    mixed, wide = layout.find("mixed")[0].index, layout.find("wide")[0].index
    writes: Mapping[int, tuple[WriteHook, ...]] = {
        mixed: (
            WriteHook(0xF, lambda owner, value: owner.append(("rw", value & 0xF))),
            WriteHook(0xF000, lambda owner, value: owner.append(("w1c", value >> 12 & 0xF))),
        ),
        wide: (WriteHook((1 << 64) - 1, lambda owner, value: owner.append(("wide", value))),),
    }
    reads = {mixed: (ReadHook(4, 0xF0, lambda _owner: 0x13),)}
    return in_use(Kinds, Dispatch(layout, reads, writes), owner)


def test_methods_are_called_in_declaration_order_after_the_store() -> None:
    calls: list[object] = []
    space, told = hooked(calls)
    space.write(0, b"\xf3\xff\x00\x00")
    assert calls == [("rw", 3), ("w1c", 0xF)]
    assert space.values[0] & 0xF == 3
    assert told.settled == 1


def test_method_of_bits_that_were_not_written_is_not_called() -> None:
    calls: list[object] = []
    space, _ = hooked(calls)
    space.write(1, b"\x10")
    assert calls == [("w1c", 1)]


def test_partial_write_shows_the_stored_rest_of_the_register() -> None:
    calls: list[object] = []
    space, _ = hooked(calls)
    space.write(8, b"\x11\x22\x33\x44")
    space.write(12, b"\x55\x66\x77\x88")
    assert calls == [("wide", 0x4433_2211), ("wide", 0x8877_6655_4433_2211)]


def test_straddling_write_is_one_call_for_each_register_in_order() -> None:
    calls: list[object] = []
    space, told = hooked(calls)
    space.write(0, b"\x01" + bytes(7) + b"\x02" + bytes(7))
    assert calls == [("rw", 1), ("w1c", 0), ("wide", 2)]
    assert told.settled == 1


def test_computed_bits_are_cut_to_their_field_and_not_stored() -> None:
    space, _ = hooked([])
    assert space.read(0, 1) == b"\x3a"
    assert space.values[0] & 0xF0 == 0x50


def test_error_of_the_guest_in_a_method_is_told_and_the_next_method_runs() -> None:
    def refuse(_owner: object) -> int:
        raise GuestError("no")

    def refuse_write(_owner: object, _value: int) -> None:
        raise GuestError("no")

    layout, after = Kinds._layout, list[int]()
    hooks = (WriteHook(0xF, refuse_write), WriteHook(0xF, lambda _owner, value: after.append(value)))
    reads = {0: (ReadHook(0, 0xF, refuse),)}
    space, told = in_use(Kinds, Dispatch(layout, reads, {0: hooks}))
    space.write(0, b"\x01\x00\x00\x00")
    space.write(0, b"\x02")
    assert space.read(0, 1) == b"\x50"
    assert told.refused == ["no", "no", "no"]
    assert [value & 0xF for value in after] == [1, 2]


def test_only_watched_plain_registers_settle() -> None:
    space, told = in_use(Kinds, Dispatch(Kinds._layout, watched={Kinds._layout.find("wide")[0].index}))
    space.write(0, bytes(4))
    assert told.settled == 0
    space.write(8, bytes(8))
    space.write(12, bytes(4))
    assert told.settled == 2


def test_an_access_that_can_change_nothing_does_not_settle() -> None:
    class Fixed(Bar, index=0, size=16):
        number, kept = U32(0, RO, reset=7), U32(4)

    space, told = in_use(Fixed, Dispatch(Fixed._layout, watched=Everything()))
    space.write(0, b"\x01\x00\x00\x00")
    assert (space.read(0, 4), told.settled) == (b"\x07\x00\x00\x00", 0)
    space.write(4, bytes(4))
    assert told.settled == 1


def test_a_read_settles_when_it_clears_something() -> None:
    space, told = in_use(Kinds)
    assert [space.read(0, 4)[2] >> 4, told.settled] == [5, 1]
    assert [space.read(0, 4)[2] >> 4, told.settled] == [0, 1]


# --- any map, any access ----------------------------------------------------------------------------------------

KINDS = [RW, RO, WO, RW1C, RW1S, RC, RSVD, UNIMPL]
SIZES = {1: U8, 2: U16, 4: U32, 8: U64}


class Select(Register, size=1):
    page = Flag(0)


@st.composite
def maps(draw: st.DrawFn) -> type[Bar]:
    """A bar of 64 bytes: registers of all kinds with gaps, some in pairs, and overlays behind a bank at byte 0."""
    body: dict[str, object] = {"select": Select.at(0)}
    for layer, bank in (("base", None), ("page", Select.page)):
        offset = draw(st.integers(1, 8))
        while offset < 56:
            size = draw(st.sampled_from(sorted(SIZES)))
            reset = draw(st.integers(0, (1 << 8 * size) - 1))
            kind = draw(st.sampled_from(KINDS))
            name = f"{layer}_{offset}"
            if kind is RO and draw(st.booleans()):
                body[f"{name}_out"] = SIZES[size](offset, WO, bank=bank)
            body[name] = SIZES[size](offset, kind, reset=reset, bank=bank)
            offset += size + draw(st.integers(0, 6))
    return new_class("Generated", (Bar,), {"index": 0, "size": 64}, lambda namespace: namespace.update(body))


@st.composite
def accesses(draw: st.DrawFn) -> tuple[int, bytes | int]:
    """A write of some bytes, or a read of a number of them."""
    count = draw(st.one_of(st.sampled_from([1, 2, 4, 8]), st.integers(1, 12)))
    offset = draw(st.integers(0, 64 - count))
    return offset, draw(st.one_of(st.just(count), st.binary(min_size=count, max_size=count)))


def perform(space: RegisterSpace, offset: int, what: bytes | int) -> bytes:
    if isinstance(what, int):
        return space.read(offset, what)
    space.write(offset, what)
    return b""


def by_bytes(space: RegisterSpace, offset: int, what: bytes | int) -> bytes:
    if isinstance(what, int):
        return b"".join(space.read(offset + at, 1) for at in range(what))
    for at in range(len(what)):
        space.write(offset + at, what[at : at + 1])
    return b""


@settings(max_examples=150)
@given(maps(), st.lists(accesses(), max_size=12))
def test_access_equals_the_accesses_to_its_bytes(bar: type[Bar], log: list[tuple[int, bytes | int]]) -> None:
    whole, parts = in_use(bar)[0], in_use(bar)[0]
    for offset, what in log:
        assert perform(whole, offset, what) == by_bytes(parts, offset, what)
        assert whole.values == parts.values


class Oracle:
    """The kinds once more, bit by bit, from what a data sheet says."""

    def __init__(self, bar: type[Bar]) -> None:
        self.slots = bar._layout.slots
        self.bits = {(slot.index, bit): slot.reset >> bit & 1 for slot in self.slots for bit in range(8 * slot.size)}

    def value(self, index: int, size: int) -> int:
        return sum(self.bits[index, bit] << bit for bit in range(8 * size))

    def seen(self, byte: int, wanted: set[Access]) -> tuple[int, int, Access] | None:
        """Register, its byte and its kind, of the one that is seen at ``byte`` for this direction."""
        here = [slot for slot in self.slots if slot.offset <= byte < slot.end]
        layers = [[slot for slot in here if slot.bank], [slot for slot in here if not slot.bank]]
        for layer in layers if self.bits[0, 0] else layers[1:]:
            for slot in sorted(layer, key=lambda slot: slot.fields[0].access not in wanted):
                return slot.index, byte - slot.offset, slot.fields[0].access
        return None

    def read(self, byte: int) -> int:
        found = self.seen(byte, {RW, RO, RW1C, RW1S, RC})
        if found is None:
            return 0
        index, at, kind = found
        bits = range(8 * at, 8 * at + 8)
        value = sum(self.bits[index, bit] << (bit - 8 * at) for bit in bits)
        if kind is RC:
            self.bits.update(((index, bit), 0) for bit in bits)
        return 0 if kind is WO else value

    def write(self, byte: int, value: int) -> None:
        found = self.seen(byte, {RW, WO, RW1C, RW1S})
        if found is None:
            return
        index, at, kind = found
        for bit in range(8):
            if index == 0 and bit:
                continue  # of `select` only bit 0 is declared
            given, key = value >> bit & 1, (index, 8 * at + bit)
            if kind in {RW, WO}:
                self.bits[key] = given
            elif kind is RW1C and given:
                self.bits[key] = 0
            elif kind is RW1S and given:
                self.bits[key] = 1


@settings(max_examples=150)
@given(maps(), st.lists(accesses(), max_size=12))
def test_registers_behave_as_a_data_sheet_says(bar: type[Bar], log: list[tuple[int, bytes | int]]) -> None:
    space, oracle = in_use(bar)[0], Oracle(bar)
    for offset, what in log:
        answer = perform(space, offset, what)
        if isinstance(what, int):
            assert answer == bytes(oracle.read(offset + at) for at in range(what))
        else:
            for at, byte in enumerate(what):
                oracle.write(offset + at, byte)
        assert space.values == [oracle.value(slot.index, slot.size) for slot in bar._layout.slots]


def test_oracle_can_tell_a_wrong_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with one row's mask inverted, the two tests above fail."""

    class One(Bar, index=0, size=16):
        select = Select.at(0)
        number = U32(4)

    space, oracle = in_use(One)[0], Oracle(One)
    monkeypatch.setitem(space._writes, (4, 4), (1, (0, ~0, 0, 0, 0), False, ()))
    space.write(4, b"\xff\0\0\0")
    oracle.write(4, 0xFF)
    assert space.values[1] != oracle.value(1, 4)
