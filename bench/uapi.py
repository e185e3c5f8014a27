"""Accesses to a register under `run`, beside a vfio-user client's; and what `run` costs other calls.

All are C programs on the same core, one after the other in each round. The supervisor is measured in its kinds: native
or Python, with synchronous wake-up (Linux 6.6) and without.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import meter
import roundtrips
from programs import Program, Round, Times, on_core
from served import Daemon, pin, served

from mdev_user.vfio_user.loops import CHOICE, why_not_native

REGISTER = 4
"""Bytes of the register that is accessed."""
_PARENT = f"{meter.__file__}:Meters,name={roundtrips.MEASURED}"
_WITHOUT = "from mdev_user.uapi import seccomp; seccomp.wake_synchronously = lambda listener: None; "
_RUN = "import sys; from mdev_user.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Kind:
    """A kind of supervisor."""

    name: str
    loop: str
    synchronous: bool


@dataclass(frozen=True)
class Measured:
    """One round."""

    vfio_user: Round
    trapped: Mapping[str, Round]
    """By the kind of supervisor."""
    alone: Mapping[str, Times]
    """Calls that are not about devices, without `run`."""
    under_run: Mapping[str, Times]


SYNCHRONOUS = ("native", "python")
KINDS = (*SYNCHRONOUS, "native_later", "python_later")


def kinds() -> list[Kind]:
    """The native supervisor need not have been built."""
    every = [Kind(name, name.partition("_")[0], name in SYNCHRONOUS) for name in KINDS]
    return [each for each in every if each.loop == "python" or not why_not_native()]


def measure(folder: Path, rounds: int, accesses: int, core: int) -> Sequence[Measured]:
    """``folder`` has the programs."""
    with ExitStack() as stack:
        daemon = stack.enter_context(served([_PARENT]))
        client = stack.enter_context(roundtrips.client(daemon, folder, roundtrips.MEASURED, "keeps", core))
        trapped = {each.name: stack.enter_context(_trapped(daemon, folder, each, core)) for each in kinds()}
        file = folder / "file"
        file.touch()
        calls = [str(folder / "calls"), str(file)]
        alone = stack.enter_context(_started(calls, core))
        under_run = stack.enter_context(_started([*_run(daemon, kinds()[0]), *calls], core))
        return [
            Measured(
                client.round(accesses),
                {name: each.round(accesses) for name, each in trapped.items()},
                alone.ask(accesses),
                under_run.ask(accesses),
            )
            for _ in range(rounds)
        ]


@contextmanager
def _trapped(daemon: Daemon, folder: Path, kind: Kind, core: int) -> Iterator[Program]:
    uuid = uuid4()
    daemon.create(roundtrips.MEASURED, uuid, roundtrips.KIND)
    pin(daemon.host_of(roundtrips.MEASURED), core)
    device = [group_of(daemon, str(uuid)), str(uuid), str(meter.REGION), str(meter.SCRATCH)]
    with _started([*_run(daemon, kind), str(folder / "trapped"), *device], core, {CHOICE: kind.loop}) as program:
        yield program


def group_of(daemon: Daemon, uuid: str) -> str:
    """The number of the mdev's IOMMU group."""
    return (daemon.sysfs() / "bus" / "mdev" / "devices" / uuid / "iommu_group").resolve().name


def _run(daemon: Daemon, kind: Kind) -> list[str]:
    code = _RUN if kind.synchronous else _WITHOUT + _RUN
    return [sys.executable, "-c", code, "run", "--run-dir", str(daemon.run_dir), "--"]


@contextmanager
def _started(command: Sequence[str], core: int, environment: Mapping[str, str] | None = None) -> Iterator[Program]:
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        with on_core(core):
            program = Program(command, core)
    finally:
        os.environ.clear()
        os.environ.update(before)
    try:
        program.ask(100)
        yield program
    finally:
        program.end()
