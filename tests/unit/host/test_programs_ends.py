"""Processes of an mdev's own that cannot be started, or do not die: nothing leaks, and nobody else waits for them."""

import errno
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import Event, Thread
from time import monotonic
from typing import Any

import pytest

from mdev_user.driver import ProcessEnded, Timed
from mdev_user.host.program import unmapping
from mdev_user.host.program.output import Output
from mdev_user.host.program.unmapping import Together, Unmapping
from mdev_user.vfio.dma import DmaFlags, DmaMappings, Mapping
from unit.host.parts import eventually
from unit.host.renderers import Renderer
from unit.host.test_programs import Used, guest_memory, outcome_of, restart, used, what_is_open


@pytest.fixture(scope="module")
def card() -> Iterator[Used]:
    with used() as (one,):
        yield one


@pytest.fixture(scope="module")
def idle(card: Used) -> tuple[int, int]:
    """What is open without a process."""
    restart(card)
    eventually(lambda: what_is_open() == what_is_open_after(0.2), 10.0)
    return what_is_open()


def what_is_open_after(seconds: float) -> tuple[int, int]:
    time.sleep(seconds)
    return what_is_open()


STARTS: dict[str, tuple[object, str, int]] = {
    "sockets": (socket, "socketpair", errno.EMFILE),
    "an event": (os, "eventfd", errno.ENFILE),
    "a pipe": (os, "pipe2", errno.EMFILE),
    "a buffer": (os, "memfd_create", errno.EMFILE),
    "a process": (subprocess, "Popen", errno.EAGAIN),
    "its descriptor": (os, "pidfd_open", errno.EMFILE),
    "a thread": (Thread, "start", errno.EAGAIN),
}


@pytest.mark.parametrize("what", STARTS)
def test_start_that_fails_leaves_nothing_and_is_told(
    card: Used, idle: tuple[int, int], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next call starts one."""
    where, name, number = STARTS[what]
    error: Exception = OSError(number, os.strerror(number))
    if what == "a thread":
        error = RuntimeError("can't start new thread")

    def fails(*_given: object, **_named: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, name, fails)
        outcome = outcome_of(card.begin(Renderer.add, 1))
    assert isinstance(outcome, ProcessEnded), outcome
    assert str(error) in str(outcome)
    card.client.reset()  # the buffer goes
    eventually(lambda: what_is_open() == idle, 10.0)
    assert card.call(Renderer.add, 1) == 101
    card.client.reset()
    eventually(lambda: what_is_open() == idle, 10.0)


def test_mistake_of_ours_at_its_end_keeps_nobody_waiting(card: Used, monkeypatch: pytest.MonkeyPatch) -> None:
    card.client.reset()
    assert card.call(Renderer.add, 1) == 101

    def fails(_output: Output) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(Output, "drain", fails)
    monkeypatch.setattr("threading.excepthook", lambda _given: None)
    waits = [card.begin(Renderer.fence), card.begin(Renderer.leave, 3)]
    assert all(isinstance(outcome_of(each), ProcessEnded) for each in waits)
    monkeypatch.undo()
    assert isinstance(outcome_of(card.begin(Renderer.add, 1)), Timed)


# --- letting go ---------------------------------------------------------------------------------------------------


class Stuck:
    """A process that neither answers nor dies."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.let: list[tuple[int, int]] = []
        self.gone = Event()

    def begin_unmap(self, mappings: Sequence[Mapping]) -> Unmapping:
        return Unmapping(self, [(each.iova, each.size) for each in mappings], Event())

    def let_go(self, ranges: Sequence[tuple[int, int]]) -> None:
        self.let += ranges

    def end_for(self, fault: str) -> None:
        self.faults.append(fault)

    def wait_until_gone(self, until: float) -> None:
        self.gone.wait(max(0.0, until - monotonic()))


class Stucks:
    """A declared process, one of which runs and of which ``ending`` do not die."""

    def __init__(self, ending: int) -> None:
        self.holder = Stuck()
        self.ending = [Stuck() for _ in range(ending)]

    def mapped(self, mapping: Mapping) -> None: ...

    def take_ending(self) -> list[Stuck]:
        ending, self.ending = self.ending, []
        return ending


def test_many_that_hang_cost_the_guests_vmm_no_more_time_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two deadlines of 0.1 s: to let go, and to die; one after another these 12 would have 16."""
    monkeypatch.setattr(unmapping, "UNMAP_SECONDS", 0.1)
    dma = DmaMappings()
    programs = [Stucks(2) for _ in range(4)]
    for each in programs:
        Together.of(dma).add(each)
    assert len(dma.watchers) == 1
    began = monotonic()
    dma.watchers[0].unmapping([Mapping(0x1000, 0x1000, DmaFlags.READ, None)])
    assert 0.2 <= monotonic() - began < 0.8
    for each in programs:
        assert each.holder.faults == ["it did not let go of the guest's memory within 0.1 s"]
        assert each.holder.let == [(0x1000, 0x1000)]


def _mapping() -> Mapping:
    from mdev_user.vfio.dma import DmaFlags

    return Mapping(0x1000, 0x1000, DmaFlags.READ, None)


def test_one_that_was_ended_and_does_not_die_is_waited_for_once(card: Used, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the deadline of the unmap, while the process that runs is asked."""
    monkeypatch.setattr(unmapping, "UNMAP_SECONDS", 0.5)
    card.client.reset()
    with guest_memory(card.client, 0x10000, 0x20000):
        card.call(Renderer.read_guest, 0x10000, 4)
        running: Any = card.card.renderer._running()  # a HostedProgram, of which there is a private part
        stuck = Stuck()
        running._ending = [stuck]
        times = [_seconds(partial(card.client.dma_unmap, each, 0x10000)) for each in (0x10000, 0x20000)]
        assert times[0] >= 0.4
        assert times[1] < 0.4
        assert card.call(Renderer.add, 1) == 101


def _seconds(work: Callable[[], object]) -> float:
    began = monotonic()
    work()
    return monotonic() - began
