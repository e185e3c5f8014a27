"""The declared mtty beside the one written by hand: round trips of the same accesses, in the same rounds.

Both serve the same registers to the same client on the same core, an mdev for each kind of register. In a round every
kind is measured on the one and at once on the other; which of them comes first changes with each round.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from accesses import client
from programs import Program, Round, running
from served import Daemon, served

BY_HAND = Path(__file__).parents[1] / "tests/unit/drivers/mtty_by_hand.py"
_DECLARED, _HAND = "declared", "byhand"
_CORE = 0
_DATA, _INTERRUPTS, _IDENTIFICATION, _LCR, _LSR, _SCR = 0, 1, 2, 3, 5, 7
_DLAB = (_LCR, 0x80)


@dataclass(frozen=True)
class Kind:
    """What is accessed: a register, how, and what is written to others before."""

    mode: str
    register: int
    first: Sequence[int] = ()


KINDS: Mapping[str, Kind] = {
    "plain": Kind("keeps", _SCR),
    "handler_data": Kind("echoes", _DATA),
    "handler_enable": Kind("computed", _INTERRUPTS),
    "handler_identify": Kind("computed", _IDENTIFICATION),
    "status": Kind("computed", _LSR),
    "banked_dll": Kind("keeps", _DATA, _DLAB),
    "banked_dlm": Kind("keeps", _INTERRUPTS, _DLAB),
}
"""SCR; RBR and THR in turn; IER; IIR and FCR; LSR; DLL and DLM, seen while DLAB is set."""


@dataclass(frozen=True)
class Pair:
    """One kind in one round."""

    declared: Round
    by_hand: Round


@dataclass(frozen=True)
class Measured:
    """One round."""

    limit: Round
    pairs: Mapping[str, Pair]


def measure(folder: Path, rounds: int, accesses: int, cores: Sequence[int]) -> list[Measured]:
    """``folder`` has the programs."""
    with ExitStack() as stack:
        daemon = stack.enter_context(served([f"mtty,name={_DECLARED}", f"{BY_HAND}:Mtty,name={_HAND}"]))
        core = cores[_CORE]
        limit = stack.enter_context(running([str(folder / "pingpong")], core))
        declared, by_hand = (_clients(stack, daemon, folder, each, core) for each in (_DECLARED, _HAND))
        return [_round(number, limit, declared, by_hand, accesses) for number in range(rounds)]


def _clients(stack: ExitStack, daemon: Daemon, folder: Path, parent: str, core: int) -> Mapping[str, Program]:
    return {
        name: stack.enter_context(client(daemon, folder, parent, (kind.mode, kind.register), core, kind.first))
        for name, kind in KINDS.items()
    }


def _round(
    number: int, limit: Program, declared: Mapping[str, Program], by_hand: Mapping[str, Program], accesses: int
) -> Measured:
    return Measured(
        limit.round(accesses),
        {name: _pair(declared[name], by_hand[name], accesses, declared_first=number % 2 == 0) for name in KINDS},
    )


def _pair(declared: Program, by_hand: Program, accesses: int, *, declared_first: bool) -> Pair:
    if declared_first:
        first = declared.round(accesses)
        return Pair(first, by_hand.round(accesses))
    first = by_hand.round(accesses)
    return Pair(declared.round(accesses), first)
