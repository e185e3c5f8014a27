"""A device's users over vfio-user: accesses, interrupts, DMA and mappings, and hundreds of users at once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import crowd
import engines
import meter
import polling
import roundtrips
from served import Daemon, served

from mdev_user.vfio_user.loops import CHOICE, why_not_native

REGISTER = 4
"""Bytes of the register that is accessed."""
PURE, NATIVE = "pure", "native"
_CHOICES = {PURE: "python", NATIVE: "native"}
_CROWD_ROUNDS, _CROWD_MS = 4, 3000
_OWN = [f"{meter.__file__}:Meters,name={name}" for name in (roundtrips.MEASURED, roundtrips.NEIGHBOUR)]


@dataclass(frozen=True)
class Load:
    """How much is measured."""

    rounds: int
    accesses: int
    interrupts: int
    mdevs: int


@dataclass(frozen=True)
class Measured:
    """Rounds of everything; of the crowds by the loop's name."""

    trips: Sequence[roundtrips.Measured]
    engines: Sequence[engines.Measured]
    polled: Sequence[Mapping[str, polling.Measured]]
    crowds: Mapping[str, Sequence[crowd.Measured]]


def measure(folder: Path, load: Load, cores: tuple[int, ...], server: Path | None) -> Measured:
    """``folder`` has the programs; ``server`` is a libvfio-user server's, where one is at hand."""
    trips, work, polled = [], [], []
    with _started([*_OWN, *polling.parents()]) as (stack, daemons):
        accesses = roundtrips.RoundTrips(stack, daemons, folder, server, cores)
        beside = engines.Engines(stack, daemons, folder, server, cores)
        looking = polling.Polling(stack, daemons, folder, cores)
        for _ in range(load.rounds):
            trips.append(accesses.round(load.accesses))
            work.append(beside.round(load.interrupts))
            polled.append(looking.round(load.accesses))
    return Measured(trips, work, polled, _crowds(folder, load, cores))


def _crowds(folder: Path, load: Load, cores: Sequence[int]) -> Mapping[str, Sequence[crowd.Measured]]:
    with _started(crowd.parents()) as (stack, daemons):
        crowds = {name: crowd.Crowd(stack, daemon, folder, load.mdevs, cores[:2]) for name, daemon in daemons.items()}
        rounds = [{name: each.round(_CROWD_MS) for name, each in crowds.items()} for _ in range(_CROWD_ROUNDS)]
    return {name: [each[name] for each in rounds] for name in crowds}


@contextmanager
def _started(parents: Sequence[str]) -> Iterator[tuple[ExitStack, Mapping[str, Daemon]]]:
    """A daemon for each loop."""
    with ExitStack() as stack:
        yield stack, {name: stack.enter_context(served(parents, {CHOICE: _CHOICES[name]})) for name in _loops()}


def _loops() -> list[str]:
    """The loops that there are: the native one need not have been built."""
    return [PURE] if why_not_native() else [PURE, NATIVE]
