"""Hundreds of connected mdevs on several hosts, all of them used at once, beside one alone.

Each host and its clients share one of the cores. Left to the kernel's scheduler, which moves them about, hundreds of
servers in C are served less fairly than these.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast
from uuid import uuid4

import meter
from programs import Program, running
from roundtrips import KIND
from served import Daemon, pin

HOSTS = 8
_ALONE_MS = 600


class Tally(TypedDict):
    """Accesses of all the clients, of the slowest and of the fastest; nanoseconds of one access."""

    all: int
    least: int
    most: int
    p50: int
    p99: int


@dataclass(frozen=True)
class Measured:
    """One round."""

    alone: Tally
    together: Tally
    alone_seconds: float
    together_seconds: float


def parents() -> list[str]:
    """As many hosts as there are parents."""
    return [f"{meter.__file__}:Meters,name={name},host={name}" for name in _names()]


class Crowd:
    """The clients of one daemon, connected; the one that is alone at times is one more."""

    def __init__(self, stack: ExitStack, daemon: Daemon, folder: Path, mdevs: int, cores: Sequence[int]) -> None:
        places = {name: cores[number % len(cores)] for number, name in enumerate(_names())}
        for name, core in places.items():
            pin(daemon.host_of(name), core)
        members = [_names()[number % HOSTS] for number in range(mdevs)]
        self._alone = _clients(stack, daemon, folder, {_names()[0]: cores[0]}, [_names()[0]])
        self._together = _clients(stack, daemon, folder, places, members)

    def round(self, milliseconds: int) -> Measured:
        alone = cast("Tally", self._alone.ask(_ALONE_MS))
        together = cast("Tally", self._together.ask(milliseconds))
        return Measured(alone, together, _ALONE_MS / 1e3, milliseconds / 1e3)


def _names() -> list[str]:
    return [f"crowd{number}" for number in range(HOSTS)]


def _clients(stack: ExitStack, daemon: Daemon, folder: Path, places: dict[str, int], members: Sequence[str]) -> Program:
    command = [str(folder / "crowd"), str(meter.SCRATCH)]
    for name in members:
        command += [str(places[name]), str(daemon.create(name, uuid4(), KIND))]
    return stack.enter_context(running(command, places[members[0]]))
