#!/usr/bin/env python3
"""Writes docs/reference/differences.md: where we mean to differ from the kernel, from tests/golden/differences.toml."""

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # where the replay reads the same rows

from golden.differences import Difference, Unrecorded, read, read_unrecorded, read_vfio  # noqa: E402
from golden.normal import NO_VARIABLES, NORMALISATIONS, SKIPPED  # noqa: E402
from golden.transcript import read_steps  # noqa: E402
from golden.vfio.steps import SKIPPED as SKIPPED_OF_VFIO  # noqa: E402
from golden.vfio.steps import read_vfio_steps  # noqa: E402

TARGET = ROOT / "docs/reference/differences.md"
COMMAND = ".venv/bin/python scripts/write_differences.py"
WIDTH = 120

HEAD = """# Differences from the kernel

What a program can see that is not as Linux 7.2 with its sample drivers has it, and why. Written from
`tests/golden/differences.toml` by `{command}`; do not edit.

A test holds this page to the truth: it does again what was done on a real kernel, {steps} steps (`tests/golden`), and
fails for a difference that has no row here, and for a row whose difference is gone.

## What the recording shows
"""
VFIO = """## What the recording of the devices shows

{steps} more steps were made with four devices (`mtty1`, `mtty2`, `mdpy`, `mbochs`) through their VFIO descriptors, by
the group API. The same test makes them in `mdev-user run`. {covered} of them are in the rows below.
"""
UNRECORDED = """## What the recording does not show
"""
NOT_COMPARED = """## What is not compared

What two runs of one kernel do not have in common:
"""


def page() -> str:
    """The whole page."""
    head = HEAD.format(command=COMMAND, steps=len(read_steps()))
    rows = [section(row, f"* Steps: {', '.join(f'`{step}`' for step in row.steps)}.") for row in read()]
    names = [step.name for step in read_vfio_steps()]
    of_vfio = read_vfio(names)
    vfio = VFIO.format(steps=len(names), covered=len({step for row in of_vfio for step in row.steps}))
    devices = [section(row, f"* Steps: {_told(row.steps)}.") for row in of_vfio]
    unrecorded = [section(row) for row in read_unrecorded()]
    return "\n".join([head, *rows, vfio, *devices, UNRECORDED, *unrecorded, NOT_COMPARED, *not_compared()]) + "\n"


def _told(steps: Sequence[str]) -> str:
    """Each once, with the devices that show it."""
    devices: dict[str, list[str]] = {}
    for step in steps:
        device, _, name = step.partition("/")
        devices.setdefault(name.partition("#")[0], []).append(device)
    return ", ".join(f"`{name}` ({', '.join(dict.fromkeys(of))})" for name, of in devices.items())


def section(row: Difference | Unrecorded, *more: str) -> str:
    """A row, and what else is to be said of it."""
    parts = [f"* The kernel: {row.kernel}", f"* Here: {row.ours}", f"* Why: {row.reason}", *more]
    return "\n".join([f"### {row.title}\n", *(wrapped(part) for part in parts)]) + "\n"


def not_compared() -> list[str]:
    """A line for everything that the replay leaves out."""
    told = [f"{each.name}: {each.reason}" for each in NORMALISATIONS]
    told += [f"`{name}` of a uevent: {reason}" for name, reason in NO_VARIABLES.items()]
    told += [f"step `{each.pattern}`: {each.reason}" for each in (*SKIPPED, *SKIPPED_OF_VFIO)]
    return [wrapped(f"* {each}") for each in told]


def wrapped(item: str) -> str:
    """An item of a list."""
    return textwrap.fill(item, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    TARGET.write_text(page())
