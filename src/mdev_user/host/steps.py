"""A step: a stretch of a driver's code that nothing else of its mdev runs beside."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from time import perf_counter_ns

from mdev_user.vfio.counters import SLOW_STEP_NS, Counters


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
def step(lock: Lock, counters: Counters, name: str) -> Iterator[None]:
    """Hold the step lock for the block, and count the step if it was slow."""
    with lock, timed(counters, name):
        yield
