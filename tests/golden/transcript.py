"""The kernel's transcripts: what was done, what the kernel answered, and the uevents that it sent meanwhile."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STEPS = HERE / "debian-main.sysfs.jsonl"
EVENTS = HERE / "debian-main.uevents.jsonl"


@dataclass(frozen=True)
class Answer:
    """What one step gave."""

    rc: int
    errno: str | None
    out: str
    """"open" where the open itself failed."""


@dataclass(frozen=True)
class Step:
    """One line of the transcript: ``cmd`` is an operation (`executor.Executor.step`) and its arguments."""

    name: str
    cmd: tuple[str, ...]
    answer: Answer


@dataclass(frozen=True)
class Stretch:
    """Steps whose events the recording has under one name: it read them late, or held them for a writer that waited."""

    recorded: str
    """The name under which they are."""
    first: str
    last: str
    """The steps, in order; a difference is told of the last."""
    reason: str
    only_end: bool = False
    """Whether the recording has the last events of the stretch only."""


STRETCHES = (
    Stretch(
        "hold-groupfd-remove",
        "hold-groupfd-remove-blocking",
        "hold-groupfd-cleanup",
        "The writer ran beside the recorder; its events were read when the recorder came back to it.",
    ),
    Stretch(
        "hold-group-remove",
        "hold-group-state",
        "hold-group-after",
        "The writer, which waits for the device's user, is no step of its own.",
    ),
    Stretch(
        "rmmod-pre-1",
        "rate-mbochs",
        "rmmod-pre-1",
        "The recorder does not read while it measures: the last events of the measurement came with the next step.",
        only_end=True,
    ),
)


def read_steps(path: Path = STEPS) -> list[Step]:
    """In the order in which they were run."""
    return [
        Step(each["step"], tuple(each["cmd"]), Answer(each["rc"], each["errno"], each["out"])) for each in _lines(path)
    ]


def read_events(path: Path = EVENTS) -> dict[str, list[Mapping[str, str]]]:
    """The variables of each uevent, in order, by the name of the step."""
    events: dict[str, list[Mapping[str, str]]] = {}
    for each in _lines(path):
        events.setdefault(each["step"], []).append(each["env"])
    return events


# Any: lines of the two files, which the dataclasses above give their types
def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as lines:
        for line in lines:
            yield json.loads(line)
