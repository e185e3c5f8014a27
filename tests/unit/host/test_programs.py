"""Processes of an mdev's own, with real processes: what they may do, and that what they do wrong hurts nobody else."""

import fcntl
import gc
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from mdev_user.driver import GuestError, ProcessEnded, Timed
from mdev_user.errors import DmaFault, DriverError
from mdev_user.host.program import process as program_process
from mdev_user.host.program import programs, unmapping
from mdev_user.host.program.programs import Pace
from mdev_user.host.program.wire import Tell, message
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.parent import MdevParent
from mdev_user.testing.local import LocalHost
from mdev_user.units import MiB
from mdev_user.vfio.dma import DmaFlags
from mdev_user.vfio_user.client import Client
from unit.host.parts import eventually
from unit.host.renderers import Card, Cards, Renderer

LONG = 30.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class Used:
    """An mdev with its user."""

    def __init__(self, host: LocalHost, parent: MdevParent) -> None:
        self.mdev: Mdev = host.create(parent, "card-one")
        self.endpoint = host.endpoint(self.mdev)
        self.client: Client = host.client(self.mdev)

    @property
    def card(self) -> Card:
        function: Card = self.endpoint.device.ops.function  # type: ignore[attr-defined]  # a Device's
        return function

    # Any: of whatever class
    def begin(self, method: Callable[..., Any], *arguments: object) -> list[object]:
        """Call a method of the program in a job; what comes of it will be in the list."""
        outcomes: list[object] = []
        begun: list[object] = []

        async def work() -> None:
            begun.append(method)
            try:
                outcomes.append(await self.card.renderer.timed(method, *arguments))
            except Exception as error:  # noqa: BLE001 - to be looked at
                outcomes.append(error)

        self.spawn(work())
        eventually(lambda: begun)
        with self.endpoint.lock:  # it has called by now
            return outcomes

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:  # Any: as above
        with self.endpoint.lock:
            self.endpoint.device.spawn(work, "test")

    def call(self, method: Callable[..., Any], *arguments: object) -> object:  # Any: as above
        outcome = outcome_of(self.begin(method, *arguments))
        return outcome.value if isinstance(outcome, Timed) else outcome

    @property
    def pid(self) -> int:
        summary = self.call(Renderer.summary)
        assert isinstance(summary, tuple), summary
        return int(summary[0])

    @property
    def counters(self) -> dict[str, int | str]:
        return self.endpoint.device.counters.values()


def outcome_of(outcomes: list[object]) -> object:
    eventually(lambda: outcomes, LONG)
    return outcomes[0]


@contextmanager
def used(count: int = 1) -> Iterator[list[Used]]:
    with LocalHost() as host:
        parent = host.bus.register_parent("renderers", Cards())
        found = [Used(host, parent) for _ in range(count)]
        try:
            yield found
        finally:
            for each in found:
                each.client.close()


@pytest.fixture
def card() -> Iterator[Used]:
    with used() as (one,):
        yield one


def answer(outcomes: list[object]) -> object:
    outcome = outcome_of(outcomes)
    assert isinstance(outcome, Timed), outcome
    return outcome.value


def is_alive(card: Used) -> bool:
    return card.card.renderer.alive


def is_gone(pid: int) -> bool:
    """Not even a zombie is left."""
    return not Path(f"/proc/{pid}").exists()


def test_first_call_starts_it_and_it_keeps_its_state(card: Used) -> None:
    assert is_alive(card) is False
    assert card.call(Renderer.add, 5) == 105
    assert is_alive(card) is True
    assert card.call(Renderer.add, 5) == 110
    assert card.pid != os.getpid()


def test_answers_come_out_of_order(card: Used) -> None:
    first, second = card.begin(Renderer.fence), card.begin(Renderer.fence)
    assert card.call(Renderer.add, 1) == 101  # others go on meanwhile
    assert not first
    assert not second
    card.call(Renderer.signal_last, 2)
    assert answer(second) == 2
    assert not first
    card.call(Renderer.signal_by_pipe)
    assert answer(first) == 7
    third = card.begin(Renderer.fence)
    card.call(Renderer.signal_soon, 0.01)
    assert answer(third) == -1
    fourth = card.begin(Renderer.fence)
    card.call(Renderer.refuse_fence)
    assert str(outcome_of(fourth)) == "lost"


def test_guest_error_is_raised_in_the_job_and_the_process_goes_on(card: Used) -> None:
    pid = card.pid
    error = card.call(Renderer.refuse)
    assert type(error) is GuestError
    assert str(error) == "no such context"
    fault = card.call(Renderer.read_guest, 0x1000, 4)
    assert type(fault) is DmaFault
    assert card.pid == pid
    assert card.counters["guest_errors"] == 2


def test_what_cannot_be_sent_is_the_drivers_mistake(card: Used) -> None:
    pid = card.pid
    error = card.call(Renderer.add, lambda: 0)
    assert isinstance(error, DriverError)
    assert "the arguments cannot be sent" in str(error)
    assert isinstance(card.call(Renderer._read), DriverError)
    assert card.pid == pid


ENDS: dict[str, tuple[Callable[..., object], tuple[object, ...], str]] = {
    "an exception": (Renderer.fail, (), "RuntimeError: a bug"),
    "a hang": (Renderer.hang, (), "hang takes too long"),
    "a fence that never comes": (Renderer.fence, (), "fence takes too long"),
    "an abort": (Renderer.abort, (), "it was killed by SIGABRT"),
    "a crash": (Renderer.touch_nothing, (), "it was killed by SIGSEGV"),
    "an exit": (Renderer.leave, (3,), "it ended with status 3"),
    "an answer of another type": (Renderer.lie, (), "the answer of lie is not what it says: Expected `int`"),
    "an answer that is too large": (Renderer.flood, (2 * MiB,), "an answer of 2097157 bytes: expected at most 1048576"),
    "garbage": (Renderer.say_to_host, (b"\xff" * 64,), "expected at most 1048576"),
    "an answer to nothing": (Renderer.say_to_host, (message(Tell.DONE, 999, b"\xc0"),), "which is not its turn"),
    "a second start": (Renderer.say_to_host, (message(Tell.STARTED, 0),), "something that nobody asked for"),
    "an unmap of nothing": (Renderer.say_to_host, (message(Tell.UNMAPPED, 0),), "something that nobody asked for"),
    "control characters": (Renderer.say_to_host, (message(Tell.FAILED, 0, b"\x1b[2Jno\n"),), "?[2Jno?"),
}


@pytest.fixture(scope="module")
def lasting() -> Iterator[Used]:
    with pytest.MonkeyPatch.context() as patch, used() as (one,):
        patch.setattr(programs, "STARTS", 1000)
        yield one


@pytest.mark.parametrize("how", ENDS)
def test_end_of_the_process_is_a_guest_error_and_the_next_call_starts_another(lasting: Used, how: str) -> None:
    method, arguments, reason = ENDS[how]
    lasting.client.reset()
    errors = int(lasting.counters["guest_errors"])
    assert lasting.call(Renderer.add, 1) == 101  # nothing is left of the state before
    pid = lasting.pid
    error = lasting.call(method, *arguments)
    assert isinstance(error, ProcessEnded)
    assert reason in str(error)
    assert lasting.card.regs.ended == 1
    assert reason in str(lasting.card.results[0])
    assert is_gone(pid)
    assert lasting.counters["guest_errors"] == errors + 1
    assert reason in str(lasting.counters["last_guest_error"])


def test_program_that_cannot_be_made_is_told_of(lasting: Used) -> None:
    """And the next call tries it again."""
    for _ in range(2):
        lasting.client.reset()
        with lasting.endpoint.lock:
            lasting.card.renderer._process._arguments = lambda _profile: ("a", "b")
        try:
            error = lasting.call(Renderer.add, 1)
        finally:
            lasting.card.renderer._process._arguments = lambda profile: (profile.first,)
        assert "TypeError: Renderer.__init__() takes 2 positional arguments but 3 were given" in str(error)
        assert lasting.card.regs.ended == 1


def test_driver_hears_of_it_before_the_jobs_do(card: Used) -> None:
    """Three calls wait; each is told once, after the method that `ended` decorates."""
    heard: list[int] = []
    outcomes = [card.begin(Renderer.fence), card.begin(Renderer.fail), card.begin(Renderer.add, 1)]

    async def last() -> None:
        with suppress(ProcessEnded):
            await card.card.renderer.call(Renderer.add, 2)
        heard.append(int(card.card.regs.ended))

    card.spawn(last())
    assert all(isinstance(outcome_of(each), ProcessEnded) for each in outcomes)
    eventually(lambda: heard)
    assert heard == [1]
    assert card.counters["guest_errors"] == 4


def test_killed_while_idle_the_driver_hears_of_it_and_it_is_counted(card: Used) -> None:
    os.kill(card.pid, signal.SIGKILL)
    eventually(lambda: card.card.regs.ended == 1)
    eventually(lambda: card.counters["guest_errors"] == 1)
    assert "it was killed by SIGKILL" in str(card.counters["last_guest_error"])
    assert not card.card.renderer.alive
    assert card.call(Renderer.add, 1) == 101


def test_killed_in_the_middle_of_a_call(card: Used) -> None:
    pid = card.pid
    outcomes = card.begin(Renderer.spin, 30)
    time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    assert "it was killed by SIGKILL" in str(outcome_of(outcomes))


def test_reset_ends_it_in_the_middle_of_a_call(card: Used) -> None:
    pid = card.pid
    outcomes = card.begin(Renderer.hang)
    card.client.reset()
    eventually(lambda: is_gone(pid))
    assert card.call(Renderer.add, 1) == 101
    assert not outcomes  # its job has ended
    assert card.card.regs.ended == 0
    assert card.counters["guest_errors"] == 0


def test_driver_ends_it(card: Used) -> None:
    pid = card.pid
    outcomes = card.begin(Renderer.fence)
    with card.endpoint.lock:
        card.card.renderer.end()
    assert "the driver ended it" in str(outcome_of(outcomes))
    assert is_gone(pid)
    assert card.card.regs.ended == 0


def test_close_ends_it(card: Used) -> None:
    pid = card.pid
    card.begin(Renderer.hang)
    card.client.close()
    eventually(lambda: is_gone(pid))


def test_two_mdevs_have_two_processes_and_one_dies_alone() -> None:
    with used(2) as (one, other):
        assert one.call(Renderer.add, 1) == other.call(Renderer.add, 1) == 101
        pid = other.pid
        assert one.pid != pid
        with guest_memory(one.client, 0x10000):
            assert one.call(Renderer.read_guest, 0x10000, 4) == bytes(4)
            assert isinstance(other.call(Renderer.read_guest, 0x10000, 4), DmaFault)
            assert isinstance(one.call(Renderer.fail), ProcessEnded)
        assert other.pid == pid
        assert other.call(Renderer.add, 1) == 102


@contextmanager
def guest_memory(client: Client, *addresses: int, size: int = 0x10000) -> Iterator[mmap]:
    fd = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size * len(addresses))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    for number, each in enumerate(addresses):
        client.dma_map(each, size, fd, number * size)
    with mmap(fd, size * len(addresses)) as memory:
        yield memory
    os.close(fd)


def test_guest_memory_is_reached(card: Used) -> None:
    with guest_memory(card.client, 0x10000, 0x20000) as memory:
        memory[0xFFFE:0x10002] = b"abcd"
        assert card.call(Renderer.read_guest, 0x1FFFE, 4) == b"abcd"
        card.call(Renderer.write_guest, 0x1FFFE, b"efgh")
        assert memory[0xFFFE:0x10002] == b"efgh"
        with guest_memory(card.client, 0x80000) as later:  # while it runs
            later[:4] = b"late"
            assert card.call(Renderer.read_guest, 0x80000, 4) == b"late"
            card.client.dma_unmap(0x80000, 0x10000)
            assert isinstance(card.call(Renderer.read_guest, 0x80000, 4), DmaFault)
        assert card.call(Renderer.read_guest, 0x1FFFE, 4) == b"efgh"


def test_memory_that_is_only_read_cannot_be_written(card: Used) -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 0x1000)
    card.client.dma_map(0x1000, 0x1000, fd, flags=DmaFlags.READ)
    os.close(fd)
    assert card.call(Renderer.read_guest, 0x1000, 4) == bytes(4)
    assert isinstance(card.call(Renderer.write_guest, 0x1000, b"abcd"), DmaFault)


def test_memory_without_a_file_is_a_fault(card: Used) -> None:
    card.client.dma_map(0x1000, 0x1000)
    assert isinstance(card.call(Renderer.read_guest, 0x1000, 4), DmaFault)


def test_unmapped_memory_is_never_written_again(card: Used) -> None:
    """Whoever goes on writing to it dies of it."""
    with guest_memory(card.client, 0x10000) as memory:
        card.call(Renderer.keep_writing, 0x10000)
        eventually(lambda: memory[:4] == b"evil")
        card.client.dma_unmap(0x10000, 0x10000)
        memory[:4] = b"mine"
        eventually(lambda: card.card.regs.ended == 1)
        assert memory[:4] == b"mine"
    assert "it was killed by SIGSEGV" in str(card.card.results[0])


def test_without_the_unmap_it_would_be_written(card: Used, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(program_process.ProgramProcess, "begin_unmap", lambda _self, _mappings: None)
    with guest_memory(card.client, 0x10000) as memory:
        card.call(Renderer.keep_writing, 0x10000)
        eventually(lambda: memory[:4] == b"evil")
        card.client.dma_unmap(0x10000, 0x10000)
        memory[:4] = b"mine"
        eventually(lambda: memory[:4] == b"evil")


def test_unmap_does_not_wait_for_a_process_that_hangs(card: Used, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmapping, "UNMAP_SECONDS", 0.3)
    with guest_memory(card.client, 0x10000):
        pid = card.pid
        outcomes = card.begin(Renderer.hang)
        card.client.dma_unmap(0x10000, 0x10000)
        assert is_gone(pid)
    assert "did not let go of the guest's memory within 0.3 s" in str(outcome_of(outcomes))


def test_program_is_told_of_an_unmap(card: Used) -> None:
    with guest_memory(card.client, 0x30000):
        card.call(Renderer.add, 1)
        card.client.dma_unmap_all()
    eventually(lambda: card.card.regs.ended == 1)
    assert "65536 bytes are missed" in str(card.card.results[0])


def test_buffer_is_common_and_begins_at_zero(card: Used) -> None:
    assert card.call(Renderer.paint, 7) == MiB
    with card.endpoint.lock:
        assert card.card.renderer.buffer[:4] == bytes([7] * 4)
        card.card.renderer.end()
        assert card.card.renderer.buffer[:4] == bytes(4)


def test_process_may_do_little(card: Used) -> None:
    """It can make threads; all else is refused, though this process could do it."""
    for what, expected in {
        "thread": "done",
        "read a file": "PermissionError",
        "write a file": "PermissionError",
        "fork": "PermissionError",
        "execute": "PermissionError",
        "kill": "PermissionError",
        "connect": "PermissionError",
    }.items():
        assert card.call(Renderer.attempt, what) == expected, what
    assert card.call(Renderer.add, 1) == 101


def test_memory_has_a_limit(card: Used) -> None:
    assert card.call(Renderer.allocate, 16 * MiB) == 16 * MiB
    assert card.call(Renderer.allocate, 512 * MiB) == -1


def test_first_call_is_told_what_the_start_took(card: Used) -> None:
    card.client.reset()
    first, second = (outcome_of(card.begin(Renderer.add, 1)) for _ in range(2))
    assert isinstance(first, Timed)
    assert isinstance(second, Timed)
    assert first.processor > 0.02 > second.processor  # Python alone takes as long


def test_time_in_the_process_is_told(card: Used) -> None:
    card.call(Renderer.add, 1)
    spun, slept = outcome_of(card.begin(Renderer.spin, 0.05)), outcome_of(card.begin(Renderer.rest, 0.05))
    assert isinstance(spun, Timed)
    assert isinstance(slept, Timed)
    assert 0.05 <= spun.processor <= spun.seconds + 0.01
    assert slept.seconds >= 0.05
    assert slept.processor < 0.02


def test_output_is_in_the_log(card: Used, caplog: pytest.LogCaptureFixture) -> None:
    card.call(Renderer.say, "drawn \x1b[31m red")
    eventually(lambda: any("renderer: drawn ?[31m red" in each.getMessage() for each in caplog.records))
    record = next(each for each in caplog.records if "drawn" in each.getMessage())
    assert record.threadName == f"mdev {card.mdev.uuid}"  # so that it counts as the mdev's


def test_endless_output_hurts_nobody(card: Used) -> None:
    outcomes = card.begin(Renderer.say_endlessly)
    assert isinstance(outcome_of(outcomes), ProcessEnded)  # it took too long
    assert card.call(Renderer.add, 1) == 101


def test_two_hundred_starts_leave_nothing(card: Used, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "STARTS", 1000)
    with guest_memory(card.client, 0x10000):
        assert card.call(Renderer.add, 1) == 101
        for _ in range(3):
            restart(card)
        before = what_is_open()
        pids = [restart(card) for _ in range(200)]
        assert card.call(Renderer.add, 1) == 101
        pids.append(restart(card))
        eventually(lambda: what_is_open() == before)
    for pid in pids:  # those of other tests' fixtures may still run in this process
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def restart(card: Used) -> int:
    """Start it, and end it a moment later, whatever it does by then. Returns its pid."""
    card.begin(Renderer.add, 1)
    process = card.card.renderer._running()._process  # type: ignore[attr-defined]  # a HostedProgram's
    eventually(lambda: process._process is not None, LONG)
    card.client.reset()
    eventually(lambda: process.is_gone, LONG)
    with card.endpoint.lock:
        assert len(card.card.renderer.buffer) == MiB
    card.client.reset()
    return int(process._process.pid)


def what_is_open() -> tuple[int, int]:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def test_starts_are_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight at once, then one a second, whoever resets the device how often; what was not started does not count."""
    monkeypatch.setattr(programs, "STARTS", 8)
    now = 100.0
    pace = Pace(lambda: now)
    assert [pace.take() for _ in range(8 + 3)] == [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]
    pace.give_back()
    assert pace.take() == 3
    now = 104.5
    assert pace.take() == 0
    assert pace.take() == 0.5
    now = 200.0
    assert [pace.take() for _ in range(9)][-1] == 1


ORPHAN = """
import os, sys, time
from unit.host.test_programs import used
from unit.host.renderers import Renderer
with used() as (card,):
    pid = card.pid
    card.begin(Renderer.hang)  # so that it does not look whether its host is there
    time.sleep(0.2)
    print(pid, flush=True)
    time.sleep(60)
"""


def test_process_ends_with_its_host() -> None:
    with (
        TemporaryDirectory(dir="/tmp") as left,  # what one that is killed leaves behind
        subprocess.Popen(
            [sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, env={**ENVIRONMENT, "TMPDIR": left}
        ) as host,
    ):
        assert host.stdout is not None
        pid = int(host.stdout.readline())
        assert not is_gone(pid)
        host.kill()
        host.wait()
        eventually(lambda: is_gone(pid))


_SIGNALS_BY_THE_KERNEL = """
import ctypes, fcntl, os, signal, socket, sys, time
from mdev_user.host.program import limits
victim, ours = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
limits.limit(None, 0), limits.give_up_privileges()
if sys.argv[3] == "filtered" and not limits.forbid():
    raise SystemExit("no filter")
print(ctypes.CDLL(None).prctl(1, 0, 0, 0, 0))
try:
    fcntl.fcntl(ours, fcntl.F_SETOWN, victim), fcntl.fcntl(ours, 10, signal.SIGKILL)
    fcntl.fcntl(ours, fcntl.F_SETFL, fcntl.fcntl(ours, fcntl.F_GETFL) | os.O_ASYNC)
except PermissionError:
    print("refused")
ours.send(b"x"), time.sleep(0.5)
"""


@pytest.mark.parametrize(("how", "ends"), [("filtered", False), ("free", True)])
def test_a_process_cannot_have_the_kernel_signal_others(how: str, ends: bool) -> None:
    """And the negative control: without the filter it can."""
    if how == "filtered" and platform.machine() != "x86_64":
        pytest.skip("the filter is for x86_64")
    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen(["sleep", "60"], start_new_session=True) as victim:
        try:
            command = [sys.executable, "-c", _SIGNALS_BY_THE_KERNEL, str(victim.pid), str(theirs.fileno()), how]
            with subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, text=True) as process:
                ours.settimeout(30)
                ours.recv(1)
                ours.send(b"y")
                told = process.communicate(timeout=30)[0].split()
            assert told == (["-1", "refused"] if how == "filtered" else ["0"])
            assert (victim.poll() is not None) is ends
        finally:
            victim.kill()
