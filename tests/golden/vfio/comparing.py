"""What is different between the kernel's answer to a VFIO step and ours, as finely as its text can be taken apart."""

import re
from collections.abc import Iterator

from golden.transcript import Answer, Step

_BYTES = 4


def parts_of(step: Step, ours: Answer) -> list[str]:
    """Empty where the answers are the same. Each part is one of ``rc 36 -> -1``, ``errno A -> B``,
    ``NAME A -> B`` for a named value, ``[0x10] A -> B`` for four bytes, ``out A -> B`` for any other text.
    """
    kernel = step.answer
    pairs = [("rc", str(kernel.rc), str(ours.rc)), ("errno", str(kernel.errno), str(ours.errno))]
    return [f"{name} {a} -> {b}" for name, a, b in [*pairs, *_of_text(kernel.out, ours.out)] if a != b]


def _of_text(kernel: str, ours: str) -> Iterator[tuple[str, str, str]]:
    theirs, mine = _values(kernel), _values(ours)
    if theirs and list(theirs) == list(mine):
        yield from ((name, value, mine[name]) for name, value in theirs.items())
    elif len(kernel) == len(ours) and re.fullmatch("(?:[0-9a-f]{2}){5,}", kernel):
        size = 2 * _BYTES
        yield from (
            (f"[{at // 2:#04x}]", kernel[at : at + size], ours[at : at + size]) for at in range(0, len(kernel), size)
        )
    else:
        yield "out", kernel, ours


def _values(text: str) -> dict[str, str]:
    """``a=1 b=2``; the second of a name is ``NAME#2``. Empty where it is anything else."""
    found: dict[str, str] = {}
    for word in text.removeprefix("dword ").split(" "):
        name, equals, value = word.partition("=")
        if not equals:
            return {}
        found[f"{name}#2" if name in found else name] = value
    return found
