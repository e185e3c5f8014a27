"""Workers: one for the same arguments, and no call is lost."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest

from mdev_user.driver import (
    RO,
    U32,
    WO,
    Bar,
    DriverError,
    Each,
    Flag,
    Function,
    GuestError,
    Parent,
    PciId,
    Pool,
    Profile,
    Register,
    RegisterFile,
    Saved,
    Table,
    on_write,
    on_write_each,
    worker,
)
from mdev_user.testing import Guest

QUEUES = 3


class Status(Register):
    busy = Flag(0, RO)


class Queue(RegisterFile):
    tail = U32(0)


class Regs(Bar, index=0, size=4096):
    queue = Each(Queue, at=0, count=QUEUES + 1)
    status, single = Status.at(0x20), U32(0x24, WO)


@dataclass(frozen=True)
class Slice(Profile):
    instances: int


class Device(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=4, class_code=0x120000)
    regs = Regs()
    served = Table[int, int](limit=QUEUES + 1)
    runs = Table[int, int](limit=QUEUES + 1)
    suicidal = Saved(False)

    @on_write_each(Regs.queue.tail)
    def ring(self, queue: int, tail: int) -> None:
        self.serve(queue)

    @worker(limit=QUEUES)
    async def serve(self, queue: int) -> None:
        self.runs[queue] = self.runs.get(queue, 0) + 1
        tail = self.regs.queue[queue].tail
        while self.served.get(queue, 0) < tail:
            self.served[queue] = self.served.get(queue, 0) + 1
            if self.suicidal:
                self.serve.cancel(queue)
            await self.dma.read(0, 4)
            if self.served[queue] == 13:
                raise GuestError("thirteen")

    @on_write(Regs.single)
    def ring_single(self, value: int) -> None:
        self.single()

    @worker(busy=Regs.status.busy)
    async def single(self) -> None:
        await self.dma.write(0x1000, b"x")


class Card(Parent[Slice]):
    function = Device
    instances = Pool(1)
    types: ClassVar[Mapping[str, Slice]] = {"one": Slice(instances=1)}  # type: ignore[misc]  # as Parent says


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(Card) as made:
        yield made


def device(guest: Guest) -> Device:
    function = guest.device.function
    assert isinstance(function, Device)
    return function


def test_one_is_under_way_for_each_queue(guest: Guest) -> None:
    for queue in (0, 1, 0, 1, 1):
        guest.write(Regs.queue.tail, 5, queue)
    assert [each.arguments for each in guest.device.jobs] == [{"queue": 0}, {"queue": 1}]
    guest.run()
    assert guest.device.jobs == []
    assert (dict(device(guest).served), guest.errors) == ({0: 5, 1: 5}, 0)
    assert dict(device(guest).runs) == {0: 2, 1: 2}  # calls meanwhile are one more run, however many they were


def test_no_call_is_lost_whenever_it_comes(guest: Guest) -> None:
    for steps in range(8):
        for tail in (1, 2):
            guest.write(Regs.queue.tail, tail, 0)
            for _ in range(steps):
                guest.step()
        guest.run()
        assert (device(guest).served[0], guest.device.jobs, guest.errors) == (2, [], 0)
        guest.reset()


def test_limit_is_of_different_arguments(guest: Guest) -> None:
    for queue in range(QUEUES + 1):
        guest.write(Regs.queue.tail, 1, queue)
    assert len(guest.device.jobs) == QUEUES
    assert guest.errors == 1
    assert "3 under way, its limit" in guest.last_error


def test_guests_error_ends_one_run_and_not_the_next(guest: Guest) -> None:
    guest.write(Regs.queue.tail, 13, 0)
    while device(guest).served.get(0) != 13:
        guest.step()
    guest.write(Regs.queue.tail, 15, 0)
    guest.run()
    assert (guest.errors, guest.last_error, device(guest).served[0]) == (1, "thirteen", 15)
    assert guest.device.jobs == []


def test_busy_lasts_until_nothing_is_to_do(guest: Guest) -> None:
    guest.write(Regs.single, 1)
    guest.write(Regs.single, 1)
    steps = 0
    while guest.step():
        steps += 1
        assert guest.read(Regs.status.busy) == bool(guest.device.jobs)
    assert steps == 4  # two runs
    assert not guest.read(Regs.status.busy)


def test_reset_forgets_what_was_called(guest: Guest) -> None:
    for _ in range(2):
        guest.write(Regs.queue.tail, 5, 0)
    guest.reset()
    guest.run()
    assert (guest.device.jobs, dict(device(guest).runs)) == ([], {})
    guest.write(Regs.queue.tail, 5, 0)
    guest.run()
    assert dict(device(guest).runs) == {0: 1}


def test_worker_of_one_queue_can_be_cancelled(guest: Guest) -> None:
    for queue in (0, 1):
        guest.write(Regs.queue.tail, 5, queue)
    guest.write(Regs.queue.tail, 6, 0)
    assert guest.step()
    serve = device(guest).serve
    assert (serve.cancel(0), serve.cancel(0), serve.cancel(2)) == (True, False, False)
    guest.run()
    assert (dict(device(guest).served), guest.device.jobs, guest.errors) == ({0: 1, 1: 5}, [], 0)
    guest.write(Regs.queue.tail, 6, 0)
    guest.run()
    assert device(guest).served[0] == 6


def test_cancelled_job_is_not_busy(guest: Guest) -> None:
    guest.write(Regs.single, 1)
    assert guest.read(Regs.status.busy)
    assert device(guest).single.cancel()
    guest.run()
    assert (guest.read(Regs.status.busy), guest.memory[0x1000]) == (False, bytes(1))


def test_worker_that_cancels_itself_ends_at_its_next_await(guest: Guest) -> None:
    guest.write(Regs.queue.tail, 14, 0)
    device(guest).suicidal = True
    guest.run()
    assert (dict(device(guest).served), guest.device.jobs) == ({0: 1}, [])


def test_mistakes_are_those_of_a_job() -> None:
    with pytest.raises(DriverError, match="@worker: limit: expected 1 to 1024, given 0"):
        worker(limit=0)
    with pytest.raises(DriverError, match=r"@worker: busy: expected a Flag"):
        worker(busy=Regs.single)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(DriverError, match="a job is an async def"):
        worker()(lambda self: None)  # type: ignore[arg-type, return-value]  # the mistake
