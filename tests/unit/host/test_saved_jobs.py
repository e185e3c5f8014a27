"""A job that sleeps while its device is saved ends elsewhere when it would have ended here, by the host's clock."""

from collections.abc import Iterator
from uuid import UUID

import pytest

from mdev_user.driver import Device, Function, PciId, Profile, Saved, job, sleep
from mdev_user.driver.stepping import Slept
from mdev_user.host.job_thread import JobThread
from unit.host.parts import Clock, OpenMdev, eventually


class Sleeper(Function[Profile]):
    identity = PciId(vendor=0x1DE5, device=9, class_code=0x120000)
    ended = Saved(0)

    @job(limit=4)
    async def work(self) -> None:
        await sleep(10)
        await sleep(20)
        self.ended += 1


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.thread.stop()


def opened(thread: JobThread) -> tuple[OpenMdev, Device, Sleeper]:
    device = Device(Sleeper, Profile(), UUID(int=1))
    made = device.function
    assert isinstance(made, Sleeper)
    return OpenMdev(thread, device), device, made


def timers(clock: Clock) -> list[float]:
    return sorted(when for when, *_rest in clock.thread._timers)


def test_job_goes_on_where_it_was(clock: Clock) -> None:
    here, device, made = opened(clock.thread)
    with here.lock:
        made.work()
    eventually(lambda: timers(clock) == [1010.0])
    clock.advance(10)
    eventually(lambda: timers(clock) == [1030.0])
    clock.advance(15)
    there, other, loaded = opened(clock.thread)
    with here.lock:
        state = device.save()
        here.device.close()
    with there.lock:
        other.load(state)
    eventually(lambda: timers(clock) == [1030.0, 1030.0])  # that of the job that was cancelled is still there
    assert loaded.ended == 0
    clock.advance(5)
    eventually(lambda: loaded.ended == 1)
    assert (made.ended, there.failures) == (0, [])
    with there.lock:
        there.device.close()


def test_job_without_its_credit_would_sleep_it_all_again(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(Slept, "seconds", lambda _self, _now: 0.0)
    here, device, made = opened(clock.thread)
    with here.lock:
        made.work()
    eventually(lambda: timers(clock) == [1010.0])
    clock.advance(9)
    there, other, _loaded = opened(clock.thread)
    with here.lock:
        state = device.save()
        here.device.close()
    with there.lock:
        other.load(state)
    eventually(lambda: timers(clock) == [1010.0, 1019.0])
    with there.lock:
        there.device.close()
