"""A transcript of commands and what they print: read from a file, carried out, and written again in one form.

A line ``$ mdevctl ...`` is a command, ``<<< 'text'`` gives it its input, and ``$ cat FILE`` reads a file of the tree.
Below it stands what it prints, errors behind ``! ``, and its exit status in brackets where that is not 0. ``NEW1`` is
the first UUID that a command made up, and so on. Empty lines, and those that begin with a ``#``, are for the reader.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from typing_extensions import override

from tools.inside import Done

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"(?<=\[)[0-9T:-]+Z ")  # of a line that a program logs
OURS = "c0ffee00-"
"""How the UUIDs begin that a transcript itself names."""


@dataclass(frozen=True)
class Step:
    """A command and what it printed."""

    command: str
    said: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.command)

    @override
    def __str__(self) -> str:
        return f"$ {self.command}\n{self.said}"


def parse(text: str) -> Iterator[Step]:
    """The steps of a transcript."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")] + [len(lines)]
    for start, end in pairwise(starts):
        yield Step(lines[start].removeprefix("$ "), "".join(f"{line}\n" for line in lines[start + 1 : end]))


def record(steps: Iterable[Step], mdevctl: Callable[..., Done], tree: Path) -> Iterator[Step]:
    """Carry out the commands of ``steps`` again: each with what it prints now."""
    made: dict[str, str] = {}
    for step in steps:
        words = [{name: uuid for uuid, name in made.items()}.get(word, word) for word in step.words]
        done = _carry_out(words, mdevctl, tree)
        for uuid in _UUID.findall(done.out):
            if not uuid.startswith(OURS):
                made.setdefault(uuid, f"NEW{len(made) + 1}")
        said = _UUID.sub(lambda found: made.get(found[0], found[0]), _said(done))
        yield Step(step.command, said)


def _carry_out(words: list[str], mdevctl: Callable[..., Done], tree: Path) -> Done:
    if words[0] == "cat":
        return Done(0, (tree / words[1]).read_text(), "")
    arguments, stdin = words[1:], ""
    if "<<<" in arguments:
        *arguments, _redirect, stdin = arguments
    return mdevctl(*arguments, stdin=stdin)


def _said(done: Done) -> str:
    lines = [line for line in done.out.splitlines() if line]
    errors = [f"! {_TIME.sub('', line)}" for line in done.err.splitlines() if line]
    status = [] if done.status == 0 else [f"[{done.status}]"]
    return "".join(f"{line}\n" for line in (*lines, *errors, *status))
