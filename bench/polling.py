"""Round trips with a core for the host and another for its client: the host asleep between accesses, or looking."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import meter
from programs import Round
from roundtrips import MEASURED, client
from served import Daemon

POLLING = "polling"
MICROSECONDS = 50
"""Longer than a client takes from a reply to its next access."""


def parents() -> list[str]:
    return [f"{meter.__file__}:Meters,name={POLLING},busy_poll={MICROSECONDS}"]


@dataclass(frozen=True)
class Measured:
    """One loop in one round."""

    asleep: Round
    looking: Round


class Polling:
    """The clients, started. None where there is one core only."""

    def __init__(self, stack: ExitStack, daemons: Mapping[str, Daemon], folder: Path, cores: Sequence[int]) -> None:
        both = daemons.items() if len(cores) > 1 else ()
        self._clients = {
            name: [stack.enter_context(client(each, folder, of, "keeps", *cores[:2])) for of in (MEASURED, POLLING)]
            for name, each in both
        }

    def round(self, accesses: int) -> Mapping[str, Measured]:
        return {name: Measured(*(each.round(accesses) for each in own)) for name, own in self._clients.items()}
