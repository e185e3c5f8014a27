"""The in-memory guest: registers by name, memory, jobs and time, interrupts, the operator's files."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from zlib import crc32

import pytest

from drivers import everything
from mdev_user.driver import (
    MSIX,
    RO,
    RW1C,
    U16,
    U32,
    WO,
    Attribute,
    Bar,
    DriverError,
    Each,
    Field,
    Flag,
    Function,
    Interrupt,
    Memory,
    Message,
    OutOfRange,
    Parent,
    PciId,
    Pool,
    Profile,
    Register,
    RegisterFile,
    Saved,
    job,
    on_write,
    sleep,
)
from mdev_user.drivers import crc
from mdev_user.errors import GuestError, InvalidValue, MappingExists, NoSpace, NotSupported
from mdev_user.mdev.parent import MdevParent
from mdev_user.testing import Guest, NoEnd
from mdev_user.vfio.requests import Irq


class Speed(IntEnum):
    SLOW, MIDDLE, FAST, FASTEST = range(4)


class Control(Register):
    on, speed, served, level = Flag(0), Field(4, 2, Speed), Flag(8, RW1C), Field(12, 3)


class Queue(RegisterFile):
    tail, control = U16(0), Control.at(4)


class Regs(Bar, index=2, size=4096):
    control, number = Control.at(0), U32(4)
    go, ticks = U32(8, WO), U32(12, RO)
    queue = Each(Queue, at=0x100, count=4, stride=16)


@dataclass(frozen=True)
class Slice(Profile):
    slots: int


class Clock(Function[Slice]):
    identity, vectors = PciId(vendor=0x1DE5, device=7, class_code=0x088000), MSIX(3)
    regs, woken = Regs(), Saved(0)
    buffer = Memory(index=3, size=4096)
    pace = Attribute(100, range=(1, 1000), group="engine")
    served, told = Interrupt(Regs.control.served), Message()

    @on_write(Regs.go)
    def obey(self, value: int) -> None:
        if value == 99:
            self.spin()
        elif value == 98:
            self.fail()
        else:
            self.tick(value)

    @job(limit=8)
    async def tick(self, times: int) -> None:
        for _ in range(times):
            await sleep(1.0)
            self.regs.ticks += 1
            self.told.send(2)

    @job()
    async def spin(self) -> None:
        while True:
            await sleep(0)

    @job()
    async def fail(self) -> None:
        raise ZeroDivisionError("the driver's mistake")


class Card(Parent[Slice]):
    function = Clock
    slots = Pool(2)
    types = {"one": Slice(slots=1), "two": Slice(slots=2)}


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(Card) as made:
        yield made


# --- registers --------------------------------------------------------------------------------------------------


def test_register_and_field_are_read_and_written_by_name(guest: Guest) -> None:
    guest.write(Regs.number, 0x12345678)
    guest.write(Regs.control.speed, Speed.FAST)
    guest.write(Regs.control.on, True)
    assert guest.read(Regs.number) == 0x12345678
    assert guest.read(Regs.control.speed) is Speed.FAST
    assert guest.read(Regs.control.on) is True
    assert guest.read_bytes(2, 0, 8) == b"\x21\0\0\0\x78\x56\x34\x12"


def test_whole_register_with_fields_is_read_and_written(guest: Guest) -> None:
    guest.write(Regs.control, 0x2031)
    control = guest.read(Regs.control)
    assert (control.on, control.speed, control.level, int(control)) == (True, Speed.FASTEST, 2, 0x2031)
    guest.write(Regs.control, control)
    assert int(guest.read(Regs.control)) == 0x2031


def test_element_of_an_array_is_named_by_its_number(guest: Guest) -> None:
    guest.write(Regs.queue.tail, 7, 3)
    guest.write(Regs.queue.control.level, 5, element=2)
    assert [guest.read(Regs.queue.tail, number) for number in range(4)] == [0, 0, 0, 7]
    assert guest.read(Regs.queue.control, 2).level == 5
    assert guest.read_bytes(2, 0x130, 2) == b"\x07\x00"


def test_field_write_does_not_clear_what_a_one_clears(guest: Guest) -> None:
    function = guest.device.function
    assert isinstance(function, Clock)
    function.regs.control.served = True
    guest.write(Regs.control.on, True)
    assert guest.read(Regs.control.served)
    guest.write(Regs.control.served, True)
    assert not guest.read(Regs.control.served)
    assert guest.read(Regs.control.on)


def test_value_that_does_not_fit_is_refused(guest: Guest) -> None:
    for place, value in ((Regs.control.level, 8), (Regs.number, 1 << 32), (Regs.number, -1)):
        with pytest.raises(ValueError, match="expected a number of"):
            guest.write(place, value)


def test_name_that_is_not_of_this_device_is_refused(guest: Guest) -> None:
    with pytest.raises(DriverError, match="source: expected a register of Regs, given Regs"):
        guest.read(crc.Regs.source)
    with pytest.raises(DriverError, match=r"queue.tail is in an array: say which element, 0 to 3"):
        guest.read(Regs.queue.tail)
    with pytest.raises(DriverError, match=r"queue.tail: expected an element from 0 to 3, given 4"):
        guest.read(Regs.queue.tail, 4)
    with pytest.raises(DriverError, match="number is in no array, given element 0"):
        guest.read(Regs.number, 0)
    with pytest.raises(DriverError, match="expected a register of a bar"):
        guest.read(Regs.queue)  # type: ignore[type-var]  # what the test is about
    with pytest.raises(OutOfRange):
        guest.read_bytes(2, 4096, 1)


def test_pages_that_a_guest_maps_are_a_region_too(guest: Guest) -> None:
    guest.write_bytes(3, 100, b"seen")
    function = guest.device.function
    assert isinstance(function, Clock)
    assert bytes(function.buffer[100:104]) == b"seen"


# --- memory, jobs and time --------------------------------------------------------------------------------------


def test_device_reaches_the_guests_memory() -> None:
    with Guest(crc.Card, "large") as guest:
        guest.map(0x1000_0000, 0x2000)
        guest.memory[0x1000_0FFE:0x1000_1002] = b"abcd"
        guest.write(crc.Regs.source, 0x1000_0FFE)
        guest.write(crc.Regs.length, 4)
        guest.write(crc.Regs.doorbell, 1)
        assert guest.read(crc.Regs.status.busy)
        guest.run()
        assert guest.read(crc.Regs.result) == crc32(b"abcd")
        guest.unmap(0x1000_0000, 0x2000)
        guest.write(crc.Regs.doorbell, 1)
        guest.run()
        assert guest.read(crc.Regs.status.fault)
        assert (guest.errors, "has not mapped" in guest.last_error) == (1, True)


def test_each_await_of_a_job_ends_a_step() -> None:
    with Guest(crc.Card) as guest:
        guest.memory[0] = b"a"
        guest.write(crc.Regs.length, 1)
        guest.write(crc.Regs.doorbell, 1)
        assert guest.step()
        guest.memory[0] = b"b"  # it is read when the job goes on
        assert guest.read(crc.Regs.status.busy)
        assert guest.step()
        assert not guest.step()
        assert guest.read(crc.Regs.result) == crc32(b"b")


def test_memory_that_is_not_there_is_said_so(guest: Guest) -> None:
    with pytest.raises(IndexError, match="no memory at 0x100000; there is 0x0"):
        guest.memory[0xFFFFF:0x100001] = b"xx"
    with pytest.raises(ValueError, match="expected 2 bytes, given 1"):
        guest.memory[0:2] = b"x"
    with pytest.raises(MappingExists):
        guest.map(0x1000, 0x1000)
    with pytest.raises(GuestError, match="would split"):
        guest.unmap(0x1000, 0x1000)
    assert guest.memory[0x1000] == b"\0"


def test_memory_is_taken_away_by_the_range(guest: Guest) -> None:
    for address in (0x1000_0000, 0x1000_1000, 0x1000_3000):
        guest.map(address, 0x1000)
        guest.memory[address] = b"x"
    guest.unmap(0x0800_0000, 0x0800_2000)
    assert guest.memory.blocks == {0: 0x10_0000, 0x1000_3000: 0x1000}
    assert list(guest.memory.pages) == [0x1000_3000]
    guest.unmap(0x1000_0000, 0x2000)  # it is gone already
    guest.unmap(0x1000_3000, 0x1000)
    guest.map(0x1000_0000, 0x1000)
    assert guest.memory[0x1000_0000] == b"\0"


def test_time_passes_only_when_it_is_told_to(guest: Guest) -> None:
    guest.write(Regs.go, 3)
    guest.run()
    assert guest.read(Regs.ticks) == 0
    guest.advance(0.5)
    assert guest.read(Regs.ticks) == 0
    guest.advance(0.5)
    assert guest.read(Regs.ticks) == 1
    guest.advance(100)
    assert (guest.read(Regs.ticks), guest.time, guest.device.jobs) == (3, 101, [])


def test_job_without_an_end_is_said_so(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdev_user.testing.guest.MOST_STRETCHES", 10)
    guest.write(Regs.go, 99)
    with pytest.raises(NoEnd, match="spin has not ended"):
        guest.advance(1)


def test_error_in_a_job_comes_out_of_the_step(guest: Guest) -> None:
    guest.write(Regs.go, 98)
    with pytest.raises(ZeroDivisionError, match="the driver's mistake") as raised:
        guest.run()
    assert raised.value.__notes__ == ["in the job fail of the driver"]


# --- interrupts -------------------------------------------------------------------------------------------------


def test_pin_is_seen_and_interrupts_once_until_it_is_served(guest: Guest) -> None:
    function = guest.device.function
    assert isinstance(function, Clock)
    assert not guest.pin
    function.regs.control.served = True
    guest.write(Regs.go, 0)
    assert (guest.pin, guest.signals) == (True, 1)
    guest.unmask()
    assert guest.signals == 2
    guest.write(Regs.control.served, True)
    guest.unmask()
    assert (guest.pin, guest.signals) == (False, 2)


def test_messages_are_kept_in_order(guest: Guest) -> None:
    guest.enable_msix()
    function = guest.device.function
    assert isinstance(function, Clock)
    guest.write(Regs.go, 2)
    guest.advance(1)
    function.regs.control.served = True
    guest.write(Regs.go, 1)
    assert guest.messages == [2, 0]
    assert guest.take_messages() == [2, 0]
    assert guest.messages == []
    assert not guest.pin
    with pytest.raises(NotSupported, match="MSI with None vectors: the function has 0"):
        guest.enable_msi()
    with pytest.raises(NotSupported, match="MSI-X with 4 vectors: the function has 3"):
        guest.enable_msix(4)


def test_msi_is_used_with_as_many_messages_as_asked() -> None:
    for count in (1, 2):
        with Guest(crc.Card) as guest:
            guest.enable_msi(count)
            guest.write(crc.Regs.enable, 2)
            guest.write(crc.Regs.source, 1 << 40)
            guest.write(crc.Regs.length, 1)
            guest.write(crc.Regs.doorbell, 1)
            guest.run()
            assert guest.messages == [1 % count]


# --- the operator, and its life ---------------------------------------------------------------------------------


def test_operator_shows_and_stores(guest: Guest) -> None:
    assert guest.show("engine/pace") == "100"
    guest.store("engine/pace", "7")
    assert guest.show("engine/pace") == "7"
    with pytest.raises(InvalidValue):
        guest.store("engine/pace", "0")
    with pytest.raises(DriverError, match="did you mean engine/pace"):
        guest.show("engine/pac")


def test_reset_and_close_cancel_jobs_and_keep_memory(guest: Guest) -> None:
    guest.memory[0] = b"a"
    for reopened in (False, True):
        guest.write(Regs.go, 3)
        guest.run()
        if reopened:
            guest.close()
            guest.open()
        else:
            guest.reset()
        guest.advance(5)
        assert guest.read(Regs.ticks) == 0
        assert guest.memory[0] == b"a"
    guest.write(Regs.go, 1)
    guest.advance(1)
    assert guest.read(Regs.ticks) == 1


def test_type_and_the_parents_options_are_chosen() -> None:
    assert Guest(Card).device.function.profile == Slice(slots=1)
    assert Guest(Card, "two").device.function.profile == Slice(slots=2)
    with pytest.raises(NoSpace):
        Guest(Card, "two", slots=1)
    with pytest.raises(DriverError, match="Card has no type tow; did you mean two"):
        Guest(Card, "tow")


def test_removed_guest_gives_back_what_it_took() -> None:
    with Guest(Card, "two") as guest:
        two = MdevParent("parent", guest.parent).types["clock-two"]
        assert guest.parent.get_available(two) == 0
    assert guest.parent.get_available(two) == 1


def test_part_has_registers_of_its_own() -> None:
    with Guest(everything.Card, "two") as guest:
        one, other = guest.part("ports"), guest.part("ports", 1)
        other.write(everything.PortRegs.level, 5)
        assert (one.read(everything.PortRegs.level), other.read(everything.PortRegs.level)) == (0, 5)
        assert guest.read_bytes(3, 0, 4) == b"\x05\0\0\0"
        assert guest.pin
        with pytest.raises(DriverError, match=r"Everything has no part ports\[2\]; did you mean"):
            guest.part("ports", 2)
        with pytest.raises(DriverError, match="expected a register of Regs, Desk, given PortRegs"):
            guest.read(everything.PortRegs.level)


def test_what_was_refused_is_kept() -> None:
    with Guest(crc.Card) as guest:
        guest.write(crc.Regs.doorbell, 1)
        guest.write(crc.Regs.doorbell, 1)
        assert [str(each) for each in guest.refused] == ["compute: 1 under way, its limit; this one was not started"]


def test_pin_is_used_again_when_messages_are_not() -> None:
    with Guest(crc.Card) as guest:
        guest.enable_msi()
        assert (guest.uses_messages, guest.listens_to, guest.vectors(Irq.MSI)) == (True, Irq.MSI, 2)
        guest.enable_intx()
        assert (guest.uses_messages, guest.listens_to) == (False, Irq.INTX)
