"""Jobs: a driver's coroutines, run as steps of their mdev.

A job runs under its mdev's step lock from one await to the next, which is one stretch of it.
"""

import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from time import perf_counter_ns
from typing import Protocol

from mdev_user.errors import DmaFault, DriverError, GuestError, ProcessEnded
from mdev_user.host.processes import Task
from mdev_user.host.program.programs import Whose
from mdev_user.vfio.counters import SLOW_STEP_NS
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.dirty import DirtyLog
from mdev_user.vfio.dma import DmaFlags, DmaGather, DmaRead, DmaScatter, DmaWrite, Mapping, Pieces, Segment
from mdev_user.vfio.programs import Launch, RunningProgram
from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio.work import MOST_PENDING, Answer, Later, Offload, Sleep, Spent
from mdev_user.vfio_user.scattered import within

LONGEST_SLEEP = 86400.0
"""Seconds. No thread can wait for just any float, and one job's bad number must not end the thread of all."""

_TICK = 1e-6
"""Seconds that are not worth another sleep: what adding and subtracting leave of a float."""

_READ, _WRITE = int(DmaFlags.READ), int(DmaFlags.WRITE)
_NOTHING = Spent(0.0, 0.0)
_log = logging.getLogger(__name__)

Outcome = bytes | Answer | Exception | None
Done = Callable[[bytes | Exception], None]


class Transport(Protocol):
    """How DMA reaches guest memory that was not shared as a file. Called under the step lock; never blocks.

    ``done`` is called under the step lock later, with the bytes read (b"" for a write) or what went wrong. What is not
    ``wanted`` any more is not begun, and not gone on with.
    """

    def send_dma_read(self, iova: int, length: int, done: Done, wanted: Callable[[], bool]) -> None: ...

    def send_dma_write(self, iova: int, data: bytes, done: Done, wanted: Callable[[], bool]) -> None: ...


class Schedule(Protocol):
    """When stretches run: a host's thread of jobs, or a test's own hand."""

    @property
    def now(self) -> float:
        """Seconds, by the clock of `put_later`."""

    def spent(self) -> Spent:
        """Of the thread that asks, and the clock."""

    def begin_stretch(self) -> Spent:
        """As `spent`, when a stretch begins that is counted."""

    def put(self, jobs: "Jobs", stretch: Callable[[], None]) -> None: ...

    def put_later(self, seconds: float, jobs: "Jobs", stretch: Callable[[], None], wanted: Callable[[], bool]) -> None:
        """``wanted``: whether anybody still waits for it; asked in any thread, without the step lock."""

    def offload(self, task: Task) -> None: ...

    def begin(self, work: Later, done: Callable[[Answer | Exception], None], wanted: Callable[[], bool]) -> None: ...

    def program(self, whose: Whose) -> RunningProgram:
        """A process of an mdev's own, which is started when it is called."""


class Jobs:
    """The jobs of one open device; its `JobRunner`. Everything here runs under the step lock."""

    def __init__(
        self,
        thread: Schedule,
        lock: StepLock,
        device: VfioDevice,
        transport: Transport,
        failed: Callable[[Exception, str], None],
    ) -> None:
        self.lock = lock
        self.owner = f"mdev {device.uuid}"
        self.stretches: deque[Callable[[], None]] = deque()
        """What is ready to run, in order; the job thread's."""
        self.rest = 0.0
        """Seconds that it rests because it is busy; the job thread's."""
        self._thread = thread
        self._device = device
        self._transport = transport
        self._failed = failed
        self._pending: set[_Job] = set()
        self._running: _Job | None = None
        self._held: dict[_Job, Callable[[], None]] = {}
        """What is to be run of those that became ready while they are paused, in order."""
        self._programs: dict[str, RunningProgram] = {}
        self._paused_at: float | None = None
        """By the clock of the schedule."""
        self._paused_for = 0.0
        """Seconds, in all pauses that are over."""
        self.counts = False
        """Whether anybody has asked what the stretches take: two clocks are read twice in each then."""
        self._spent = _NOTHING
        self._begun: Spent | None = None
        """By the clocks, when the stretch began that runs."""

    @property
    def now(self) -> float:
        """The schedule's clock, less the pauses."""
        return (self._thread.now if self._paused_at is None else self._paused_at) - self._paused_for

    def spent(self) -> Spent:
        self.counts = True
        return self._spent if self._begun is None else _later(self._spent, self._begun, self._thread.spent())

    def hindered(self) -> None:
        """The step lock is somebody's who keeps it. In any thread, which is everybody's: it must not end here."""
        try:
            self._device.hindered()
        except Exception:  # noqa: BLE001 - driver code, as in `_continue`
            _log.exception("%s", self.owner)

    def attach(self, transport: Transport, failed: Callable[[Exception, str], None]) -> None:
        """A user comes to a device that was open without one: from now on DMA and failures go its way."""
        self._transport, self._failed = transport, failed

    def pause(self) -> None:
        """Let no job go on from its await. A sleep is longer by as much as the pause lasts."""
        if self._paused_at is None:
            self._paused_at = self._thread.now

    def resume(self) -> None:
        if self._paused_at is None:
            return
        self._paused_for += self._thread.now - self._paused_at
        self._paused_at = None
        held, self._held = self._held, {}
        for stretch in held.values():
            self._thread.put(self, stretch)

    def spawn(self, work: Coroutine[object, bytes, None], name: str) -> None:
        if len(self._pending) >= MOST_PENDING:
            work.close()
            raise GuestError(f"{MOST_PENDING} jobs are pending; {name} was not started")
        job = _Job(work, name)
        self._pending.add(job)
        near = self._device.near
        if near.open and not self.stretches:
            near.stretches.append(partial(self._continue, job, None))
        else:
            self._put(job, None)

    def cancel(self, work: Coroutine[object, bytes, None]) -> None:
        for job in self._pending:
            if job.work is work:
                self._pending.remove(job)
                self._held.pop(job, None)
                if job is not self._running:
                    work.close()
                return

    def program(self, name: str, launch: Callable[[], Launch], ended: Callable[[ProcessEnded], None]) -> RunningProgram:
        found = self._programs.get(name)
        if found is None:
            whose = Whose(self.owner, lambda: self._device.dma, self._program_ended)
            found = self._programs[name] = self._thread.program(whose)
        if not found.alive:
            found.declare(launch(), ended)
        return found

    def live_programs(self) -> Sequence[str]:
        return [name for name, each in self._programs.items() if each.alive]

    def _program_ended(self, tell: Callable[[], None]) -> None:
        """In any thread."""
        self._thread.put(self, partial(self._tell_driver, tell))

    def _tell_driver(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except GuestError as error:
            self._device.counters.guest_error(error)
        except BaseException as error:  # noqa: BLE001 - driver code, as in `_continue`
            self._failed(error if isinstance(error, Exception) else DriverError(repr(error)), "the end of a process")

    def cancel_all(self) -> None:
        for each in self._programs.values():
            each.end("the device was reset or closed")
        while self._pending:  # what a job does at its end may start others
            pending, self._pending = self._pending, set()
            self._held.clear()
            for job in pending:
                if job is not self._running:  # which calls this itself, and is closed at its next await
                    job.work.close()

    def submit(self, stretch: Callable[[], None]) -> None:
        """Run something of the framework's own as a step (the guest's unmask, say)."""
        self._thread.put(self, stretch)

    def _put(self, job: "_Job", outcome: Outcome) -> None:
        """In any thread."""
        self._thread.put(self, partial(self._continue, job, outcome))

    def _go_on(self, job: "_Job", outcome: Outcome) -> None:
        """As `_put`, but here if nothing else of the mdev is under way: to wake another thread takes half as long."""
        if not self.stretches and self.lock.acquire(blocking=False):
            try:
                if not self.stretches:
                    self._continue(job, outcome)
                    return
            finally:
                self.lock.release()
        self._put(job, outcome)

    def _awaits(self, job: "_Job") -> bool:
        """Whether it was neither cancelled nor has ended."""
        return job in self._pending

    def _wake(self, job: "_Job", due: float) -> None:
        """A sleep is over, unless there was a pause meanwhile. ``due`` is by our own clock."""
        if not self._awaits(job):
            return
        if self._paused_at is not None:
            self._held[job] = partial(self._wake, job, due)
        elif (left := due - self.now) > _TICK:
            self._sleep(job, due, left)
        else:
            self._continue(job, b"")

    def _sleep(self, job: "_Job", due: float, seconds: float) -> None:
        self._thread.put_later(seconds, self, partial(self._wake, job, due), partial(self._awaits, job))

    def _continue(self, job: "_Job", outcome: Outcome) -> None:
        if job not in self._pending:  # cancelled while it waited
            return
        if self._paused_at is not None:
            self._held[job] = partial(self._continue, job, outcome)
            return
        began = perf_counter_ns()
        try:
            (self._advance_counted if self.counts else self._advance)(job, outcome)
        except StopIteration:
            self._pending.discard(job)
        except GuestError as error:
            self._pending.discard(job)
            if error is not job.fault:
                self._device.counters.guest_error(error)
        except BaseException as error:  # noqa: BLE001 - driver code: anything can come out, and the thread is everybody's
            self._pending.discard(job)
            self._failed(error if isinstance(error, Exception) else DriverError(repr(error)), f"job {job.name}")
        elapsed = perf_counter_ns() - began
        if elapsed > SLOW_STEP_NS:
            self._device.counters.slow_step(f"job {job.name}", elapsed)

    def _advance_counted(self, job: "_Job", outcome: Outcome) -> None:
        begun = self._begun = self._thread.begin_stretch()
        try:
            self._advance(job, outcome)
        finally:
            self._spent, self._begun = _later(self._spent, begun, self._thread.spent()), None

    def _advance(self, job: "_Job", outcome: Outcome) -> None:
        """Run the coroutine until it waits for something that is not there at once."""
        send = job.work.send
        while True:
            self._running = job
            try:
                plain = outcome is None or type(outcome) is bytes
                request = send(outcome) if plain else self._resume(job, outcome)  # type: ignore[arg-type]  # so it is
            finally:
                self._running = None
            if job not in self._pending:  # it cancelled all jobs
                job.work.close()
                return
            try:
                outcome = self._begin(job, request)
            except GuestError as error:
                outcome = error
                continue
            except OSError as error:  # the client hung up: nothing that the driver did
                outcome = DmaFault(f"the guest's memory could not be reached: {error}")
                continue
            if outcome is None:
                return

    def _resume(self, job: "_Job", outcome: Outcome) -> object:
        if isinstance(outcome, GuestError):  # counted here: the driver may well live with it
            self._device.counters.guest_error(outcome)
            job.fault = outcome
        return _resumed(job.work, outcome)

    def _begin(self, job: "_Job", request: object) -> Outcome:
        """Do what a job awaits. None: it is under way and will resume the job."""
        if isinstance(request, tuple):
            return self._dma(job, request)
        match request:
            case Sleep(seconds) if 0 <= seconds <= LONGEST_SLEEP:
                self._sleep(job, self.now + seconds, seconds)
                return None
            case Offload():
                self._thread.offload(Task(self, request, partial(self._awaits, job), partial(self._put, job)))
                return None
            case Later():
                tell = self._go_on if request.goes_on_there else self._put
                self._thread.begin(request, partial(tell, job), partial(self._awaits, job))
                return None
            case _:
                return _unknown(request)

    def _dma(self, job: "_Job", request: object) -> Outcome:
        dma = self._device.dma
        if type(request) is DmaWrite:  # a class pattern takes as long as a whole call
            return self._dma_write(job, dma.segments(request.iova, len(request.data), DmaFlags.WRITE), request.data)
        if type(request) is DmaRead:
            return self._dma_read(job, dma.segments(*request, DmaFlags.READ))
        if type(request) is DmaScatter:
            return self._dma_write(job, dma.scattered(request.pieces, DmaFlags.WRITE), request.data)
        if type(request) is DmaGather:
            return self._dma_read(job, dma.scattered(request.pieces, DmaFlags.READ))
        return _unknown(request)

    def read_now(self, iova: int, length: int) -> bytes | None:
        """What the job that runs would be given for its await; None: it has to await it, to be told what is wrong."""
        place = self._device.dma.place(iova, length, _READ)
        if place is None or self._running not in self._pending:
            return None
        try:
            data = place[0].read(place[1], length)
        except (GuestError, OSError):
            return None
        self._device.counters.dma_read_bytes += length
        return data

    def write_now(self, iova: int, data: bytes) -> bool:
        """As `read_now`: whether it is done."""
        dma, length = self._device.dma, len(data)
        place = dma.place(iova, length, _WRITE)
        if place is None or self._running not in self._pending:
            return False
        dma.log.mark(iova, length)  # first: a write that fails half way has written half
        try:
            place[0].write(place[1], data)
        except (GuestError, OSError):
            return False
        self._device.counters.dma_write_bytes += length
        return True

    def gather_now(self, pieces: Pieces, into: memoryview) -> bool:
        """As `read_now`, for memory that lies here and there: whether all of it was read."""
        if self._running not in self._pending:
            return False
        length = len(into)
        try:
            for mapping, part in self._device.dma.runs(pieces, DmaFlags.READ, within):
                if mapping.backing is None:
                    return False
                into = into[mapping.backing.gather(mapping.iova, part, into) :]
        except (GuestError, OSError):
            return False
        self._device.counters.dma_read_bytes += length
        return True

    def scatter_now(self, pieces: Pieces, data: memoryview) -> bool:
        """As `write_now`, for memory that lies here and there."""
        if self._running not in self._pending:
            return False
        dma, length = self._device.dma, len(data)
        try:
            runs = dma.runs(pieces, DmaFlags.WRITE, within)
            for iova, size in pieces if dma.log.active else ():
                dma.log.mark(iova, size)
            for mapping, part in runs:
                if mapping.backing is None:
                    return False
                data = data[mapping.backing.scatter(mapping.iova, part, data) :]
        except (GuestError, OSError):
            return False
        self._device.counters.dma_write_bytes += length
        return True

    def _dma_read(self, job: "_Job", segments: list[Segment]) -> Outcome:
        self._device.counters.dma_read_bytes += sum(each.length for each in segments)
        if all(each.mapping.backing for each in segments):
            return b"".join(_copy_in(each) for each in segments)
        gather = _Gather(len(segments), partial(self._put, job))
        for at, each in enumerate(segments):
            if each.mapping.backing:
                gather.put(at, _copy_in(each))
            else:
                wanted = partial(self._may_reach, job, each.mapping)
                self._transport.send_dma_read(each.iova, each.length, partial(gather.put, at), wanted)
        return None

    def _may_reach(self, job: "_Job", mapping: Mapping) -> bool:
        return self._awaits(job) and self._device.dma.maps(mapping)

    def _dma_write(self, job: "_Job", segments: list[Segment], data: bytes) -> Outcome:
        log = self._device.dma.log
        self._device.counters.dma_write_bytes += len(data)
        for each in segments:
            log.mark(each.iova, each.length)  # first: a write that fails half way has written half
        if all(each.mapping.backing for each in segments):
            for each in segments:
                _copy_out(each, data)
            return b""
        gather = _Gather(len(segments), partial(self._put, job))
        for at, each in enumerate(segments):
            if each.mapping.backing:
                _copy_out(each, data)
                gather.put(at, b"")
            else:
                self._send_write(job, log, data, each, partial(gather.put, at))
        return None

    def _send_write(self, job: "_Job", log: DirtyLog, data: bytes, segment: Segment, done: Done) -> None:
        start, size = segment.iova, segment.length

        def written(outcome: bytes | Exception) -> None:
            log.end(start, size)
            done(outcome)

        log.begin(start, size)
        try:
            part = data[segment.start : segment.start + size]
            self._transport.send_dma_write(start, part, written, partial(self._may_reach, job, segment.mapping))
        except BaseException:
            log.end(start, size)
            raise


class _Job:
    __slots__ = ("fault", "name", "work")

    def __init__(self, work: Coroutine[object, bytes, None], name: str) -> None:
        self.work = work
        self.name = name
        self.fault: Exception | None = None
        """What it was last told about the guest, and is counted."""


class _Gather:
    """Puts the parts of one access together, whatever order they arrive in."""

    def __init__(self, parts: int, done: Callable[[Outcome], None]) -> None:
        self._parts: list[bytes] = [b""] * parts
        self._missing = parts
        self._fault: Exception | None = None
        self._done = done

    def put(self, at: int, part: bytes | Exception) -> None:
        if isinstance(part, Exception):
            self._fault = self._fault or DmaFault(str(part))
        else:
            self._parts[at] = part
        self._missing -= 1
        if not self._missing:
            self._done(self._fault or b"".join(self._parts))


def _later(spent: Spent, begun: Spent, now: Spent) -> Spent:
    return Spent(spent.processor + now.processor - begun.processor, spent.clock + now.clock - begun.clock)


def _resumed(work: Coroutine[object, bytes, None], outcome: Outcome) -> object:
    if isinstance(outcome, Exception):
        return work.throw(outcome)
    if isinstance(outcome, Answer):
        return work.send(outcome.value)  # type: ignore[arg-type]  # to the await of Offload or Later, which takes anything
    return work.send(outcome)  # type: ignore[arg-type]  # None starts a coroutine


def _unknown(request: object) -> DriverError:
    return DriverError(
        f"a job awaits dma.read, dma.write, offload or a sleep of 0 to {LONGEST_SLEEP:.0f} s; given {request!r:.200}"
    )


def _copy_in(segment: Segment) -> bytes:
    assert segment.mapping.backing is not None  # noqa: S101 - the callers asked
    return segment.mapping.backing.read(segment.offset, segment.length)


def _copy_out(segment: Segment, data: bytes) -> None:
    assert segment.mapping.backing is not None  # noqa: S101 - the callers asked
    segment.mapping.backing.write(segment.offset, data[segment.start : segment.start + segment.length])
