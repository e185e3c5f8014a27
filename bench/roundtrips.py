"""Round trips of a declared register's accesses over vfio-user: the limit, libvfio-user's server, and each of ours.

All are measured in each round, one after the other, by the same C client on the same core, since the machine's speed
wanders: a ratio is of two measurements of one round.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import meter
from peer import libvfio_user
from programs import CannotMeasure, Program, Round, running
from served import Daemon, pin

MEASURED, NEIGHBOUR = "measured", "neighbour"
KIND = "meter-slot"
_FEWEST = 100


@dataclass(frozen=True)
class Ours:
    """One of our loops in one round, idle and beside a busy mdev of another parent."""

    idle: Round
    busy: Round | None


@dataclass(frozen=True)
class Measured:
    """One round."""

    limit: Round
    libvfio_user: Round | None
    ours: Mapping[str, Ours]


class RoundTrips:
    """The programs that take part, started; `round` has each of them do its accesses."""

    def __init__(
        self, stack: ExitStack, daemons: Mapping[str, Daemon], folder: Path, server: Path | None, cores: tuple[int, ...]
    ) -> None:
        """``folder`` has the programs; ``server`` is a libvfio-user server's. The last core is the neighbour's."""
        own, others = cores[0], cores[1:]
        self._limit = stack.enter_context(running([str(folder / "pingpong")], own))
        self._peer = stack.enter_context(_peer(folder, server, own)) if server else None
        self._ours = {
            name: stack.enter_context(client(each, folder, MEASURED, "keeps", own)) for name, each in daemons.items()
        }
        self._busy: dict[str, Program] = {}
        if others:
            for name, each in daemons.items():
                self._busy[name] = stack.enter_context(client(each, folder, NEIGHBOUR, "busy", others[-1]))
                self._busy[name].pause()

    def round(self, accesses: int) -> Measured:
        limit = self._limit.round(accesses)
        peer = self._peer.round(accesses) if self._peer else None
        idle = {name: each.round(accesses) for name, each in self._ours.items()}
        return Measured(limit, peer, {name: Ours(idle[name], self._beside(name, accesses)) for name in idle})

    def _beside(self, name: str, accesses: int) -> Round | None:
        busy = self._busy.get(name)
        if busy is None:
            return None
        busy.go_on()
        try:
            return self._ours[name].round(accesses)
        finally:
            busy.pause()


@contextmanager
def client(
    daemon: Daemon, folder: Path, parent: str, mode: str, core: int, own: int | None = None
) -> Iterator[Program]:
    """A client of a new mdev, whose host is on that core; so is the client, or on its ``own``.

    What it says must agree with what the daemon counted.
    """
    uuid = uuid4()
    path = daemon.create(parent, uuid, KIND)
    pin(daemon.host_of(parent), core)
    with running(_command(folder, path, mode), core if own is None else own) as program:
        yield program
        counted = daemon.counters(uuid)
        if int(counted["reads"]) < _FEWEST or counted["guest_errors"]:
            raise CannotMeasure(f"the accesses did not reach the device's register: {counted}")


@contextmanager
def _peer(folder: Path, server: Path, core: int) -> Iterator[Program]:
    with libvfio_user(server, core) as path, running(_command(folder, path, "keeps"), core) as program:
        yield program


def _command(folder: Path, path: Path, mode: str) -> list[str]:
    return [str(folder / "client"), str(path), str(meter.REGION), str(meter.SCRATCH), mode]
