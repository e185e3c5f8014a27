"""Simulation: jobs of mdevs that share an engine, in one thread with a clock of its own, or in real threads."""

from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from heapq import heappop, heappush
from threading import Event, Thread
from time import monotonic
from time import sleep as sleep_really
from typing import Any

from mdev_user.driver.accounts import Accounts
from mdev_user.driver.engine import Claim, Engine
from mdev_user.vfio.work import Answer, Later, Sleep, Spent

NOTHING = Spent(0.0, 0.0)
Work = Coroutine[Any, Any, None]  # Any: what jobs await, and are given


@dataclass
class Settings:
    """What an operator says of one mdev."""

    weight: int = 1
    frame_rate: float = 0
    spent: Spent = NOTHING
    """What its jobs took; not of an operator."""


@dataclass(eq=False)
class Job:
    work: Work
    is_over: bool = False


@dataclass
class Simulation:
    """A host's job thread: of what is ready, the oldest runs to its next await."""

    now: float = 0.0
    _ready: deque[tuple[Job, object]] = field(default_factory=deque)
    _timers: list[tuple[float, int, Job]] = field(default_factory=list)
    _order: int = 0
    paused: set[Job] = field(default_factory=set)

    def claim(self, engine: Engine, weight: int = 1, frame_rate: float = 0) -> tuple[Claim, Settings]:
        """Of an mdev that is in use."""
        settings = Settings(weight, frame_rate)
        claim = Claim(
            engine,
            lambda: self.now,
            lambda: settings.spent,
            lambda: settings.weight,
            lambda: settings.frame_rate,
            accounts_of(),
        )
        claim.join()
        return claim, settings

    def spawn(self, work: Work) -> Job:
        job = Job(work)
        self._ready.append((job, None))
        return job

    def cancel(self, job: Job) -> None:
        if not job.is_over:
            job.is_over = True
            job.work.close()

    def run(self, seconds: float) -> None:
        """Let time pass; a stretch takes none, unless it says so itself."""
        end = self.now + seconds
        while True:
            while self.step():
                pass
            if not self._timers or self._timers[0][0] > end:
                break
            self.now = max(self.now, self._timers[0][0])
        self.now = max(self.now, end)

    def step(self) -> bool:
        """One stretch. False when none is ready."""
        while self._timers and self._timers[0][0] <= self.now:
            self._ready.append((heappop(self._timers)[2], b""))
        for _each in range(len(self._ready)):
            job, outcome = self._ready.popleft()
            if job in self.paused:
                self._ready.append((job, outcome))
            elif not job.is_over:
                self._continue(job, outcome)
                return True
        return False

    def _continue(self, job: Job, outcome: object) -> None:
        try:
            request = job.work.send(outcome)
        except StopIteration:
            job.is_over = True
            return
        if isinstance(request, Sleep):
            self._order += 1
            heappush(self._timers, (self.now + request.seconds, self._order, job))
        elif isinstance(request, Later):
            request.begin(lambda _answer: self._ready.append((job, None)), lambda: not job.is_over)
        else:
            raise AssertionError(request)


def accounts_of() -> Callable[[], Accounts]:
    accounts = Accounts()
    return lambda: accounts


async def nap(seconds: float) -> None:
    await Sleep(seconds)


class Worker:
    """A job with a thread of its own, as a session has."""

    def __init__(self, work: Work) -> None:
        self._work, self._told = work, Event()
        self.error: BaseException | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while True:
                self._perform(self._work.send(None))
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised in the test
            self.error = error

    def _perform(self, request: object) -> None:
        if isinstance(request, Sleep):
            sleep_really(request.seconds)
            return
        assert isinstance(request, Later)
        self._told.clear()
        request.begin(self._tell, lambda: True)
        if not self._told.wait(20):
            raise TimeoutError("nobody told it")

    def _tell(self, _outcome: Answer | Exception) -> None:
        assert not self._told.is_set(), "told twice"
        self._told.set()


def real_claim(engine: Engine, weight: int = 1, frame_rate: Callable[[], float] = lambda: 0) -> Claim:
    claim = Claim(engine, monotonic, lambda: NOTHING, lambda: weight, frame_rate, accounts_of())
    claim.join()
    return claim
