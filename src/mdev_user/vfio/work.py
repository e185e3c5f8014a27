"""What a job may wait for besides DMA: time, and what another process computes."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

MOST_PENDING = 1024
"""Jobs of one mdev. A guest starts them, so there is an end to it."""


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
class Answer:
    """With what a job goes on that awaited something other than bytes."""

    value: object
