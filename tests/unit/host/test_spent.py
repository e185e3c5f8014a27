"""What an mdev's jobs take of a processor and of time, and that a job which cannot go on is told of."""

import time
from collections.abc import Iterator
from threading import Event

import pytest
from typing_extensions import override

from mdev_user.driver import (
    U32,
    WO,
    Attribute,
    Bar,
    Engine,
    Function,
    Instances,
    Parent,
    PciId,
    Policy,
    Profile,
    Share,
    job,
    on_write,
    sleep,
)  # fmt: skip
from mdev_user.errors import NoDevice
from mdev_user.host.job_thread import JobThread
from mdev_user.testing import Guest
from mdev_user.testing.stretches import Stretches
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.work import Sleep, Spent
from unit.host.parts import SECONDS, OpenMdev, eventually


class Clocks:
    """A clock, and the processor time of the one thread that runs."""

    def __init__(self) -> None:
        self.now = self.used = 1000.0
        self.thread = JobThread(lambda: self.now, lambda: self.used)

    def take(self, clock: float, processor: float) -> None:
        self.now += clock
        self.used += processor


@pytest.fixture
def clocks() -> Iterator[Clocks]:
    clocks = Clocks()
    yield clocks
    clocks.thread.stop()


async def work(clocks: Clocks, clock: float, processor: float) -> None:
    clocks.take(clock, processor)


def performed(mdev: OpenMdev, clocks: Clocks, clock: float, processor: float) -> Spent:
    """What the mdev has spent after such a job."""
    mdev.spawn(work(clocks, clock, processor))
    eventually(lambda: not mdev.jobs._pending and not mdev.jobs.stretches)
    with mdev.lock:
        return mdev.device.spent()


def test_stretches_are_counted_by_both_clocks(clocks: Clocks) -> None:
    mdev = OpenMdev(clocks.thread)
    assert mdev.device.spent() == (0, 0)
    assert performed(mdev, clocks, 4, 1) == (1, 4)
    assert performed(mdev, clocks, 2, 2) == (3, 6)


def test_nothing_is_counted_before_somebody_asks(clocks: Clocks) -> None:
    mdev, asked = OpenMdev(clocks.thread), list[str]()
    clocks.thread._processor = lambda: asked.append("processor") or 0.0  # type: ignore[func-returns-value]  # it is None
    mdev.spawn(work(clocks, 4, 1))
    eventually(lambda: not mdev.jobs._pending and not mdev.jobs.stretches)
    assert not asked
    assert mdev.device.spent() == (0, 0)


def test_each_mdev_has_its_own(clocks: Clocks) -> None:
    """And what the thread does to come to a stretch is a part of that, and of no other."""
    first, second, uncounted = (OpenMdev(clocks.thread) for _each in range(3))
    for each in (first, second):
        each.device.spent()
    assert performed(first, clocks, 4, 1) == (1, 4)
    clocks.take(1, 0.25)
    assert performed(second, clocks, 2, 2) == (2.25, 2)
    uncounted.spawn(work(clocks, 8, 8))
    eventually(lambda: not uncounted.jobs._pending and not uncounted.jobs.stretches)
    assert performed(first, clocks, 1, 1) == (2, 5)
    assert second.device.spent() == (2.25, 2)


def test_time_between_stretches_is_nobodys(clocks: Clocks) -> None:
    mdev, seen = OpenMdev(clocks.thread), list[Spent]()
    mdev.device.spent()

    async def sleeper() -> None:
        await Sleep(10)
        clocks.take(2, 1)
        seen.append(mdev.device.spent())  # of a stretch that is not over
        clocks.take(1, 1)

    mdev.spawn(sleeper())
    eventually(lambda: clocks.thread._timers)
    clocks.now += 10
    with clocks.thread._changed:
        clocks.thread._changed.notify()
    eventually(lambda: not mdev.jobs._pending and not mdev.jobs.stretches)
    assert seen == [(1, 2)]
    assert mdev.device.spent() == (2, 3)


def test_job_that_fails_is_counted(clocks: Clocks) -> None:
    mdev = OpenMdev(clocks.thread)
    mdev.device.spent()

    async def fail() -> None:
        clocks.take(2, 1)
        raise ZeroDivisionError

    mdev.spawn(fail())
    eventually(lambda: mdev.failures and not mdev.jobs.stretches)
    assert mdev.device.spent() == (1, 2)


def test_closed_device_has_spent_nothing(clocks: Clocks) -> None:
    mdev = OpenMdev(clocks.thread)
    mdev.device.close()
    with pytest.raises(NoDevice):
        mdev.device.spent()


# --- a step that takes long ---------------------------------------------------------------------------------------


class Hindered(DeviceOps):
    def __init__(self) -> None:
        self.told = Event()

    @override
    def hindered(self) -> None:
        self.told.set()
        raise ZeroDivisionError


def test_device_is_told_that_its_job_cannot_go_on(clocks: Clocks, caplog: pytest.LogCaptureFixture) -> None:
    """And whatever it does then, the thread is everybody's."""
    ops, ran = Hindered(), Event()
    mdev, other = OpenMdev(clocks.thread, ops), OpenMdev(clocks.thread)

    async def run(event: Event) -> None:
        event.set()

    with mdev.lock:
        mdev.device.spawn(run(ran), "job")
        assert ops.told.wait(SECONDS)
        others = Event()
        other.spawn(run(others))
        assert others.wait(SECONDS)
        assert not ran.is_set()
    assert ran.wait(SECONDS)
    assert "ZeroDivisionError" in caplog.text


def test_device_whose_job_goes_on_is_told_nothing(clocks: Clocks) -> None:
    ops = Hindered()
    mdev = OpenMdev(clocks.thread, ops)
    assert performed(mdev, clocks, 1, 1) == (0, 0)
    assert not ops.told.is_set()


# --- a device that has a share ------------------------------------------------------------------------------------


PACE = [0.0]
"""Seconds that a turn takes here."""


class Regs(Bar, index=0, size=64):
    draw = U32(0, WO)


class Gpu(Function[Profile, Engine]):
    identity = PciId(vendor=1, device=2, class_code=0x038000)
    regs = Regs()
    drawing = Share()

    @on_write(Regs.draw)
    def begin(self, _value: int) -> None:
        self.work()

    @job()
    async def work(self) -> None:
        for _turn in range(4):
            async with self.drawing.turn(1):
                end = time.thread_time() + PACE[0]
                while time.thread_time() < end:
                    pass
            await sleep(0)


class Card(Parent[Profile, Engine]):
    function = Gpu
    instances = Instances(1)
    types = {"1": Profile()}
    policy = Attribute(Policy.FIXED_SHARE)

    @override
    def open(self) -> Engine:
        return Engine(lambda: self.policy, whole=100)


def saved(seconds: float) -> bytes:
    PACE[0] = seconds
    with Guest(Card) as guest:
        guest.write(Regs.draw, 1)
        guest.run()
        guest.advance(100)
        return guest.save()


def test_speed_of_this_machine_is_not_in_what_is_saved() -> None:
    """Under test, jobs take no time: a slow machine gives the same accounts as a fast one."""
    assert saved(0) == saved(0.01)


def test_speed_would_be_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(Stretches, "begin_stretch", lambda _self: Spent(time.thread_time(), 0))
    monkeypatch.setattr(Stretches, "spent", lambda _self: Spent(time.thread_time(), 0))
    assert saved(0) != saved(0.01)
