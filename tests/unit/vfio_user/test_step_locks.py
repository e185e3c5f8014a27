"""The step locks of both loops are locks: what `threading.Lock` promises, they keep."""

import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from core import core_skip
from mdev_user.vfio_user.loops import why_not_native
from mdev_user.vfio_user.token_lock import TokenLock
from unit.host.parts import eventually

# Any: each is a lock, and is called with whatever threading.Lock takes.


@pytest.fixture(params=["python", "native"])
def lock(request: pytest.FixtureRequest) -> Any:
    if request.param == "python":
        return TokenLock()
    if absent := why_not_native():
        core_skip(absent)
    from mdev_user.vfio_user import _native

    return _native.StepLock()


def in_thread(work: Callable[[], object]) -> object:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join(10)
    return results[0]


def test_it_is_held_by_one(lock: Any) -> None:
    with lock:
        assert lock.locked()
        assert in_thread(lambda: lock.acquire(blocking=False)) is False
        assert in_thread(lambda: lock.acquire(timeout=0.01)) is False
        assert not lock.acquire(timeout=0.01)  # not even twice by the same thread
    assert not lock.locked()
    assert lock.acquire(blocking=False) is True
    lock.release()
    assert in_thread(lambda: lock.acquire(timeout=1)) is True


def test_a_thread_that_waits_gets_it(lock: Any) -> None:
    order: list[int] = []
    lock.acquire()

    def wait() -> None:
        with lock:
            order.append(2)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.05)
    order.append(1)
    lock.release()
    thread.join(10)
    assert order == [1, 2]


def test_who_gives_up_is_not_waited_for(lock: Any) -> None:
    """Neither is the token lost to it."""
    with lock:
        assert in_thread(lambda: lock.acquire(timeout=0.01)) is False
    assert lock.acquire(timeout=1)
    lock.release()


def test_it_is_wanted_while_somebody_waits(lock: Any) -> None:
    over = threading.Event()

    def wait() -> None:
        with lock:
            over.wait(60)

    with lock:
        assert not lock.is_wanted()
        waiting = [threading.Thread(target=wait) for _each in range(2)]
        for each in waiting:
            each.start()
        eventually(lock.is_wanted)
        assert in_thread(lambda: lock.acquire(timeout=0.01)) is False  # who gives up is not counted
    time.sleep(0.02)
    assert lock.is_wanted()  # the second one still waits
    over.set()
    for each in waiting:
        each.join(60)
    assert not lock.is_wanted()


def test_a_lock_that_is_not_held_cannot_be_released(lock: Any) -> None:
    with pytest.raises(RuntimeError):
        lock.release()
    with lock:
        pass
    with pytest.raises(RuntimeError):
        lock.release()


def test_it_is_released_by_an_error(lock: Any) -> None:
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    assert not lock.locked()


def steps(lock: Any, threads: int, rounds: int) -> tuple[int, int]:
    """Steps of many threads, some of which wait for a while only. How many there were, and what they counted."""
    counted, done = [0], [0] * threads

    def run(number: int) -> None:
        chance = random.Random(number)
        for _ in range(rounds):
            if not lock.acquire(timeout=chance.choice([-1, -1, 0, 1e-5, 1e-3])):
                continue
            try:
                before = counted[0]
                time.sleep(0)  # lets the others run
                counted[0] = before + 1
                done[number] += 1
            finally:
                lock.release()

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join(60)
        assert not each.is_alive(), "a wake-up was lost"
    return sum(done), counted[0]


def test_steps_never_overlap_and_nobody_waits_for_ever(lock: Any) -> None:
    done, counted = steps(lock, threads=6, rounds=800)
    assert done == counted
    assert done > 800
    assert not lock.locked()


class NoLock:
    """Negative control."""

    def acquire(self, timeout: float) -> bool:
        return True

    def release(self) -> None: ...


def test_steps_without_a_lock_would_overlap() -> None:
    done, counted = steps(NoLock(), threads=6, rounds=800)
    assert counted < done


def test_a_signal_is_handled_while_it_is_waited_for(lock: Any) -> None:
    handled: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: handled.append(number))
    try:
        with lock:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            assert not lock.acquire(timeout=0.2)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert handled == [signal.SIGALRM]


def test_a_handler_that_raises_ends_the_wait_and_nothing_is_left_of_it(lock: Any) -> None:
    def handler(_number: int, _frame: object) -> None:
        raise InterruptedError("by the handler")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with lock:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(InterruptedError, match="by the handler"):
                lock.acquire(timeout=5)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert lock.acquire(timeout=1)
    lock.release()
