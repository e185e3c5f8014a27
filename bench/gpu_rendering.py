"""3D: a texture is cleared and read back; and how the renderers' time is shared by weight, where all want it.

How long the renderers worked is what the kernel says of their processes, not what vgpu has counted.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gpu_scene import HEIGHT, PARENT, WIDTH, Mdev, await_true, busy
from gpu_shares import WEIGHTS
from programs import CannotMeasure, running
from served import Daemon

SIZES: Mapping[str, tuple[int, int]] = {"small": (64, 64), "screen": (WIDTH, HEIGHT)}
_TICK = os.sysconf("SC_CLK_TCK")
_SETTLE, _LONG = 0.2, 2.0
_RENDERER = b"mdev_user.host.program"
_PROGRAM = Path(__file__).with_name("gpu_render.py")


@dataclass(frozen=True)
class Measured:
    """One round."""

    trips: Mapping[str, Mapping[str, float]]
    """Nanoseconds of a clear and its readback, by `SIZES`."""
    seconds: Sequence[float]
    """Of processor time, of the renderers with weights 1:2:4."""


class RenderingRounds:
    """The programs that take part, started; `round` has each of them do its work."""

    def __init__(self, stack: ExitStack, daemon: Daemon, cores: Sequence[int]) -> None:
        self._readers = {}
        for name, size in SIZES.items():
            command = [sys.executable, str(_PROGRAM), str(Mdev.created(daemon).socket), *map(str, size)]
            self._readers[name] = stack.enter_context(running(command, cores[-1]))
            self._readers[name].ask(3)
        self._renderers: list[int] = []
        self._busy = []
        for weight in WEIGHTS:
            mdev, before = Mdev.created(daemon), _renderers(daemon)
            mdev.set(weight=weight)
            command = [sys.executable, str(_PROGRAM), str(mdev.socket), str(WIDTH), str(HEIGHT), "busy"]
            program = stack.enter_context(running(command, cores[-1]))
            await_true(lambda mdev=mdev: mdev.drawn > WIDTH * HEIGHT, "a renderer draws nothing")  # type: ignore[misc]
            program.pause()
            self._busy.append(program)
            self._renderers += _renderers(daemon) - before
        if len(self._renderers) != len(WEIGHTS):
            raise CannotMeasure(f"expected a renderer for each mdev, found {self._renderers}")

    def round(self, count: int) -> Measured:
        trips = {name: each.ask(count) for name, each in self._readers.items()}
        with busy(*self._busy):
            time.sleep(_SETTLE)
            before = [_seconds(pid) for pid in self._renderers]
            time.sleep(_LONG)
            after = [_seconds(pid) for pid in self._renderers]
        return Measured(trips, [late - early for early, late in zip(before, after, strict=True)])


def _renderers(daemon: Daemon) -> set[int]:
    """The processes that the parent's host has started."""
    tasks = Path(f"/proc/{daemon.host_of(PARENT)}/task").glob("*/children")
    children = {pid for each in tasks for pid in each.read_text().split()}
    return {int(pid) for pid in children if _RENDERER in Path(f"/proc/{pid}/cmdline").read_bytes()}


def _seconds(pid: int) -> float:
    """Of processor time."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / _TICK
