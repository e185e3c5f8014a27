"""The search for a case that fails, and for a short one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import Generic, TypeVar

from mdev_user.testing.conformance.operations import Finding

C = TypeVar("C")


@dataclass(frozen=True)
class Failure(Generic[C]):
    """A case, and what was found in it."""

    case: C
    finding: Finding


@dataclass(frozen=True)
class Search:
    """How much is tried."""

    examples: int
    seed: int
    """Other cases for another number."""
    seconds: float
    """How long a shorter case is looked for, once there is one."""

    def __call__(
        self,
        draw: Callable[[Random], C],
        find: Callable[[C], Finding | None],
        shorter: Callable[[C], Iterator[C]],
    ) -> Failure[C] | None:
        """The shortest case of a finding that there is time for; None when no case has one."""
        for number in range(self.examples):
            case = draw(Random(f"{self.seed} {number}"))  # noqa: S311 - no secret
            if finding := find(case):
                return shortened(Failure(case, finding), find, shorter, monotonic() + self.seconds)
        return None


def shortened(
    failure: Failure[C], find: Callable[[C], Finding | None], shorter: Callable[[C], Iterator[C]], until: float
) -> Failure[C]:
    """The failure of a shorter case, as long as there is one and time."""
    candidates = shorter(failure.case)
    while monotonic() < until and (case := next(candidates, None)) is not None:
        if finding := find(case):
            failure, candidates = Failure(case, finding), shorter(case)
    return failure


def without_some(items: tuple[C, ...]) -> Iterator[tuple[C, ...]]:
    """The items without a half of them, without a quarter, and so on to without one."""
    size = len(items)
    while size:
        for start in range(0, len(items), size):
            yield items[:start] + items[start + size :]
        size //= 2
