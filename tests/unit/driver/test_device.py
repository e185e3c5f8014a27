"""A declared device: registers, methods, state, interrupts and resets, as its guest and its user see them."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from typing_extensions import override

from mdev_user.driver import (
    MSI,
    MSIX,
    RO,
    RW1C,
    U16,
    U32,
    U64,
    WO,
    Bar,
    Each,
    Flag,
    Function,
    GuestError,
    Interrupt,
    Memory,
    Message,
    OutOfRange,
    PciId,
    Profile,
    Register,
    RegisterFile,
    ResetKind,
    Saved,
    Session,
    Table,
    on_read,
    on_read_each,
    on_write,
    on_write_each,
    pending,
)
from mdev_user.vfio.requests import Area, GetIrqInfo, GetRegionInfo, Irq, IrqInfo, Region, RegionFlags, RegionInfo
from unit.driver.bench import Bench

ID = PciId(vendor=0x1DE5, device=1, class_code=0x120000)
ONE, OTHER = 1, 2


class Status(Register):
    one, other, kept = Flag(0, RW1C), Flag(1, RW1C), Flag(2)


class Enable(Register):
    one, other = Flag(0), Flag(1)


class Queue(RegisterFile):
    tail = U32(0)
    head = U32(4, RO)
    status = Status.at(8)


class Regs(Bar, index=0, size=4096):
    status = Status.at(0)
    enable = Enable.at(4)
    command = U32(8, WO)
    answer = U16(12, RO)
    sticky = U32(16, reset=7, sticky=True)
    wide = U64(24)
    queue = Each(Queue, at=64, count=3, stride=16)


class Sample(Function[Profile]):
    """Every kind of member that needs no job."""

    identity = ID
    regs = Regs()
    total = Saved(5)
    seen = Table[int, int](limit=2)
    cache = Session(list[str])
    one = Interrupt(Regs.status.one, enable=Regs.enable.one)
    other = Interrupt(Regs.status.other)

    @on_write(Regs.command)
    def obey(self, value: int) -> None:
        if value == 0xBAD:
            raise GuestError("no such command")
        self.total += value
        self.regs.status.one = True
        self.regs.status.one = value != 1

    @on_read(Regs.answer)
    def answer(self) -> int:
        return self.total

    @on_write(Regs.status)
    def note(self, written: Status) -> None:
        self.cache.append(f"{written.one} {written.other}")

    @on_write_each(Regs.queue.tail)
    def ring(self, index: int, tail: int) -> None:
        self.seen[index] = tail
        self.regs.queue[index].head = tail

    @on_write_each(Regs.queue.status)
    def mark(self, index: int, written: Status) -> None:
        self.cache.append(f"{index} {written.kept}")

    @override
    def reset(self, kind: ResetKind) -> None:
        self.cache.append(kind.name)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(Sample)
    yield made
    made.close()


def function(bench: Bench) -> Sample:
    made = bench.device.function
    assert isinstance(made, Sample)
    return made


def test_methods_see_and_change_the_device(bench: Bench) -> None:
    bench.write(8, 3)
    assert bench.read(12, 2) == 8
    assert bench.read(0) == ONE
    assert bench.read(8) == 0  # write-only


def test_method_of_a_register_with_fields_gets_it_as_written(bench: Bench) -> None:
    bench.write(0, b"\x02")
    assert function(bench).cache[-1] == "False True"
    assert bench.read(0) == 0


def test_method_of_an_array_gets_the_element(bench: Bench) -> None:
    bench.write(80, 9)
    assert function(bench).seen == {1: 9}
    assert bench.read(80, 8) == 9 << 32 | 9
    bench.write(104, 4)
    assert function(bench).cache[-1] == "2 True"


def test_error_of_the_guest_is_counted_and_the_device_goes_on(bench: Bench) -> None:
    bench.write(8, 0xBAD)
    assert bench.errors == 1
    assert bench.vfio.counters.last_guest_error == "no such command"
    for queue in range(3):
        bench.write(64 + 16 * queue, 1)
    assert bench.errors == 2  # the table's limit
    assert bench.read(12, 2) == 5


def test_error_of_the_driver_is_not_the_guests(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    function(bench)._state["total"] = "x"
    with pytest.raises(TypeError):
        bench.write(8, 1)
    assert bench.errors == 0


def test_state_is_fresh_at_every_open(bench: Bench) -> None:
    bench.write(8, 3)
    bench.write(64, 1)
    bench.write(16, 1)
    bench.close()
    bench.open()
    made = function(bench)
    assert (made.total, dict(made.seen), made.cache) == (5, {}, ["POWER_ON"])
    assert (bench.read(0), bench.read(16)) == (0, 7)


def test_function_reset_keeps_sticky_registers(bench: Bench) -> None:
    bench.write(8, 3)
    bench.write(16, 1)
    bench.reset()
    assert (function(bench).total, bench.read(0), bench.read(16)) == (5, 0, 1)
    assert function(bench).cache == ["FUNCTION"]


# --- interrupts -------------------------------------------------------------------------------------------------


def test_pin_follows_pending_and_enable(bench: Bench) -> None:
    (pin,) = bench.arm(Irq.INTX)
    bench.write(8, 3)
    assert pin.take() == 0
    bench.write(4, ONE)
    assert pin.take() == 1
    assert bench.read(6, 1, Region.CONFIG) & 0x08  # Status: interrupt pending
    bench.write(0, ONE)
    assert not bench.read(6, 1, Region.CONFIG) & 0x08


def test_interrupt_is_looked_at_when_the_step_ends(bench: Bench) -> None:
    (pin,) = bench.arm(Irq.INTX)
    bench.write(4, ONE)
    bench.write(8, 1)  # the method sets the bit and clears it again
    assert pin.take() == 0


def test_vectors_are_the_interrupts_in_order() -> None:
    class Two(Sample):
        vectors = MSIX(4)

    bench = Bench(Two)
    vectors = bench.arm(Irq.MSIX, 4)
    bench.write(4, ONE)
    bench.write(8, 3)
    assert [wire.take() for wire in vectors] == [1, 0, 0, 0]
    function(bench).regs.status.other = True
    bench.write(4, ONE)
    assert [wire.take() for wire in vectors] == [0, 1, 0, 0]
    assert bench.vfio.irq_info(Irq.MSIX).count == 4


def test_level_falls_with_a_reset(bench: Bench) -> None:
    (pin,) = bench.arm(Irq.INTX)
    bench.write(4, ONE)
    bench.write(8, 3)
    assert pin.take() == 1
    bench.reset()
    assert not bench.read(6, 1, Region.CONFIG) & 0x08


def test_msi_has_a_vector_for_each_interrupt_unless_said_otherwise(bench: Bench) -> None:
    assert bench.vfio.irq_info(Irq.MSI) == bench.vfio.ioctl(GetIrqInfo(Irq.MSI))
    assert [bench.vfio.irq_info(index).count for index in (Irq.INTX, Irq.MSI, Irq.MSIX)] == [1, 2, 0]

    class More(Sample):
        vectors = MSI(5)

    assert Bench(More).vfio.irq_info(Irq.MSI).count == 8  # a power of two


class Computing(Function[Profile]):
    identity = ID
    regs = Regs()
    waiting = Table[int, int](limit=8)
    served = Message()

    @pending
    def is_waiting(self) -> bool:
        return bool(self.waiting)

    queued = Interrupt(is_waiting, enable=Regs.enable.one)
    level = Interrupt(Regs.wide.equals(5))

    @on_write(Regs.command)
    def add(self, value: int) -> None:
        if value:
            self.waiting[value] = value
        else:
            self.waiting.clear()

    @on_write(Regs.answer)
    def send(self, vector: int) -> None:
        self.served.send(vector)

    @on_read_each(Regs.queue.head)
    def head(self, index: int) -> int:
        return 10 * index


def test_computed_pending_bit_is_an_interrupt() -> None:
    bench = Bench(Computing)
    (pin,) = bench.arm(Irq.INTX)
    bench.write(8, 1)
    assert pin.take() == 0
    bench.write(4, ONE)
    assert pin.take() == 1
    bench.write(8, 0)
    assert not bench.read(6, 1, Region.CONFIG) & 0x08


def test_condition_on_a_value_is_an_interrupt() -> None:
    bench = Bench(Computing)
    (pin,) = bench.arm(Irq.INTX)
    bench.write(24, 4)
    assert pin.take() == 0
    bench.write(24, 5)
    assert pin.take() == 1


def test_message_of_a_vector_is_sent_and_one_too_high_is_the_guests_error() -> None:
    bench = Bench(Computing)
    vectors = bench.arm(Irq.MSI, 1)
    bench.write(12, b"\x00\x00")
    assert vectors[0].take() == 1
    bench.write(12, b"\xff\xff")
    assert bench.errors == 1
    assert vectors[0].take() == 0


def test_computed_bits_of_an_array_know_their_element() -> None:
    bench = Bench(Computing)
    assert [bench.read(64 + 16 * queue + 4) for queue in range(3)] == [0, 10, 20]


# --- regions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size(Profile):
    buffer: int


class Framebuffer(Function[Size]):
    identity = ID
    vectors = MSIX(3)
    regs = Regs()
    frame = Memory(index=2, size=lambda profile: profile.buffer)
    cursor = Memory(index=3, size=4096, offset=4096)
    cursor_registers = Saved(0)

    @override
    def opened(self) -> None:
        self.frame[0:4] = b"boot"

    @override
    def closed(self) -> None:
        self.cursor_registers = len(self.frame)


def test_memory_is_mapped_as_large_as_the_profile_says() -> None:
    bench = Bench(Framebuffer, Size(buffer=8192))
    flags = RegionFlags.READ | RegionFlags.WRITE | RegionFlags.MMAP
    assert bench.vfio.region_info(2) == RegionInfo(2, flags, 8192, (Area(0, 8192),))
    assert bench.vfio.region_info(3).areas == (Area(4096, 4096),)
    assert bytes(bench.memory.regions[2][:4]) == b"boot"


def test_memory_can_be_accessed_by_messages_too() -> None:
    bench = Bench(Framebuffer, Size(buffer=8192))
    bench.write(8190, b"ab", region=2)
    assert bench.memory.regions[2][8190:] == b"ab"
    assert bench.vfio.read(2, 0, 5) == b"boot\0"
    bench.write(4094, b"wxyz", region=3)  # two bytes beside the memory, two in it
    assert bench.vfio.read(3, 4094, 4) == b"\0\0yz"
    for offset, count in ((8192, 1), (8190, 4)):
        with pytest.raises(OutOfRange):
            bench.vfio.read(2, offset, count)


def test_memory_is_there_while_the_device_is_open() -> None:
    bench = Bench(Framebuffer, Size(buffer=4096))
    made = bench.device.function
    assert isinstance(made, Framebuffer)
    bench.close()
    assert made.cursor_registers == 4096
    with pytest.raises(Exception, match=r"frame: the memory is there between opened\(\) and closed\(\)"):
        _ = made.frame


def test_msix_table_has_a_bar_of_its_own() -> None:
    bench = Bench(Framebuffer, Size(buffer=4096))
    assert bench.vfio.region_info(1).size == 4096
    assert bench.vfio.read(1, 12, 4) == b"\1\0\0\0"  # masked
    bench.write(12, 0, region=1)
    assert bench.vfio.read(1, 12, 4) == bytes(4)
    assert bench.vfio.read(1, 48 + 8, 4) == bytes(4)  # behind the pending bits


def test_absent_region_is_refused() -> None:
    bench = Bench(Sample)
    for region in (1, 6, 8, 9, 4_000_000_000):
        with pytest.raises(OutOfRange, match=rf"region {region}: the function has the regions 0, 7"):
            bench.vfio.read(region, 0, 4)
        with pytest.raises(OutOfRange):
            bench.vfio.write(region, 0, bytes(4))


def test_information_is_derived(bench: Bench) -> None:
    assert bench.vfio.ioctl(GetRegionInfo(0)) == RegionInfo(0, RegionFlags.READ | RegionFlags.WRITE, 4096)
    assert isinstance(bench.vfio.ioctl(GetIrqInfo(0)), IrqInfo)
    assert bench.vfio.read(Region.CONFIG, 0, 4) == bytes.fromhex("e51d0100")


def test_memory_shares_a_bar_with_registers() -> None:
    class Mixed(Bar, index=0, size=16384):
        first = U32(0)
        last = U32(12288)

    class Beside(Function[Profile]):
        identity = ID
        regs = Mixed()
        ring = Memory(index=0, size=8192, offset=4096)

    bench = Bench(Beside)
    assert bench.vfio.region_info(0).areas == (Area(4096, 8192),)
    bench.write(0, 1)
    bench.write(4096, 2)
    bench.write(12288, 3)
    assert [bench.read(offset) for offset in (0, 4096, 12288)] == [1, 2, 3]
    assert bench.memory.regions[0][4096] == 2
    assert bench.device.unmodelled == {}
