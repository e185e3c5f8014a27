"""Software resets: the guest writes a register, and the driver resets its device, from a method or from a job."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest
from typing_extensions import override

from mdev_user.driver import (
    RO,
    U32,
    WO,
    Bar,
    DriverError,
    Flag,
    Function,
    Interrupt,
    Memory,
    Parent,
    PciId,
    Pool,
    Profile,
    Register,
    ResetKind,
    Saved,
    Session,
    Table,
    job,
    on_write,
    sleep,
)
from mdev_user.testing import Guest
from unit.driver.bench import Bench


class Status(Register):
    done, busy = Flag(0), Flag(1, RO)


class Regs(Bar, index=0, size=4096):
    control = U32(0)
    status = Status.at(4)
    kept, lost = U32(8, sticky=True), U32(12)
    copy, wait = U32(16, WO), U32(20, WO)
    engine = Status.at(24, sticky=True)
    run = U32(28, WO)


@dataclass(frozen=True)
class Slice(Profile):
    instances: int


class Device(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=3, class_code=0x120000)
    regs = Regs()
    memory = Memory(index=2, size=4096)
    value, calibration = Saved(0), Saved(0, sticky=True)
    lines = Table[int, int](limit=4)
    disk = Table[int, int](limit=4, sticky=True)
    resets = Session(list[ResetKind])
    done = Interrupt(Regs.status.done)

    @on_write(Regs.control)
    def command(self, value: int) -> None:
        if value & 1:
            self.reset_device()
            self.regs.control = value & ~1

    @on_write(Regs.copy)
    def start_copy(self, value: int) -> None:
        self.copying(value)

    @on_write(Regs.run)
    def start_running(self, value: int) -> None:
        self.running()

    @job(busy=Regs.engine.busy)
    async def running(self) -> None:
        await sleep(1)

    @on_write(Regs.wait)
    def start_waiting(self, value: int) -> None:
        self.waiting()

    @job(busy=Regs.status.busy)
    async def copying(self, value: int) -> None:
        data = await self.dma.read(0x1000, 4)
        self.regs.status.done = True
        if value:
            self.reset_device()
            self.calibration += 1
            if value == 2:
                self.copying(0)
            if value == 3:
                return
        await self.dma.write(0x2000, data)

    @job()
    async def waiting(self) -> None:
        try:
            await sleep(1)
            self.value += 1
        finally:
            self.calibration += 100

    @override
    def reset(self, kind: ResetKind) -> None:
        self.resets.append(kind)
        self.value = 7


class Card(Parent[Slice]):
    function = Device
    instances = Pool(1)
    types: ClassVar[Mapping[str, Slice]] = {"one": Slice(instances=1)}  # type: ignore[misc]  # as Parent says


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(Card) as made:
        yield made


def pin(guest: Guest) -> bool:
    """A call, since mypy takes an attribute for what it was when it was asked first."""
    return guest.pin


def device(guest: Guest) -> Device:
    function = guest.device.function
    assert isinstance(function, Device)
    return function


def test_everything_but_what_is_sticky_is_as_after_a_reset(guest: Guest) -> None:
    made = device(guest)
    made.value = made.calibration = 1
    made.lines[1] = made.disk[1] = 1
    for register in (Regs.kept, Regs.lost):
        guest.write(register, 5)
    guest.write(Regs.status.done, True)
    assert pin(guest)
    made.memory[0] = 9
    guest.write(Regs.control, 0x11)
    assert (made.value, made.calibration, dict(made.lines), dict(made.disk)) == (7, 1, {}, {1: 1})
    assert (guest.read(Regs.kept), guest.read(Regs.lost), made.memory[0]) == (5, 0, 9)
    assert not pin(guest)
    assert made.resets == [ResetKind.SOFTWARE]
    assert guest.read(Regs.control) == 0x10  # stored after the reset


def test_reset_of_the_function_keeps_what_is_sticky_and_an_open_does_not(guest: Guest) -> None:
    made = device(guest)
    made.calibration, made.disk[1] = 1, 1
    guest.reset()
    assert (made.calibration, dict(made.disk), made.resets) == (1, {1: 1}, [ResetKind.FUNCTION])
    guest.close()
    guest.open()
    assert (made.calibration, dict(made.disk), made.resets) == (0, {}, [ResetKind.POWER_ON])


def test_jobs_end_at_their_await(guest: Guest) -> None:
    guest.write(Regs.copy, 0)
    guest.write(Regs.wait, 0)
    while guest.step():
        guest.write(Regs.control, 1)
    assert (guest.device.jobs, guest.read(Regs.status.busy)) == ([], False)
    guest.advance(2)
    assert device(guest).value == 7
    assert guest.memory[0x2000:0x2004] == bytes(4)
    guest.write(Regs.wait, 0)
    guest.advance(2)
    assert device(guest).value == 8


@pytest.mark.parametrize("reset", [Guest.reset, lambda guest: guest.write(Regs.control, 1)])
def test_busy_bit_in_a_sticky_register_ends_with_its_job(guest: Guest, reset: Callable[[Guest], object]) -> None:
    guest.write(Regs.engine.done, True)
    guest.write(Regs.run, 0)
    assert (guest.read(Regs.engine.done), guest.read(Regs.engine.busy)) == (True, True)
    reset(guest)
    assert (guest.read(Regs.engine.done), guest.read(Regs.engine.busy)) == (True, False)


def test_reset_device_in_reset_is_the_drivers_mistake() -> None:
    class Circular(Device):
        @override
        def reset(self, kind: ResetKind) -> None:
            if kind is not ResetKind.POWER_ON:
                self.reset_device()

    bench = Bench(Circular, Slice(instances=1))
    for _ in range(2):
        with pytest.raises(DriverError, match=r"reset_device\(\) in reset\(\): the device is being reset already"):
            bench.reset()


def test_job_that_resets_its_device_ends_at_its_next_await(guest: Guest) -> None:
    guest.memory[0x1000:0x1004] = b"abcd"
    guest.write(Regs.wait, 0)
    guest.write(Regs.copy, 1)
    guest.run()
    assert (guest.device.jobs, guest.read(Regs.status.busy), guest.pin) == ([], False, False)
    assert device(guest).calibration == 101  # the code up to the await, and the other job's end
    guest.advance(2)
    assert guest.memory[0x2000:0x2004] == bytes(4)
    assert device(guest).value == 7


def test_job_that_resets_its_device_may_start_itself_anew(guest: Guest) -> None:
    guest.memory[0x1000:0x1004] = b"abcd"
    guest.write(Regs.copy, 2)
    guest.step()
    guest.step()
    assert [each.arguments for each in guest.device.jobs] == [{"value": 0}]
    assert guest.read(Regs.status.busy)
    guest.run()
    assert (guest.device.jobs, guest.read(Regs.status.busy)) == ([], False)
    assert guest.memory[0x2000:0x2004] == b"abcd"


def test_job_that_resets_its_device_may_be_at_its_end(guest: Guest) -> None:
    guest.write(Regs.copy, 3)
    guest.run()
    assert (guest.device.jobs, guest.errors) == ([], 0)
    guest.write(Regs.copy, 0)
    guest.run()
    assert guest.read(Regs.status.done)
