"""What a job may wait for besides DMA: time."""

from collections.abc import Generator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sleep:
    """Awaited by a job: go on after ``seconds`` of the host's clock."""

    seconds: float

    def __await__(self) -> Generator["Sleep", bytes, None]:
        yield self
