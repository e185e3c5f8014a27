"""Full-screen updates of one mdev, alone and beside others that are busy.

An update is TRANSFER_TO_HOST_2D and FLUSH of 1920x1080 pixels. The host process is on the first core with all its
threads, those who ask it for updates are on the last; but beside a busy mtty, which needs all of that, with the host.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict
from uuid import uuid4

from gpu_scene import HEIGHT, PARENT, PIXEL, WIDTH, Mdev, busy, drawing, updating
from programs import Program, Round, running
from served import Daemon, pin

from mdev_user.units import PAGE

BYTES = PIXEL * WIDTH * HEIGHT
OTHER = "other"
"""The mtty parent."""
_SCRATCH = 7
WAYS = ("one_piece", "pages", "beside_vgpu", "beside_mtty")
"""A guest's memory in one piece; in pages that do not follow each other; and in one piece beside somebody busy."""


class Updated(TypedDict):
    """One round: nanoseconds of an update alone, and how many there were in a second, some at a time."""

    p50: float
    p99: float
    per_second: float


@dataclass(frozen=True)
class Measured:
    """One round. ``limit``: "read" is memcpy of a picture, "write" of its pages; ``limit_three`` of three of them."""

    limit: Round
    limit_three: Round
    updates: Mapping[str, Updated]
    """By `WAYS`."""


class UpdateRounds:
    """The programs that take part, started; `round` has each of them do its work."""

    def __init__(self, stack: ExitStack, daemon: Daemon, folder: Path, cores: Sequence[int]) -> None:
        """``folder`` has the programs."""
        start, self._own, guests = stack.enter_context, cores[0], cores[-1]
        whole, pages, neighbour = (Mdev.created(daemon) for _ in range(3))
        pin(daemon.host_of(PARENT), self._own)
        self._limit = start(running([str(folder / "picture"), str(BYTES)], self._own))
        self._limit_three = start(running([str(folder / "picture"), str(3 * BYTES)], self._own))
        self._whole, self._pages = start(updating(whole, 0, guests)), start(updating(pages, PAGE, guests))
        self._vgpu = start(drawing(neighbour, guests))
        self._mtty = start(_mtty(daemon, folder, guests))
        self._mtty.pause()

    def round(self, count: int) -> Measured:
        limit, three = self._limit.round(count), self._limit_three.round(count // 3)
        updates: dict[str, Updated] = {"one_piece": self._whole.ask(count), "pages": self._pages.ask(count)}
        with busy(self._vgpu):
            updates["beside_vgpu"] = self._whole.ask(count)
        with busy(self._mtty), self._whole.elsewhere(self._own):
            updates["beside_mtty"] = self._whole.ask(count)
        return Measured(limit, three, updates)


def _mtty(daemon: Daemon, folder: Path, core: int) -> AbstractContextManager[Program]:
    """One of another parent, so of another process, which is accessed all the time."""
    path = daemon.create(OTHER, uuid4())
    pin(daemon.host_of(OTHER), core)
    return running([str(folder / "client"), str(path), "0", str(_SCRATCH), "busy"], core)
