"""Paused jobs: nothing of a device happens by itself, and time that passes meanwhile does not count."""

from collections.abc import Iterator
from functools import partial

import pytest
from typing_extensions import override

from mdev_user.host.jobs import Jobs
from mdev_user.units import PAGE
from mdev_user.vfio.dma import DmaFlags, Mapping
from mdev_user.vfio.migration_states import MigrationFlags
from mdev_user.vfio.migration_states import MigrationState as S
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.work import MOST_PENDING, Sleep
from unit.host.parts import Clock, OpenMdev, Wire, eventually


class Movable(DeviceOps):
    @override
    def migration_flags(self) -> MigrationFlags:
        return MigrationFlags(7)

    @override
    def open_device(self, device: object) -> None: ...

    @override
    def close_device(self) -> None: ...


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.thread.stop()


@pytest.fixture
def mdev(clock: Clock) -> OpenMdev:
    return OpenMdev(clock.thread, Movable())


def drained(mdev: OpenMdev) -> None:
    """Everything that was ready has had its turn: of the first of two the timers have become ready, if not before."""
    for _ in range(2):
        turns: list[int] = []
        with mdev.lock:
            mdev.jobs.submit(partial(turns.append, 1))
        eventually(partial(len, turns))


def test_paused_job_stays_at_its_await(clock: Clock, mdev: OpenMdev) -> None:
    seen: list[float] = []

    async def work() -> None:
        seen.append(clock.now)
        await Sleep(10)
        seen.append(clock.now)

    mdev.spawn(work())
    eventually(lambda: len(seen) == 1)
    with mdev.lock:
        mdev.jobs.pause()
    clock.advance(100)
    drained(mdev)
    assert seen == [1000.0]
    with mdev.lock:
        mdev.jobs.resume()
    drained(mdev)
    assert seen == [1000.0]  # it had slept nothing when it was paused
    clock.advance(10)
    eventually(lambda: seen == [1000.0, 1110.0])


def test_job_would_go_on_without_the_pause(clock: Clock, mdev: OpenMdev, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: with a pause that does nothing the test above fails."""
    monkeypatch.setattr(Jobs, "pause", lambda _jobs: None)
    with pytest.raises(AssertionError):
        test_paused_job_stays_at_its_await(clock, mdev)


def test_sleep_is_longer_by_the_pauses_in_it(clock: Clock, mdev: OpenMdev) -> None:
    ended: list[float] = []

    async def work() -> None:
        await Sleep(10)
        ended.append(clock.now)

    mdev.spawn(work())
    eventually(lambda: len(clock.thread._timers) == 1)
    for _ in range(3):  # each time 2 s of sleep and 5 of pause
        clock.advance(2)
        with mdev.lock:
            mdev.jobs.pause()
            paused_at = mdev.jobs.now
        clock.advance(5)
        with mdev.lock:
            assert mdev.jobs.now == paused_at
            mdev.jobs.resume()
        drained(mdev)
    assert ended == []
    clock.advance(3.5)
    drained(mdev)
    assert ended == []
    clock.advance(0.5)
    eventually(lambda: ended == [1025.0])


def test_answer_that_comes_meanwhile_waits(clock: Clock, mdev: OpenMdev) -> None:
    seen: list[bytes] = []

    async def work() -> None:
        seen.append(await mdev.device.dma.read(0, 4))

    mdev.device.dma.map(Mapping(0, PAGE, DmaFlags.READ, None))
    mdev.spawn(work())
    eventually(lambda: mdev.wire.asked)
    with mdev.lock:
        mdev.jobs.pause()
        mdev.wire.asked[0][3](b"data")
    drained(mdev)
    assert seen == []
    with mdev.lock:
        mdev.jobs.resume()
    eventually(lambda: seen == [b"data"])


def test_job_that_is_started_meanwhile_waits_in_its_order(clock: Clock, mdev: OpenMdev) -> None:
    seen: list[int] = []

    async def work(number: int) -> None:
        seen.append(number)

    with mdev.lock:
        mdev.jobs.pause()
    for number in range(5):
        mdev.spawn(work(number))
    drained(mdev)
    assert seen == []
    with mdev.lock:
        mdev.jobs.resume()
        mdev.jobs.resume()
    eventually(lambda: seen == [0, 1, 2, 3, 4])


def test_job_that_is_cancelled_meanwhile_is_forgotten(clock: Clock, mdev: OpenMdev) -> None:
    seen: list[int] = []

    async def work() -> None:
        seen.append(1)

    with mdev.lock:
        mdev.jobs.pause()
    for _ in range(2):
        for _ in range(MOST_PENDING):
            mdev.spawn(work())
        drained(mdev)
        assert len(mdev.jobs._held) == MOST_PENDING
        with mdev.lock:
            mdev.device.cancel_jobs()
        assert not mdev.jobs._held
    one = work()
    mdev.spawn(one)
    drained(mdev)
    with mdev.lock:
        mdev.device.cancel_job(one)
        assert not mdev.jobs._held
        mdev.jobs.resume()
    drained(mdev)
    assert seen == []


def test_what_the_framework_does_for_a_guest_goes_on(clock: Clock, mdev: OpenMdev) -> None:
    seen: list[int] = []
    with mdev.lock:
        mdev.jobs.pause()
        mdev.jobs.submit(lambda: seen.append(1))
    eventually(lambda: seen == [1])


@pytest.mark.parametrize("state", [S.STOP, S.RUNNING_P2P])
def test_states_pause_and_resume(clock: Clock, mdev: OpenMdev, state: S) -> None:
    seen: list[int] = []

    async def work() -> None:
        seen.append(1)

    with mdev.lock:
        mdev.device.migration.set_state(state)
    mdev.spawn(work())
    drained(mdev)
    assert seen == []
    with mdev.lock:
        mdev.device.migration.set_state(S.RUNNING)
    eventually(lambda: seen == [1])


def test_device_gets_another_user(clock: Clock, mdev: OpenMdev) -> None:
    failures: list[str] = []
    wire = Wire()

    async def work() -> None:
        await mdev.device.dma.read(0, 4)
        raise ZeroDivisionError

    mdev.device.dma.map(Mapping(0, PAGE, DmaFlags.READ, None))
    with mdev.lock:
        mdev.jobs.pause()
    mdev.spawn(work())
    with mdev.lock:
        mdev.jobs.attach(wire, lambda _error, name: failures.append(name))
        mdev.jobs.resume()
    eventually(lambda: wire.asked)
    assert not mdev.wire.asked
    with mdev.lock:
        wire.asked[0][3](b"data")
    eventually(lambda: failures == ["job job"])
    assert mdev.failures == []
