"""What a job may wait for besides DMA (time, another process, anybody else), and where its first stretch runs."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

MOST_PENDING = 1024
"""Jobs of one mdev. A guest starts them, so there is an end to it."""


class Spent(NamedTuple):
    """What jobs took, in seconds from some moment: two of them differ by what was taken in between."""

    processor: float
    clock: float
    """From the beginning of each stretch to its end, whether it had a processor or not."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Awaited by a job: go on after ``seconds`` of the host's clock."""

    seconds: float

    def __await__(self) -> Generator["Sleep", bytes, None]:
        yield self


@dataclass(frozen=True, slots=True)
class Offload:
    """Awaited by a job: what ``function`` answers, called in another process."""

    function: Callable[..., object]
    arguments: tuple[object, ...]
    keywords: Mapping[str, object]

    def __await__(self) -> Generator["Offload", object, object]:
        return (yield self)


@dataclass(frozen=True, slots=True)
class Later:
    """Awaited by a job: what somebody else tells it, whenever that is.

    ``begin`` is called under the step lock and never blocks. It is given whom to tell, once and in any thread, and how
    to ask, in any thread, whether the job still waits.
    """

    begin: "Callable[[Callable[[Answer | Exception], None], Callable[[], bool]], None]"
    goes_on_there: bool = False
    """Whether the job may go on in the thread that tells it: it is one of the mdev's own, in which nothing waits."""

    def __await__(self) -> Generator["Later", object, object]:
        return (yield self)


@dataclass(frozen=True, slots=True)
class Answer:
    """With what a job goes on that awaited something other than bytes."""

    value: object


class Near:
    """What a write sets off at once: stretches of jobs that the thread which performed it runs after it has answered.

    They need the step lock, which that thread has; to hand them to another takes longer than most of them run.
    """

    __slots__ = ("open", "stretches")

    def __init__(self) -> None:
        self.open = False
        """Whether whoever performs this step runs them."""
        self.stretches: list[Callable[[], None]] = []

    def take(self) -> list[Callable[[], None]]:
        stretches, self.stretches = self.stretches, []
        return stretches
