"""What the steps of the VFIO transcript are: a pattern of a step's name each, and the system calls to make."""

import re
from collections.abc import Callable

from golden.transcript import Answer, Step
from golden.vfio.session import Session

Performed = Callable[[Session, re.Match[str]], Answer]
_STEPS: list[tuple[re.Pattern[str], bool, Performed]] = []


def step(pattern: str, *, with_command: bool = False) -> Callable[[Performed], Performed]:
    """Registers what is done for the steps whose name, without the device, the pattern matches wholly.

    With ``with_command`` it is to match the name, a space and the recorded command.
    """

    def register(performed: Performed) -> Performed:
        whole = f"{pattern} .*" if with_command else pattern
        _STEPS.append((re.compile(whole, re.DOTALL), with_command, performed))
        return performed

    return register


def find(each: Step) -> tuple[Performed, re.Match[str]] | None:
    """What to do for a step; None where nobody knows."""
    name = plain_name(each)
    for pattern, with_command, performed in _STEPS:
        match = pattern.fullmatch(f"{name} {each.cmd[0]}" if with_command else name)
        if match is not None:
            return performed, match
    return None


def device_of(each: Step) -> str:
    return each.name.partition("/")[0]


def plain_name(each: Step) -> str:
    """Without the device, and without what tells steps of one name apart."""
    return each.name.partition("/")[2].partition("#")[0]
