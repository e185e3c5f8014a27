"""The kernel's VFIO transcript once more: real system calls of a program under `run`, against a daemon of ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from golden.transcript import Answer, Step
from golden.vfio.comparing import parts_of
from golden.vfio.session import Session, recorded_layout
from golden.vfio.steps import skipped
from golden.vfio.table import device_of, find
from mdev_user.testing.daemon import RunningDaemon
from uapi.calls import Calls
from uapi.program import Program

TYPES: Mapping[str, str] = {"mtty1": "mtty-1", "mtty2": "mtty-2", "mdpy": "mdpy-vga", "mbochs": "mbochs-small"}
"""What the recorder made each device of, by the name that its steps begin with."""


@dataclass(frozen=True)
class Replayed:
    """One step as it went here."""

    step: Step
    answer: Answer


def replay(steps: Sequence[Step], daemon: RunningDaemon, preamble: str = "") -> list[Replayed]:
    """One program for all of the devices, as the recorder was; ``preamble`` breaks something in `run` first."""
    done = []
    with Program.under_run(daemon, preamble=preamble) as program:
        for device in dict.fromkeys(device_of(step) for step in steps):
            own = [step for step in steps if device_of(step) == device]
            done += _of_device(own, program, daemon, daemon.create(TYPES[device]))
    return done


def _of_device(steps: Sequence[Step], program: Calls, daemon: RunningDaemon, uuid: UUID) -> list[Replayed]:
    session = Session(program, str(uuid), f"/dev/vfio/{_group(daemon, uuid)}", recorded_layout(steps))
    done = [Replayed(step, _performed(session, step)) for step in steps]
    for fd in (session.group, session.container):
        _closed = program.close(fd).ok
    daemon.control.remove(uuid, wait=5, force=False)
    return done


def _performed(session: Session, step: Step) -> Answer:
    found = find(step)
    if found is None:
        raise LookupError(f"nobody knows how to do {step.name}: {step.cmd}")
    perform, match = found
    return perform(session, match)


def _group(daemon: RunningDaemon, uuid: UUID) -> str:
    return Path(daemon.sys / f"bus/mdev/devices/{uuid}/iommu_group").resolve().name


def compare(done: Sequence[Replayed]) -> Mapping[str, list[str]]:
    """What differs, by the step's name, of every step that is not skipped."""
    return {each.step.name: parts_of(each.step, each.answer) for each in done if skipped(each.step) is None}
