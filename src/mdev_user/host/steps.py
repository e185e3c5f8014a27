"""A step: a stretch of a driver's code that nothing else of its mdev runs beside."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns

from mdev_user.errors import Busy
from mdev_user.vfio.counters import SLOW_STEP_NS, Counters
from mdev_user.vfio.step_lock import StepLock

PATIENCE = 2.0
"""Seconds that a step may take before somebody who only wants to look is told that the driver is stuck."""


@contextmanager
def timed(counters: Counters, name: str) -> Iterator[None]:
    """Count the block if it was slow, the step lock being held already. The message loop has its own, inlined."""
    began = perf_counter_ns()
    try:
        yield
    finally:
        duration = perf_counter_ns() - began
        if duration > SLOW_STEP_NS:
            counters.slow_step(name, duration)


@contextmanager
def step(lock: StepLock, counters: Counters, name: str) -> Iterator[None]:
    """Hold the step lock for the block, and count the step if it was slow."""
    with lock, timed(counters, name):
        yield


@contextmanager
def step_within(lock: StepLock, counters: Counters, name: str) -> Iterator[None]:
    """A `step` for whoever must not wait for ever: EBUSY when the one under way takes longer than `PATIENCE`."""
    if not lock.acquire(timeout=PATIENCE):
        raise Busy(f"the mdev has been in one step for more than {PATIENCE:g} s: its driver is stuck")
    try:
        with timed(counters, name):
            yield
    finally:
        lock.release()
