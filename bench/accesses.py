"""Round trips of 1-byte region accesses, beside a socket ping-pong of the same sizes on the same core.

The machine's speed wanders, so nothing is compared that was not measured within the same second: each round does the
ping-pong and ours, idle and beside a busy neighbour, and every ratio is of two measurements of one round.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from programs import CannotMeasure, Program, Round, running
from served import Daemon, pin, served

_LSR, _SCR = 5, 7
_KEEPS, _COMPUTED, _BUSY = ("keeps", _SCR), ("computed", _LSR), ("busy", _SCR)
_CORE, _OTHER_CORE = 0, 1
_FEWEST = 100


@dataclass(frozen=True)
class Measured:
    """One round: the same accesses four times."""

    limit: Round
    ours: Round
    computed: Round
    busy_limit: Round | None
    busy: Round | None


def measure(folder: Path, rounds: int, accesses: int, cores: tuple[int, ...]) -> list[Measured]:
    """``folder`` has the programs. With one core there is no neighbour that does not take our own time."""
    with ExitStack() as stack:
        daemon = stack.enter_context(served(["mtty,name=measured", "mtty,name=neighbour"]))
        own = cores[_CORE]
        limit = stack.enter_context(running([str(folder / "pingpong")], own))
        ours = stack.enter_context(client(daemon, folder, "measured", _KEEPS, own))
        computed = stack.enter_context(client(daemon, folder, "measured", _COMPUTED, own))
        busy = None
        if len(cores) > 1:
            busy = stack.enter_context(client(daemon, folder, "neighbour", _BUSY, cores[_OTHER_CORE]))
            busy.pause()
        return [_round(limit, ours, computed, busy, accesses) for _ in range(rounds)]


@contextmanager
def client(
    daemon: Daemon, folder: Path, parent: str, target: tuple[str, int], core: int, first: Sequence[int] = ()
) -> Iterator[Program]:
    """A client of a new mdev; it and its host on one core. What it says must agree with what the daemon counted.

    ``target`` is its mode and register; ``first`` are registers and values that it writes before.
    """
    mode, register = target
    uuid = uuid4()
    path = daemon.create(parent, uuid)
    pin(daemon.host_of(parent), core)
    command = [str(folder / "client"), str(path), "0", str(register), mode, *map(str, first)]
    with running(command, core) as program:
        yield program
        counted = daemon.counters(uuid)
        if int(counted["reads"]) < _FEWEST or counted["guest_errors"]:
            raise CannotMeasure(f"the accesses did not reach the device's register: {counted}")


def _round(limit: Program, ours: Program, computed: Program, busy: Program | None, accesses: int) -> Measured:
    idle = limit.round(accesses), ours.round(accesses), computed.round(accesses)
    if busy is None:
        return Measured(*idle, None, None)
    busy.go_on()
    beside = limit.round(accesses), ours.round(accesses)
    busy.pause()
    return Measured(*idle, *beside)
