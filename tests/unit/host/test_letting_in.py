"""Jobs that always have something to do keep nobody from their mdev: not its guest, nor who removes it."""

import time
from collections.abc import Iterator
from statistics import median
from threading import Event, Thread

import pytest

from core import core_skip
from mdev_user.host import job_thread
from mdev_user.host.job_thread import JobThread
from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio.work import Sleep
from mdev_user.vfio_user.loops import why_not_native
from mdev_user.vfio_user.token_lock import TokenLock
from unit.host.parts import OpenMdev, eventually

FEW, MANY = 20, 200
"""Stretches that somebody waits for: a few, while this machine has no processor for him; or for ever."""


@pytest.fixture(params=["python", "native"])
def lock(request: pytest.FixtureRequest) -> StepLock:
    if request.param == "python":
        return TokenLock()
    if absent := why_not_native():
        core_skip(absent)
    from mdev_user.vfio_user import _native

    return _native.StepLock()


class Busy:
    """An mdev whose job computes for a millisecond, sleeps not at all, and goes on."""

    def __init__(self, thread: JobThread, lock: StepLock) -> None:
        self.stretches, self.over = 0, Event()
        self.mdev = OpenMdev(thread)
        self.mdev.lock = self.mdev.jobs.lock = lock
        self.mdev.spawn(self.work())
        eventually(lambda: self.stretches)

    async def work(self) -> None:
        while not self.over.is_set():
            self.stretches += 1
            end = time.thread_time() + 0.001
            while time.thread_time() < end:
                pass
            await Sleep(0)

    def waited(self, most: int = 1000) -> int:
        """How many stretches began before somebody had the lock who asked for it. It ends when they are ``most``."""
        before, at = self.stretches, []

        def wait() -> None:
            with self.mdev.lock:
                at.append(self.stretches)

        waiting = Thread(target=wait)
        waiting.start()
        eventually(lambda: at or self.stretches > before + most)
        if not at:
            self.over.set()
        waiting.join(60)
        return at[0] - before


@pytest.fixture
def busy(lock: StepLock) -> Iterator[Busy]:
    thread = JobThread()
    made = Busy(thread, lock)
    yield made
    made.over.set()
    thread.stop()


def test_who_waits_comes_next(busy: Busy) -> None:
    assert median(busy.waited() for _each in range(25)) <= FEW


def test_they_would_be_kept_out(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: those who wait are not let in first."""
    monkeypatch.setattr(job_thread, "_let_in", lambda _lock: None)
    eventually(lambda: busy.waited(MANY) > MANY)


def test_whoever_is_always_there_does_not_stop_the_jobs(busy: Busy) -> None:
    def wait() -> None:
        while not busy.over.is_set():
            with busy.mdev.lock:
                pass

    always = [Thread(target=wait) for _each in range(2)]
    for each in always:
        each.start()
    before = busy.stretches
    eventually(lambda: busy.stretches > before + 20)
    busy.over.set()
    for each in always:
        each.join(60)
