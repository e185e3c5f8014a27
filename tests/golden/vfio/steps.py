"""The steps of the VFIO transcript, as `transcript.read_steps` reads them, with a name of its own each."""

import re
from collections import Counter
from dataclasses import replace

# What fills the table.
import golden.vfio.accessing
import golden.vfio.describing
import golden.vfio.interrupting
import golden.vfio.migrating
import golden.vfio.opening
import golden.vfio.showing  # noqa: F401 - as those above
from golden.normal import Skipped
from golden.transcript import HERE, Step, read_steps

FILE = HERE / "debian-main.vfio.jsonl"

SKIPPED = (
    Skipped(
        r".*/config-write-0x1[01]-[12]",
        "the samples take four bytes for one or two, and the rest is what was on the kernel's stack",
    ),
)


def read_vfio_steps() -> list[Step]:
    """In the order in which they were run; the second of a name is ``NAME#2``."""
    seen: Counter[str] = Counter()
    found = []
    for step in read_steps(FILE):
        seen[step.name] += 1
        found.append(step if seen[step.name] == 1 else replace(step, name=f"{step.name}#{seen[step.name]}"))
    return found


def skipped(step: Step) -> Skipped | None:
    return next((each for each in SKIPPED if re.fullmatch(each.pattern, step.name)), None)
