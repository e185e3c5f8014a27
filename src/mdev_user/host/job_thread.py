"""The thread of a host that runs the jobs of all its mdevs.

It hardly waits for a step lock: an mdev that is busy rests with all its jobs while there are others, for longer and
longer, so that a stuck mdev delays nobody else's, however many it has. And it lets those go first who wait for the
lock: jobs that always have something to do would keep out their own guest, and whoever wants to remove the mdev.
"""

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from threading import Condition, Thread, get_ident
from time import monotonic, thread_time
from typing import NamedTuple

from mdev_user.host.jobs import Jobs
from mdev_user.host.processes import Processes, Task
from mdev_user.host.program.programs import HostedProgram, Whose
from mdev_user.vfio.programs import RunningProgram
from mdev_user.vfio.work import Answer, Later, Spent
from mdev_user.vfio_user.letting_in import let_in

JOBS = "jobs"
"""The thread's name."""
_PATIENCE = 0.001
"""Seconds that the thread waits for a busy mdev before it looks after the others."""
_LONGEST_REST = 0.032
"""Seconds that a busy mdev rests at most, if others have something to do and it gets nothing new."""
_FEW = 64
"""Timers that are not worth looking through."""


class _Timer(NamedTuple):
    when: float
    order: int
    """Of those of one moment."""
    jobs: Jobs
    stretch: Callable[[], None]
    wanted: Callable[[], bool]


class JobThread:
    """Runs what is ready, one stretch of an mdev after one of another; sleeping jobs become ready by the clock."""

    def __init__(self, clock: Callable[[], float] = monotonic, processor: Callable[[], float] = thread_time) -> None:
        self._clock, self._processor = clock, processor
        self._changed = Condition()
        self._ready: deque[Jobs] = deque()
        """Those with stretches to run, each once; the one that is running is not in it."""
        self._resting: dict[Jobs, float] = {}
        """Those that were busy, and until when they rest; they are not in `_ready`."""
        self._timers: list[_Timer] = []
        """A heap."""
        self._most_timers = _FEW
        """Until the timers are looked through for those that nobody wants any more."""
        self._order = count()
        self._stopping = False
        self._last: float | None = None
        """The processor time of this thread at the end of its last stretch, if that is counted."""
        self.working_for = ""
        """Whose job runs, or ran last: for what it logs."""
        self._processes = Processes()
        self._thread = Thread(target=self._run, name=JOBS, daemon=True)
        self._thread.start()

    @property
    def now(self) -> float:
        return self._clock()

    def spent(self) -> Spent:
        return Spent(self._processor(), self._clock())

    def begin_stretch(self) -> Spent:
        """What the thread did to come to a stretch is a part of it."""
        last = self._last if get_ident() == self._thread.ident else None
        return Spent(self._processor() if last is None else last, self._clock())

    def put(self, jobs: Jobs, stretch: Callable[[], None]) -> None:
        """Run ``stretch`` as a step of that mdev, as soon as it is free."""
        with self._changed:
            self._add(jobs, stretch)
            self._changed.notify()

    def put_later(self, seconds: float, jobs: Jobs, stretch: Callable[[], None], wanted: Callable[[], bool]) -> None:
        """Run ``stretch`` as `put` does, ``seconds`` from now. It may be dropped when it is not ``wanted`` any more."""
        with self._changed:
            if len(self._timers) >= self._most_timers:
                self._drop_unwanted()
            heappush(self._timers, _Timer(self._clock() + seconds, next(self._order), jobs, stretch, wanted))
            self._changed.notify()

    def offload(self, task: Task) -> None:
        """Compute something elsewhere; what it gives comes back by `put`."""
        self._processes.submit(task)

    def begin(self, work: Later, done: Callable[[Answer | Exception], None], wanted: Callable[[], bool]) -> None:
        """Somebody else tells the job; its stretch comes by `put`."""
        work.begin(done, wanted)

    def program(self, whose: Whose) -> RunningProgram:
        """A process with a thread of its own."""
        return HostedProgram(whose)

    def stop(self) -> None:
        self._processes.stop()
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _add(self, jobs: Jobs, stretch: Callable[[], None]) -> None:
        jobs.stretches.append(stretch)
        if len(jobs.stretches) == 1 or self._resting.pop(jobs, None) is not None:
            self._ready.append(jobs)

    def _drop_unwanted(self) -> None:
        """A guest starts jobs that sleep for long and resets the device, again and again."""
        self._timers = [each for each in self._timers if each.wanted()]
        heapify(self._timers)
        self._most_timers = max(_FEW, 2 * len(self._timers))

    def _run(self) -> None:
        while (jobs := self._next()) is not None:
            let_in(jobs.lock)
            if jobs.lock.acquire(timeout=_PATIENCE):
                try:
                    self.working_for = jobs.owner
                    jobs.stretches[0]()
                finally:
                    jobs.lock.release()
                self._last = self._processor() if jobs.counts else None
                self._done(jobs)
            else:
                self._last = None  # nobody else pays for this
                jobs.hindered()
                self._rest(jobs)

    def _rest(self, jobs: Jobs) -> None:
        """For as long as it has rested so far: then it waits at most as long again as it has waited."""
        with self._changed:
            jobs.rest = min(max(_PATIENCE, 2 * jobs.rest), _LONGEST_REST)
            self._resting[jobs] = self._clock() + jobs.rest

    def _end_rests(self, now: float) -> None:
        for jobs in [each for each, until in self._resting.items() if until <= now]:
            del self._resting[jobs]
            self._ready.append(jobs)

    def _longest_resting(self) -> Jobs:
        jobs = next(iter(self._resting))
        del self._resting[jobs]
        return jobs

    def _done(self, jobs: Jobs) -> None:
        with self._changed:
            jobs.rest = 0.0
            jobs.stretches.popleft()  # only now: until here it kept the mdev from being added a second time
            if jobs.stretches:
                self._ready.append(jobs)

    def _next(self) -> Jobs | None:
        with self._changed:
            while not self._stopping:
                now = self._clock()
                while self._timers and self._timers[0].when <= now:
                    timer = heappop(self._timers)
                    self._add(timer.jobs, timer.stretch)
                if self._resting:
                    self._end_rests(now)
                if self._ready:
                    return self._ready.popleft()
                if self._resting:
                    return self._longest_resting()
                self._changed.wait(self._timers[0].when - now if self._timers else None)
            return None
