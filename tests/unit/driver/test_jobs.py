"""Jobs: started by calling them, stepped by the host, bounded, and remembered by name and arguments."""

from collections.abc import Iterator

import pytest

from mdev_user.driver import (
    RO,
    U32,
    WO,
    Bar,
    Dma,
    DmaFault,
    DriverError,
    Flag,
    Function,
    GuestError,
    Interrupt,
    PciId,
    Profile,
    Register,
    Saved,
    Sleep,
    job,
    on_write,
    sleep,
)
from mdev_user.driver.dma import LARGEST_TRANSFER
from mdev_user.driver.jobs import PendingJob
from mdev_user.vfio.dma import DmaRead, DmaWrite
from mdev_user.vfio.requests import Irq, Region
from unit.driver.bench import Bench


class Status(Register):
    busy, done = Flag(0, RO), Flag(1)


class Regs(Bar, index=0, size=64):
    status = Status.at(0)
    copy, queue, fail = U32(4, WO), U32(8, WO), U32(12, WO)


class Copier(Function[Profile]):
    identity = PciId(vendor=0x1DE5, device=2, class_code=0x120000)
    regs = Regs()
    steps = Saved("")
    done = Interrupt(Regs.status.done)

    @on_write(Regs.copy)
    def start_copy(self, value: int) -> None:
        if not self.copy(value, times=2):
            self.steps += "refused "

    @on_write(Regs.queue)
    def start_queued(self, value: int) -> None:
        self.queued(value)

    @on_write(Regs.fail)
    def start_failing(self, value: int) -> None:
        self.failing(value)

    @job(busy=Regs.status.busy)
    async def copy(self, address: int, times: int) -> None:
        """Copy a word upwards."""
        self.steps += "read "
        data = await self.dma.read(address, 4)
        self.steps += "write "
        await self.dma.write(address + 4, data * times)
        self.regs.status.done = True
        await sleep(0.5)
        self.steps += "end "

    @job(limit=2)
    async def queued(self, value: int) -> None:
        await sleep(value)
        self.steps += f"{value} "

    @job()
    async def failing(self, value: int) -> None:
        if value:
            raise GuestError("no")
        try:
            await self.dma.read(0, 4)
        except DmaFault:
            self.steps += "fault "
            raise


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(Copier)
    yield made
    made.jobs.cancel_all()
    made.close()


def steps(bench: Bench) -> str:
    made = bench.device.function
    assert isinstance(made, Copier)
    return made.steps


def test_job_runs_step_by_step(bench: Bench) -> None:
    bench.write(4, 0x1000)
    assert steps(bench) == ""  # it is started, and nothing of it has run
    assert bench.jobs.step() == DmaRead(0x1000, 4)
    assert bench.jobs.step(b"abcd") == DmaWrite(0x1004, b"abcdabcd")
    assert bench.jobs.step(b"") == Sleep(0.5)
    assert bench.jobs.step(b"") is None
    assert steps(bench) == "read write end "
    assert bench.device.jobs == []


def test_busy_is_set_from_the_start_to_the_end_and_only_one_is_under_way(bench: Bench) -> None:
    bench.write(4, 0x1000)
    assert bench.read(0) == 1
    bench.write(4, 0x2000)
    assert (steps(bench), bench.errors) == ("refused ", 1)
    for outcome in (None, b"abcd", b"", b""):
        bench.jobs.step(outcome)
    assert bench.read(0) & 1 == 0
    bench.write(4, 0x2000)
    assert bench.device.jobs == [bench.device.jobs[0]]


def test_interrupts_are_settled_at_every_await(bench: Bench) -> None:
    (pin,) = bench.arm(Irq.INTX)
    bench.write(4, 0x1000)
    for outcome, signals in ((None, 0), (b"abcd", 0), (b"", 1)):
        bench.jobs.step(outcome)
        assert pin.take() == signals


def test_interrupt_comes_after_busy_is_over() -> None:
    """A guest that reads the status when it is interrupted sees that the job has ended."""
    seen: list[int] = []

    class Ending(Function[Profile]):
        identity = Copier.identity
        regs = Regs()
        done = Interrupt(Regs.status.done)

        @on_write(Regs.copy)
        def start_ending(self, value: int) -> None:
            self.ending()

        @job(busy=Regs.status.busy)
        async def ending(self) -> None:
            self.regs.status.done = True

    bench = Bench(Ending)
    (pin,) = bench.arm(Irq.INTX)
    pin.signal = lambda: seen.append(bench.read(0))  # type: ignore[method-assign]  # look when it fires
    bench.write(4, 0x1000)
    bench.jobs.step()
    assert seen == [2]


def test_limit_is_of_those_under_way(bench: Bench) -> None:
    for value in (1, 2, 3):
        bench.write(8, value)
    assert [name for name, _work in bench.jobs.waiting] == ["queued", "queued"]
    assert bench.errors == 1
    assert [(each.name, each.arguments) for each in bench.device.jobs] == [
        ("queued", {"value": 1}),
        ("queued", {"value": 2}),
    ]
    for _ in range(4):
        bench.jobs.step()
    assert steps(bench) == "1 2 "
    assert bench.device.jobs == []


def test_guests_error_ends_a_job_and_is_counted_once(bench: Bench) -> None:
    bench.write(12, 1)
    assert bench.jobs.step() is None
    assert (bench.errors, bench.device.jobs) == (1, [])


def test_fault_that_the_host_counted_is_not_counted_again(bench: Bench) -> None:
    bench.write(12, 0)
    bench.jobs.step()
    assert bench.jobs.step(DmaFault("not mapped")) is None
    assert (steps(bench), bench.errors, bench.device.jobs) == ("fault ", 1, [])


def test_reset_cancels_jobs(bench: Bench) -> None:
    bench.write(4, 0x1000)
    bench.jobs.step()
    bench.reset()
    assert (bench.read(0), bench.device.jobs, bench.jobs.waiting) == (0, [], [])
    bench.write(4, 0x1000)
    assert bench.read(0) == 1


def test_keywords_are_remembered(bench: Bench) -> None:
    bench.write(4, 0x1000)
    work = bench.device.jobs[0]
    assert isinstance(work, PendingJob)
    assert (work.name, work.arguments) == ("copy", {"address": 0x1000, "times": 2})


def test_arguments_are_values_that_can_be_saved(bench: Bench) -> None:
    made = bench.device.function
    assert isinstance(made, Copier)
    with pytest.raises(DriverError, match=r"Copier\.queued: value: expected a frozen value, of type int"):
        made.queued([1])  # type: ignore[arg-type]  # the mistake
    assert bench.device.jobs == []


def test_dma_is_bounded_and_needs_bus_mastering(bench: Bench) -> None:
    bench.write(4, b"\x03\x00", Region.CONFIG)
    bench.write(12, 0)
    assert bench.jobs.step() is None
    assert (steps(bench), bench.errors) == ("fault ", 1)
    bench.write(4, b"\x07\x00", Region.CONFIG)
    for length in (-1, LARGEST_TRANSFER + 1):
        work = Dma(bench.device).read(0, length)
        with pytest.raises(DmaFault, match=f"DMA of {length} bytes"):
            work.send(None)
