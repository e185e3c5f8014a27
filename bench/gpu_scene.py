"""Mdevs of one vgpu, and those who draw on them all the time."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from programs import CannotMeasure, Program, running
from served import Daemon

PARENT, KIND = "vgpu", "vgpu-GVTg_V5_8"
"""Of that type there can be most; how large a picture is is up to its guest."""
WIDTH, HEIGHT = 1920, 1080
PIXEL = 4
FRAMES = 20
"""Updates by which is seen what one counts."""
AT_ONCE = 4
"""Updates that who draws all the time has under way: it always wants more than it has."""
_HERE = Path(__file__).parent
_SECONDS = 20.0


@dataclass(frozen=True)
class Mdev:
    """One slice. ``folder`` has its attributes."""

    uuid: UUID
    socket: Path
    folder: Path

    @classmethod
    def created(cls, daemon: Daemon, kind: str = KIND) -> "Mdev":
        uuid = uuid4()
        socket = daemon.create(PARENT, uuid, kind)
        return cls(uuid, socket, daemon.sysfs() / "bus/mdev/devices" / str(uuid))

    @property
    def drawn(self) -> int:
        """Pixels so far, and what commands and lines count beside them."""
        return int((self.folder / "scheduling/drawn").read_text())

    def set(self, **values: int) -> None:
        """Attributes of its schedule, all at once."""
        before = dict(each.split("=") for each in (self.folder / "scheduling/schedule").read_text().split())
        words = {**before, **values}
        (self.folder / "scheduling/schedule").write_text(" ".join(f"{name}={value}" for name, value in words.items()))


def set_policy(daemon: Daemon, policy: str) -> None:
    (daemon.sysfs() / "class/mdev_bus" / PARENT / "scheduling/policy").write_text(policy)


@contextmanager
def drawing(mdev: Mdev, core: int, piece: int = 0) -> Iterator[Program]:
    """Somebody who updates its picture as often as it is allowed to; paused at first. ``piece`` as in `gpu_client`."""
    numbers = map(str, (WIDTH, HEIGHT, piece, AT_ONCE))
    with running([sys.executable, str(_HERE / "gpu_client.py"), str(mdev.socket), *numbers], core) as program:
        await_true(lambda: mdev.drawn > 2 * WIDTH * HEIGHT, "a vgpu's guest draws nothing")
        program.pause()
        yield program


@contextmanager
def updating(mdev: Mdev, piece: int, core: int) -> Iterator[Program]:
    """Somebody who updates its picture when asked to."""
    command = [sys.executable, str(_HERE / "gpu_rounds.py"), str(mdev.socket), str(WIDTH), str(HEIGHT), str(piece)]
    with running(command, core) as program:
        program.ask(AT_ONCE)
        yield program


def update_price(mdev: Mdev, core: int) -> float:
    """What an update of the whole picture counts in `drawn`."""
    with updating(mdev, 0, core) as program:
        before = mdev.drawn
        program.ask(FRAMES)
        return (mdev.drawn - before) / (2 * FRAMES)


@contextmanager
def busy(*programs: Program) -> Iterator[None]:
    """These go on during the block."""
    for each in programs:
        each.go_on()
    try:
        yield
    finally:
        for each in programs:
            each.pause()


def spread_over(pid: int, cores: Sequence[int]) -> None:
    """Every thread of the process may run on any of these cores."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def await_true(is_so: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise CannotMeasure(f"{otherwise} in {_SECONDS:.0f} s")
        time.sleep(0.005)
