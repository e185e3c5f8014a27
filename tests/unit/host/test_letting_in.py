"""Neither jobs that always have something to do nor a guest that writes without end keep others from an mdev."""

import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from statistics import median
from threading import Event, Thread
from uuid import UUID

import pytest

from core import core_skip
from mdev_user.host import job_thread
from mdev_user.host.job_thread import JobThread
from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio.work import Sleep
from mdev_user.vfio_user import conversation
from mdev_user.vfio_user.framing import NO_REPLY, Command, command_message
from mdev_user.vfio_user.loops import CHOICE, why_not_native
from mdev_user.vfio_user.token_lock import TokenLock
from unit.host.parts import OpenMdev, eventually
from unit.host.test_backend import Host, host

__all__ = ["host"]  # the fixture

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
    monkeypatch.setattr(job_thread, "let_in", lambda _lock: None)
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


# --- a guest that writes without end ----------------------------------------------------------------------------

SLOW = """
from dataclasses import dataclass
from time import thread_time
from mdev_user.driver import U32, WO, Bar, Function, Parent, PciId, Pool, Profile, on_write

class Regs(Bar, index=0, size=4096):
    slow = U32(0, WO)

@dataclass(frozen=True)
class Slice(Profile):
    lanes: int

steps = [0]

class Card(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=7, class_code=0x120000)
    regs = Regs()

    @on_write(Regs.slow)
    def compute(self, value: int) -> None:
        steps[0] += 1
        end = thread_time() + 0.001
        while thread_time() < end:
            pass

class Cards(Parent[Slice]):
    function = Card
    lanes = Pool(8)
    types = {"1": Slice(lanes=1)}
"""


class Flood:
    """A guest that posts writes, each of which takes a step of a millisecond, as fast as they are taken."""

    def __init__(self, host: Host) -> None:
        host.load()
        self.guest, self.over = host.create(1), Event()
        endpoint = host.service.endpoints.endpoint(UUID(int=1))
        self.lock = endpoint.lock
        self.steps: list[int] = sys.modules[type(endpoint.device.ops.function).__module__].steps  # type: ignore[attr-defined]  # a Device's
        self.thread = Thread(target=self.write)
        self.thread.start()
        eventually(lambda: self.steps[0] > 10)

    def write(self) -> None:
        posted = command_message(1, Command.REGION_WRITE, struct.pack("=QIII", 0, 0, 4, 1), NO_REPLY) * 64
        with suppress(OSError):
            while not self.over.is_set():
                self.guest.socket.sendall(posted)

    def waited(self) -> int:
        """How many steps began before somebody had the lock who asked for it."""
        before = self.steps[0]
        with self.lock:
            return self.steps[0] - before

    def end(self) -> None:
        self.over.set()
        self.guest.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(60)


@pytest.fixture(params=["python", "native"])
def flood(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, host: Host) -> Iterator[Flood]:
    if request.param == "native" and (absent := why_not_native()):
        core_skip(absent)
    monkeypatch.setenv(CHOICE, request.param)
    host.file.write_text(SLOW)
    made = Flood(host)
    yield made
    made.end()


def test_who_waits_comes_next_beside_a_guest_that_writes_without_end(flood: Flood) -> None:
    assert median(flood.waited() for _each in range(25)) <= FEW


def test_it_would_be_kept_out_by_the_guest(flood: Flood, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: what is not a plain access is the conversation's, with either loop."""
    monkeypatch.setattr(conversation, "let_in", lambda _lock: None)
    eventually(lambda: flood.waited() > FEW)
