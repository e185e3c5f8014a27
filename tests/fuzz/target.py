"""A target: one piece of code that hostile bytes reach, and what it must never do with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random


class Finding(AssertionError):
    """The code did what it must not do; whatever else a target raises is a finding, too."""


@dataclass(frozen=True)
class Target:
    """``one`` gives the code one input, and raises when it misbehaves."""

    name: str
    about: str
    one: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    covers: tuple[str, ...]
    """The modules whose branches this is to reach."""
    mutate: Callable[[bytes, Random], bytes] | None = None
    """A mutator that knows the structure, where plain bytes would not get far."""
    longest: int = 4096
    """Bytes of an input."""


def expect(holds: object, what: str) -> None:
    """A `Finding` unless it holds: unlike ``assert`` it is always there."""
    if not holds:
        raise Finding(what)
