"""Jobs as steps: order, clock, DMA, cancelling, limits, and that one mdev does not hold up another."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from threading import Event

import pytest
from typing_extensions import override

from mdev_user.errors import DmaFault, DriverError, GuestError
from mdev_user.host.job_thread import JobThread
from mdev_user.host.jobs import LONGEST_SLEEP
from mdev_user.units import PAGE
from mdev_user.vfio.dma import DmaFlags, Mapping
from mdev_user.vfio.work import MOST_PENDING, Answer, Later, Offload, Sleep
from mdev_user.vfio_user.token_lock import TokenLock
from unit.host.computations import Point, die, fail, nothing, swapped
from unit.host.parts import SECONDS, Clock, Memory, OpenMdev, eventually

BOTH = DmaFlags.READ | DmaFlags.WRITE


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.thread.stop()


@pytest.fixture
def mdev(clock: Clock) -> OpenMdev:
    return OpenMdev(clock.thread)


def map_memory(mdev: OpenMdev, iova: int, size: int = PAGE, flags: DmaFlags = BOTH) -> Memory:
    memory = Memory(size)
    mdev.device.dma.map(Mapping(iova, size, flags, memory))
    return memory


def map_messages(mdev: OpenMdev, iova: int, size: int = PAGE, flags: DmaFlags = BOTH) -> None:
    mdev.device.dma.map(Mapping(iova, size, flags, None))


# --- time ----------------------------------------------------------------------------------------------------


def test_a_sleep_ends_by_the_hosts_clock(clock: Clock, mdev: OpenMdev) -> None:
    seen: list[float] = []

    async def work() -> None:
        for _ in range(3):
            seen.append(clock.now)
            await Sleep(10)

    mdev.spawn(work())
    eventually(lambda: len(seen) == 1)
    clock.advance(9.9)
    time.sleep(0.02)
    assert seen == [1000.0]
    clock.advance(0.2)
    eventually(lambda: len(seen) == 2)
    clock.advance(10)
    eventually(lambda: len(seen) == 3)


def test_sleeps_end_in_the_order_of_their_times(clock: Clock, mdev: OpenMdev) -> None:
    woken: list[int] = []

    async def work(seconds: int) -> None:
        await Sleep(seconds)
        woken.append(seconds)

    for seconds in (3, 1, 2):
        mdev.spawn(work(seconds))
    eventually(lambda: len(clock.thread._timers) == 3)
    clock.advance(5)
    eventually(lambda: len(woken) == 3)
    assert woken == [1, 2, 3]


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), -1, LONGEST_SLEEP + 1])
def test_no_number_to_sleep_for_stops_the_thread_of_all(clock: Clock, mdev: OpenMdev, seconds: float) -> None:
    other, done = OpenMdev(clock.thread), Event()

    async def work() -> None:
        await Sleep(seconds)

    async def others() -> None:
        await Sleep(1)
        done.set()

    mdev.spawn(work(), "odd")
    eventually(lambda: mdev.failures)
    assert isinstance(mdev.failures[0][0], DriverError)
    assert mdev.failures[0][1] == "job odd"
    other.spawn(others())
    eventually(lambda: clock.thread._timers)
    clock.advance(1)
    assert done.wait(SECONDS)


# --- steps ---------------------------------------------------------------------------------------------------


def test_a_job_runs_under_the_step_lock_and_not_within_the_step_that_started_it(mdev: OpenMdev) -> None:
    ran, locked = Event(), []

    async def work() -> None:
        locked.append(mdev.lock.locked())
        ran.set()

    with mdev.lock:
        mdev.device.spawn(work(), "job")
        assert not ran.wait(0.05)
    assert ran.wait(SECONDS)
    assert locked == [True]


def test_the_jobs_of_one_mdev_run_in_the_order_they_were_started(mdev: OpenMdev) -> None:
    order: list[int] = []

    async def work(number: int) -> None:
        order.append(number)

    with mdev.lock:
        for number in range(100):
            mdev.device.spawn(work(number), "job")
        time.sleep(0.01)  # the job thread finds the mdev busy several times
    eventually(lambda: len(order) == 100)
    assert order == list(range(100))


class Tried(TokenLock):
    """A step lock that counts how often it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    @override
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self.times += timeout > 0
        return super().acquire(blocking, timeout)


def tries_beside(clock: Clock, mdev: OpenMdev, stretches: int, seconds: float = 0.0) -> int:
    """How often a stuck mdev is waited for while another one runs so many; each takes that long by the clock."""
    mdev.lock = mdev.jobs.lock = lock = Tried()
    other, tries = OpenMdev(clock.thread), list[int]()

    async def stuck() -> None: ...

    async def chain() -> None:
        before = lock.times
        for _ in range(stretches):
            await Sleep(0)
            clock.now += seconds
        tries.append(lock.times - before)

    with lock:  # a driver that does not return
        for _ in range(MOST_PENDING):
            mdev.device.spawn(stuck(), "stuck")
        eventually(lambda: lock.times)
        other.spawn(chain())
        eventually(lambda: tries)
    eventually(lambda: not mdev.jobs._pending)
    return tries[0]


def test_a_stuck_mdev_with_many_jobs_delays_no_others(clock: Clock, mdev: OpenMdev) -> None:
    assert tries_beside(clock, mdev, 500) <= 1


def test_without_a_rest_it_would(clock: Clock, mdev: OpenMdev, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: each stretch of the other waits for it."""
    monkeypatch.setattr(JobThread, "_rest", lambda thread, jobs: thread._ready.append(jobs))
    assert tries_beside(clock, mdev, 500) >= 499


def test_a_stuck_mdev_is_tried_again_after_longer_and_longer_rests(clock: Clock, mdev: OpenMdev) -> None:
    """In a second of the others': 1, 2, 4, 8 and 16 ms, and then each 32."""
    assert 30 <= tries_beside(clock, mdev, 1000, 0.001) <= 5 + 31


def test_a_busy_mdev_to_which_something_comes_rests_no_longer(clock: Clock, mdev: OpenMdev) -> None:
    other, over, came = OpenMdev(clock.thread), Event(), Event()

    async def always() -> None:
        while not over.is_set():
            await Sleep(0)

    async def first() -> None: ...

    async def second() -> None:
        came.set()

    with mdev.lock:
        mdev.device.spawn(first(), "first")
        other.spawn(always())
        eventually(lambda: mdev.jobs in clock.thread._resting)
    assert not mdev.lock.locked()
    assert mdev.jobs.stretches  # by the clock, which stands still, it rests for ever
    mdev.spawn(second())
    assert came.wait(SECONDS)
    over.set()


def test_a_slow_step_is_counted_and_named(mdev: OpenMdev) -> None:
    async def slow() -> None:
        await Sleep(0)
        time.sleep(0.005)  # noqa: ASYNC251 - that it blocks is the point

    async def quick() -> None: ...

    mdev.spawn(quick(), "quick")
    mdev.spawn(slow(), "compute")
    eventually(lambda: mdev.counters["slow_steps"])
    assert mdev.counters["slowest_step"] == "job compute"
    assert int(mdev.counters["slowest_step_ns"]) >= 5_000_000


def test_a_driver_that_raises_is_told_and_others_go_on(clock: Clock, mdev: OpenMdev) -> None:
    other, done = OpenMdev(clock.thread), Event()

    async def broken() -> None:
        raise ValueError("a bug")

    async def leaves() -> None:
        sys.exit("leaving")

    async def others() -> None:
        done.set()

    mdev.spawn(broken(), "broken")
    mdev.spawn(leaves(), "leaves")
    other.spawn(others())
    assert done.wait(SECONDS)
    eventually(lambda: len(mdev.failures) == 2)
    assert [(str(error), name) for error, name in mdev.failures] == [
        ("a bug", "job broken"),
        ("SystemExit('leaving')", "job leaves"),
    ]
    assert mdev.counters["guest_errors"] == 0


@pytest.mark.parametrize("request_", ["text", 3, None])
def test_awaiting_what_is_no_request_is_the_drivers_bug(mdev: OpenMdev, request_: object) -> None:
    class Odd:
        def __await__(self) -> Iterator[object]:
            yield request_

    async def work() -> None:
        await Odd()  # type: ignore[misc]  # that it is no proper awaitable is the point

    mdev.spawn(work())
    eventually(lambda: mdev.failures)
    assert isinstance(mdev.failures[0][0], DriverError)


# --- the end of jobs -----------------------------------------------------------------------------------------


def test_a_guest_cannot_start_more_jobs_than_there_may_be(mdev: OpenMdev) -> None:
    async def work() -> None:
        await Sleep(100)

    for _ in range(MOST_PENDING):
        mdev.spawn(work())
    with pytest.raises(GuestError, match=f"{MOST_PENDING} jobs are pending; one more was not started"):
        mdev.spawn(work(), "one more")
    with mdev.lock:
        mdev.device.close()
    assert not mdev.jobs._pending


@pytest.mark.parametrize("how", ["reset", "close"])
def test_reset_and_close_end_jobs_at_their_await(clock: Clock, mdev: OpenMdev, how: str) -> None:
    ended, went_on = Event(), Event()

    async def work() -> None:
        try:
            await Sleep(1)
            went_on.set()
        finally:
            ended.set()

    mdev.spawn(work())
    eventually(lambda: clock.thread._timers)
    mdev.device.ioctl = lambda request: None
    with mdev.lock:
        getattr(mdev.device, how)()
    assert ended.is_set()
    clock.advance(2)
    time.sleep(0.02)
    assert not went_on.is_set()
    assert mdev.failures == []


def test_a_job_that_cancels_all_is_closed_at_its_next_await(clock: Clock, mdev: OpenMdev) -> None:
    seen: list[str] = []

    async def waiting(seconds: float = 1) -> None:
        try:
            await Sleep(seconds)
        finally:
            seen.append("other closed")

    async def cancelling() -> None:
        mdev.device.cancel_jobs()
        seen.append("goes on")
        try:
            await Sleep(1)
            seen.append("never")
        finally:
            seen.append("closed")

    async def ending() -> None:
        mdev.device.cancel_jobs()
        seen.append("ended")

    mdev.spawn(waiting())
    mdev.spawn(cancelling())
    eventually(lambda: len(seen) == 3)
    mdev.spawn(ending())
    eventually(lambda: len(seen) == 4)
    clock.advance(2)
    mdev.spawn(waiting(0))
    eventually(lambda: len(seen) == 5)
    assert seen == ["other closed", "goes on", "closed", "ended", "other closed"]
    assert mdev.failures == []


def test_a_job_awaits_what_another_process_computes(mdev: OpenMdev) -> None:
    answers: list[object] = []

    async def work() -> None:
        answers.append(await Offload(swapped, (Point(1, 2),), {"times": 2}))
        answers.append(await Offload(nothing, (), {}))
        try:
            await Offload(fail, (GuestError,), {})
        except GuestError as error:
            answers.append(str(error))
        await Offload(die, (), {})

    mdev.spawn(work(), "work")
    eventually(lambda: mdev.failures, 60)
    assert answers == [Point(4, 2), None, "as asked"]
    ((error, name),) = mdev.failures
    assert isinstance(error, DriverError)
    assert (name, mdev.device.counters.guest_errors) == ("job work", 1)


def test_a_job_awaits_what_another_thread_tells_it(mdev: OpenMdev) -> None:
    answers: list[object] = []

    def begin(done: Callable[[Answer | Exception], None], wanted: Callable[[], bool]) -> None:
        outcome = Answer("told") if not answers else GuestError("in vain")
        assert wanted()
        threading.Thread(target=done, args=(outcome,)).start()

    async def work() -> None:
        answers.append(await Later(begin))
        try:
            await Later(begin)
        except GuestError as error:
            answers.append(str(error))

    mdev.spawn(work(), "work")
    eventually(lambda: answers == ["told", "in vain"])
    assert mdev.device.counters.guest_errors == 1


def test_a_job_that_was_cancelled_is_not_told_later(mdev: OpenMdev) -> None:
    waiting: list[tuple[Callable[[Answer | Exception], None], Callable[[], bool]]] = []
    answers: list[object] = []

    def begin(done: Callable[[Answer | Exception], None], wanted: Callable[[], bool]) -> None:
        waiting.append((done, wanted))

    async def work() -> None:
        answers.append(await Later(begin))

    mdev.spawn(work(), "work")
    eventually(lambda: waiting)
    ((done, wanted),) = waiting
    assert wanted()
    with mdev.jobs.lock:
        mdev.device.cancel_jobs()
    assert not wanted()
    done(Answer("in vain"))
    ended = Event()
    mdev.jobs.submit(ended.set)
    assert ended.wait(SECONDS)
    assert answers == mdev.failures == []


def test_a_job_that_was_not_reset_goes_on(clock: Clock, mdev: OpenMdev) -> None:
    """The negative control of the test above."""
    went_on = Event()

    async def work() -> None:
        await Sleep(1)
        went_on.set()

    mdev.spawn(work())
    eventually(lambda: clock.thread._timers)
    clock.advance(2)
    assert went_on.wait(SECONDS)


def test_an_answer_that_comes_after_the_reset_is_dropped(mdev: OpenMdev) -> None:
    map_messages(mdev, 0)

    async def work() -> None:
        await mdev.device.dma.read(0, 8)

    mdev.spawn(work())
    eventually(lambda: mdev.wire.asked)
    mdev.device.ioctl = lambda request: None
    with mdev.lock:
        mdev.device.reset()
        mdev.wire.asked[0][3](b"12345678")
    time.sleep(0.02)
    assert mdev.failures == []


def test_a_job_that_a_cancelled_one_starts_is_cancelled(clock: Clock, mdev: OpenMdev) -> None:
    seen: list[str] = []

    async def after() -> None:
        seen.append("never")

    async def work() -> None:
        try:
            await Sleep(1)
        finally:
            mdev.device.spawn(after(), "after")
            seen.append("closed")

    mdev.spawn(work())
    eventually(lambda: clock.thread._timers)
    with mdev.lock:
        mdev.device.cancel_jobs()
    assert (seen, mdev.jobs._pending) == (["closed"], set())
    clock.advance(2)
    done = Event()

    async def last() -> None:
        done.set()

    mdev.spawn(last())
    assert done.wait(SECONDS)
    assert seen == ["closed"]


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, GeneratorExit])
def test_whatever_a_job_raises_the_thread_of_all_goes_on(
    clock: Clock, mdev: OpenMdev, error: type[BaseException]
) -> None:
    other, done = OpenMdev(clock.thread), Event()

    async def work() -> None:
        raise error

    async def others() -> None:
        done.set()

    mdev.spawn(work(), "odd")
    eventually(lambda: mdev.failures)
    assert error.__name__ in str(mdev.failures[0][0])
    other.spawn(others())
    assert done.wait(SECONDS)


def test_sleeps_of_jobs_that_were_cancelled_are_forgotten(clock: Clock, mdev: OpenMdev) -> None:
    other, woken, most = OpenMdev(clock.thread), [], 0

    async def work() -> None:
        await Sleep(LONGEST_SLEEP)

    async def others(number: int) -> None:
        await Sleep(10 + number)
        woken.append(number)

    for number in range(100):
        other.spawn(others(number))
    for _ in range(20):
        for _ in range(50):
            mdev.spawn(work())
        eventually(lambda: not mdev.jobs.stretches)
        with mdev.lock:
            mdev.device.cancel_jobs()
        most = max(most, len(clock.thread._timers))
    assert 100 <= most < 400
    clock.advance(200)
    eventually(lambda: len(woken) == 100)
    assert woken == list(range(100))


# --- DMA -----------------------------------------------------------------------------------------------------


def run_dma(
    mdev: OpenMdev, *, read: tuple[int, int] | None = None, write: tuple[int, bytes] | None = None
) -> list[object]:
    """Run one access in a job; the list gets what the job saw."""
    outcome: list[object] = []

    async def work() -> None:
        try:
            if read is not None:
                outcome.append(await mdev.device.dma.read(*read))
            if write is not None:
                await mdev.device.dma.write(*write)
                outcome.append("written")
        except DmaFault as fault:
            outcome.append(fault)

    mdev.spawn(work())
    return outcome


def test_mapped_memory_is_read_and_written_at_once(mdev: OpenMdev) -> None:
    memory = map_memory(mdev, 0x10000)
    memory.bytes[16:20] = b"data"
    outcome = run_dma(mdev, read=(0x10010, 4), write=(0x10020, b"back"))
    eventually(lambda: len(outcome) == 2)
    assert outcome == [b"data", "written"]
    assert memory.bytes[32:36] == b"back"
    assert mdev.wire.asked == []
    assert (mdev.counters["dma_read_bytes"], mdev.counters["dma_write_bytes"]) == (4, 4)


def test_an_access_over_several_mappings_is_put_together_whatever_order_answers_come_in(mdev: OpenMdev) -> None:
    map_messages(mdev, 0)
    memory = map_memory(mdev, PAGE)
    map_messages(mdev, 2 * PAGE)
    memory.bytes[:] = b"m" * PAGE
    outcome = run_dma(mdev, read=(PAGE - 2, PAGE + 4))
    eventually(lambda: len(mdev.wire.asked) == 2)
    assert [each[:3] for each in mdev.wire.asked] == [("read", PAGE - 2, 2), ("read", 2 * PAGE, 2)]
    for number, part in ((1, b"ef"), (0, b"ab")):
        assert outcome == []
        with mdev.lock:
            mdev.wire.asked[number][3](part)
    eventually(lambda: outcome)
    assert outcome == [b"ab" + b"m" * PAGE + b"ef"]


def test_a_write_over_several_mappings_gives_each_its_part(mdev: OpenMdev) -> None:
    memory = map_memory(mdev, 0)
    map_messages(mdev, PAGE)
    outcome = run_dma(mdev, write=(PAGE - 3, b"abcdef"))
    eventually(lambda: mdev.wire.asked)
    assert mdev.wire.asked[0][:3] == ("write", PAGE, b"def")
    assert memory.bytes[-3:] == b"abc"
    assert outcome == []
    with mdev.lock:
        mdev.wire.asked[0][3](b"")
    eventually(lambda: outcome == ["written"])


@pytest.mark.parametrize(
    ("iova", "length"), [(0x20000, 4), (PAGE - 2, 4), (0, 2 * PAGE)], ids=["nowhere", "over the end", "partly"]
)
def test_memory_that_is_not_mapped_is_a_counted_fault_of_the_guest(mdev: OpenMdev, iova: int, length: int) -> None:
    map_memory(mdev, 0)
    outcome = run_dma(mdev, read=(iova, length))
    eventually(lambda: outcome)
    assert isinstance(outcome[0], DmaFault)
    assert mdev.counters["guest_errors"] == 1
    assert "has not mapped" in str(mdev.counters["last_guest_error"])
    assert mdev.failures == []


def test_a_direction_that_is_not_mapped_is_a_fault(mdev: OpenMdev) -> None:
    map_memory(mdev, 0, flags=DmaFlags.READ)
    outcome = run_dma(mdev, write=(0, b"x"))
    eventually(lambda: outcome)
    assert isinstance(outcome[0], DmaFault)


def test_a_fault_that_the_driver_does_not_expect_ends_the_job_and_is_counted_once(mdev: OpenMdev) -> None:
    async def work() -> None:
        await mdev.device.dma.read(0, 4)

    mdev.spawn(work())
    eventually(lambda: not mdev.jobs._pending)
    assert mdev.counters["guest_errors"] == 1
    assert mdev.failures == []


def test_a_part_that_fails_fails_the_access(mdev: OpenMdev) -> None:
    map_messages(mdev, 0)
    map_messages(mdev, PAGE)
    outcome = run_dma(mdev, read=(PAGE - 2, 4))
    eventually(lambda: len(mdev.wire.asked) == 2)
    with mdev.lock:
        mdev.wire.asked[0][3](DmaFault("the guest's memory could not be reached"))
        mdev.wire.asked[1][3](b"ef")
    eventually(lambda: outcome)
    assert isinstance(outcome[0], DmaFault)


@pytest.mark.parametrize("error", [DmaFault("the client is gone"), BrokenPipeError(32, "Broken pipe")])
def test_a_client_that_hung_up_is_a_fault_and_not_the_drivers_bug(mdev: OpenMdev, error: Exception) -> None:
    map_messages(mdev, 0)
    mdev.wire.refuse = error
    outcome = run_dma(mdev, read=(0, 4))
    eventually(lambda: outcome)
    assert isinstance(outcome[0], DmaFault)
    assert mdev.failures == []


# --- the thread ------------------------------------------------------------------------------------------------


def test_the_thread_ends_when_it_is_told_also_with_work_left() -> None:
    thread = JobThread()
    mdev = OpenMdev(thread)

    async def work() -> None:
        await Sleep(1000)

    mdev.spawn(work())
    thread.stop()
    assert "jobs" not in {each.name for each in threading.enumerate() if each is thread._thread}
    with mdev.lock:
        mdev.device.close()
