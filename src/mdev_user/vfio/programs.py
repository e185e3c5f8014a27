"""Programs: processes of an mdev's own, as a device knows them, whoever runs them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from mdev_user.errors import ProcessEnded
from mdev_user.vfio.work import Answer

T = TypeVar("T")

Done = Callable[[Answer | Exception], None]
Decoder = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """An answer, and what it cost, by clocks that the process cannot set."""

    value: T
    seconds: float
    """That the process was at the call, other processes of the machine included: a `Pending` is not waited for."""
    processor: float
    """Seconds of processor time that all threads of the process have used since the call before this one.

    For the first one: since the process was started, which takes longer than most calls.
    """


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """What there is to know of a process before it is started."""

    name: str
    """Of the member that declares it."""
    kind: type
    """The class of which an object is made in it."""
    arguments: tuple[object, ...]
    answers: Mapping[str, Decoder]
    """What makes a value of the bytes of an answer, by the name of the method; whatever it raises, they are wrong."""
    memory: int | None
    buffer: int
    seconds: float
    pending_seconds: float
    largest: int
    nice: int


class RunningProgram(Protocol):
    """A process, whether it runs at the moment or not. Everything here is called under the step lock."""

    @property
    def alive(self) -> bool:
        """Whether there is one that has been called and has not ended."""

    @property
    def buffer(self) -> memoryview:
        """What both sides map; zero when a process is started."""

    def declare(self, launch: Launch, ended: Callable[[ProcessEnded], None]) -> None:
        """What is started next, and who is told of its end; a newer version of its driver, perhaps."""

    def call(
        self,
        method: str,
        arguments: tuple[object, ...],
        keywords: Mapping[str, object],
        done: Done,
        wanted: Callable[[], bool],
    ) -> None:
        """Never blocks. ``done`` is given a `Timed`, or what went wrong, once and in any thread."""

    def end(self, reason: str) -> None:
        """Whoever waits for an answer gets ProcessEnded; the next call starts another process."""


@runtime_checkable
class ProgramRunner(Protocol):
    """A runner of jobs that can run processes, too. They end when all jobs are cancelled."""

    def program(self, name: str, launch: Callable[[], Launch], ended: Callable[[ProcessEnded], None]) -> RunningProgram:
        """The one of this name; ``launch`` and ``ended`` are for the next that is started.

        ``ended`` is called as a step when a process has ended by itself, before anybody is told who waits for it.
        """

    def live_programs(self) -> Sequence[str]:
        """The names of those that are alive."""
