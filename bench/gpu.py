"""The vgpu parent: updates of a picture, a neighbour's registers, shares of the drawing engine, screenshots.

All are measured in each round, one after the other: a ratio is of two measurements of one round. What has a daemon of
its own is what needs the host on a certain core.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import gpu_guest
import gpu_registers
import gpu_rendering
import gpu_screenshots
import gpu_shares
import gpu_updates
from gpu_scene import PARENT
from served import Daemon, served

from mdev_user.drivers.vgpu.rendering import has_renderer

WIDER = "wider"


@dataclass(frozen=True)
class Load:
    """How much is measured."""

    rounds: int
    updates: int
    accesses: int
    phase: float
    """Seconds from one change to the next, in the course that is plotted."""


@dataclass(frozen=True)
class Measured:
    """Rounds of everything, and one course."""

    updates: Sequence[gpu_updates.Measured]
    registers: Sequence[gpu_registers.Measured]
    shares: Sequence[gpu_shares.Measured]
    course: gpu_shares.Course
    screenshots: Sequence[gpu_screenshots.Measured]
    rendering: Sequence[gpu_rendering.Measured]
    """Nothing where this machine has no renderer."""
    guest: Sequence[gpu_guest.Measured]


def measure(folder: Path, load: Load) -> Measured:
    """``folder`` has the programs, and one of its own those for the vgpu's registers."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    number = range(load.rounds)
    with _scene(gpu_updates.OTHER) as (stack, daemon):
        updates = gpu_updates.UpdateRounds(stack, daemon, folder, cores)
        updated = [updates.round(load.updates) for _ in number]
    with _scene() as (stack, daemon):
        registers = gpu_registers.RegisterRounds(stack, daemon, folder / WIDER, cores)
        read = [registers.round(load.accesses) for _ in number]
    with _scene() as (stack, daemon):
        sharing = gpu_shares.ShareRounds(stack, daemon, cores)
        shared = [sharing.round() for _ in number]
        course = sharing.course(load.phase)
    with _scene() as (stack, daemon):
        screenshots = gpu_screenshots.Screenshots(stack, daemon, folder)
        taken = [screenshots.round() for _ in number]
    rendered = _rendered(load, cores) if has_renderer() else []
    return Measured(updated, read, shared, course, taken, rendered, gpu_guest.measure(load.rounds))


def _rendered(load: Load, cores: Sequence[int]) -> Sequence[gpu_rendering.Measured]:
    with _scene() as (stack, daemon):
        rendering = gpu_rendering.RenderingRounds(stack, daemon, cores)
        return [rendering.round(load.updates) for _ in range(load.rounds)]


@contextmanager
def _scene(other: str | None = None) -> Iterator[tuple[ExitStack, Daemon]]:
    """A daemon with a vgpu, and maybe an mtty of that name."""
    parents = [PARENT, *([f"mtty,name={other}"] if other else [])]
    with ExitStack() as stack:
        yield stack, stack.enter_context(served(parents))
