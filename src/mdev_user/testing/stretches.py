"""The jobs of a device under test: no thread and no clock but the test's; the rest is the host's own code."""

import select
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from mdev_user.errors import DmaFault
from mdev_user.host.jobs import Done, Jobs
from mdev_user.host.processes import Task
from mdev_user.host.program.programs import Whose
from mdev_user.testing.programs import InProcess
from mdev_user.testing.ram import Ram
from mdev_user.vfio.programs import RunningProgram
from mdev_user.vfio.work import Answer, Later, Offload, Spent


class _Entry(NamedTuple):
    job: int
    """In the order in which they were started."""
    is_stretch: bool
    """Else it is the answer to a DMA access, and the stretch comes of it."""
    call: Callable[[], None]


class Stretches:
    """What jobs have to do, in order: the host's thread of jobs, and the way to the guest's memory, made by hand.

    Every DMA access is one that the host asks the VMM for, so that each await of a job ends a stretch. What is read is
    read as late, and what is written is written as early as it can be.
    """

    def __init__(self, ram: Ram) -> None:
        self.now = 0.0
        """Seconds since the device was made."""
        self.ran = 0
        """Stretches, so far."""
        self.reached_memory: set[int] = set()
        """The jobs under way that have used DMA."""
        self._ready: list[_Entry] = []
        self._ram = ram
        self._timers: list[tuple[float, int, _Entry]] = []
        self._watched: dict[int, Callable[[], None]] = {}
        """What programs wait for, by file descriptor."""
        self._order, self._jobs = count(), count()
        self._current = self._answered = -1

    # --- the host's side ------------------------------------------------------------------------------------

    def spent(self) -> Spent:
        """A stretch takes no time: how fast this machine is does not get into what a device does."""
        return Spent(0.0, self.now)

    begin_stretch = spent

    def put(self, _jobs: Jobs, stretch: Callable[[], None]) -> None:
        job = next(self._jobs) if self._answered < 0 else self._answered
        self._ready.append(_Entry(job, True, stretch))  # noqa: FBT003 - by its place

    def put_later(self, seconds: float, _jobs: Jobs, stretch: Callable[[], None], _wanted: Callable[[], bool]) -> None:
        heappush(
            self._timers,
            (self.now + seconds, next(self._order), _Entry(self._current, True, stretch)),  # noqa: FBT003 - as above
        )

    def send_dma_read(self, iova: int, length: int, done: Done, _wanted: Callable[[], bool]) -> None:
        self._answer(lambda: done(_attempt(lambda: self._ram.read(iova, length))))

    def send_dma_write(self, iova: int, data: bytes, done: Done, _wanted: Callable[[], bool]) -> None:
        outcome = _attempt(lambda: self._ram.write(iova, data))
        self._answer(lambda: done(outcome))

    def offload(self, task: Task) -> None:
        """In this process, when its turn comes: a pure function does not know where it runs."""
        self._ready.append(_Entry(self._current, False, lambda: task.done(_computed(task.work))))  # noqa: FBT003 - as above

    def begin(self, work: Later, done: Callable[[Answer | Exception], None], wanted: Callable[[], bool]) -> None:
        """What is told goes to the job that waits, whoever runs when it is."""
        job = self._current
        work.begin(lambda outcome: self._ready.append(_Entry(job, False, lambda: done(outcome))), wanted)  # noqa: FBT003 - as above

    def program(self, whose: Whose) -> RunningProgram:
        """In this process: its calls are performed when they are made."""
        return InProcess(whose, self._ram, self)

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        self._watched[fd] = ready

    def unwatch(self, fd: int) -> None:
        self._watched.pop(fd, None)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        entry = _Entry(next(self._jobs), False, call)  # noqa: FBT003 - as above
        heappush(self._timers, (self.now + seconds, next(self._order), entry))

    def _answer(self, call: Callable[[], None]) -> None:
        self.reached_memory.add(self._current)
        self._ready.append(_Entry(self._current, False, call))  # noqa: FBT003 - as above

    # --- the test's side ------------------------------------------------------------------------------------

    @property
    def has_ready(self) -> bool:
        """Whether a job could run now."""
        return bool(self._ready)

    @property
    def next_timer(self) -> float | None:
        """When the next sleep is over."""
        return self._timers[0][0] if self._timers else None

    def step(self) -> bool:
        """Run one job from where it is to its next await, the one that waits longest. False when none is ready."""
        while self._ready:
            if self._run(self._ready.pop(0)):
                return True
        return self._look() and self.step()

    def step_oldest(self) -> bool:
        """As `step`, but the one that was started first: the order then depends on nothing else."""
        while self._ready:
            oldest = min(self._ready, key=lambda entry: entry.job)
            self._ready.remove(oldest)
            if self._run(oldest):
                return True
        return self._look() and self.step_oldest()

    def wait_until(self, moment: float) -> None:
        """Let time pass: sleeps that are over by then are ready, and nothing runs."""
        while self._timers and self._timers[0][0] <= moment:
            self._ready.append(heappop(self._timers)[2])
        self.now = max(self.now, moment)

    def forget(self) -> None:
        """The jobs were cancelled."""
        self._ready.clear()
        self._timers.clear()
        self.reached_memory.clear()

    def _look(self) -> bool:
        """Let programs do what they watch for; whether a job is ready by that."""
        poll = select.poll()
        for fd in self._watched:
            poll.register(fd, select.POLLIN)
        for fd, _events in poll.poll(0) if self._watched else ():
            if (ready := self._watched.get(fd)) is not None:
                ready()
        return bool(self._ready)

    def _run(self, entry: _Entry) -> bool:
        self.ran += entry.is_stretch
        self._current, self._answered = entry.job, -1 if entry.is_stretch else entry.job
        try:
            entry.call()
        finally:
            self._current = self._answered = -1
        if not self._awaits(entry.job):
            self.reached_memory.discard(entry.job)
        return entry.is_stretch

    def _awaits(self, job: int) -> bool:
        """Whether a job has not ended."""
        return any(each.job == job for each in self._ready) or any(each.job == job for *_when, each in self._timers)


def _computed(work: Offload) -> Answer | Exception:
    try:
        return Answer(work.function(*work.arguments, **work.keywords))
    except Exception as error:  # noqa: BLE001 - it is raised in the job
        return error


def _attempt(access: Callable[[], bytes | None]) -> bytes | Exception:
    try:
        return access() or b""
    except DmaFault as error:  # it was unmapped meanwhile
        return error
