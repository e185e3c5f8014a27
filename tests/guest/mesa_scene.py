"""Guests with unmodified Debian Mesa, which look what their GPU can do and let a cube turn on their screens."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from guest.drm_scene import files as display_files
from guest.drm_scene import insert_modules
from guest.scene import eventually
from mdev_user.guests.display_kernel import DISK, DisplayKernel
from mdev_user.guests.mesa import MesaImage
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import Guest
from mdev_user.units import MiB

MEMORY = 384 * MiB
MODE = "640x480"
"""Of the cubes."""
_DISK = [f"/disk/{number}.ko" for number in range(len(DISK))]
_ENTER = f"""
set -e
for each in {" ".join(_DISK)}; do insmod $each; done
mkdir /mesa
mount -t squashfs -o ro /dev/vda /mesa
for each in dev proc sys; do mount -o bind /$each /mesa/$each; done
mount -t tmpfs tmp /mesa/tmp
mkfifo /run/nothing
"""
_INSIDE = "HOME=/tmp XDG_RUNTIME_DIR=/tmp PATH=/usr/bin exec chroot /mesa"
_CONSOLE = 9
"""A virtual terminal that nobody looks at: to one kmscube writes each line at once, and what it wrote can be read."""
_SECONDS = 120.0
_RENDERED = re.compile(r"Rendered (\d+) frames in ([\d.]+) sec")


class Frames(NamedTuple):
    """How many there were, in so many seconds."""

    total: int
    seconds: float


@dataclass(frozen=True)
class Desk:
    """A guest in which the programs of the Mesa image can be run; kmscube ends where its input does."""

    guest: Guest

    @classmethod
    def opened(cls, guest: Guest) -> Self:
        guest.boot()
        insert_modules(guest)
        guest.run(_ENTER)
        return cls(guest)

    def renderer(self) -> str:
        """What draws, in Mesa's words (``virgl (LLVMPIPE ...)``)."""
        told = self.guest.run(f"{_INSIDE} eglinfo -B -p gbm 2>&1", 120)
        found = re.search(r"OpenGL core profile renderer: (.*)", told)
        assert found is not None, told
        return found[1]

    def cube(self, frames: int) -> float:
        """The frames per second of a kmscube that draws so many."""
        told = self.guest.run(f"{_INSIDE} kmscube -v {MODE} -c {frames} <>/run/nothing 2>&1", 120)
        last = _last(told)
        assert last.total > 0, told
        return last.total / last.seconds

    def begin_cube(self) -> None:
        """In the background, until ``end_cube``. Returns when the first frames were drawn."""
        self.guest.run(f"({_INSIDE} kmscube -v {MODE}) <>/run/nothing >/dev/tty{_CONSOLE} 2>&1 & echo $! >/run/cube")
        self._told(lambda told: told.total > 0)

    def cube_rate(self, frames: int) -> float:
        """The frames per second of the cube in the background, from now on, over so many at least."""
        first = self._frames()
        begin = self._told(lambda told: told.total > first.total)
        end = self._told(lambda told: told.total >= begin.total + frames)
        return (end.total - begin.total) / (end.seconds - begin.seconds)

    def _told(self, right: Callable[[Frames], bool]) -> Frames:
        """What the cube in the background tells, every two seconds, once that is right."""
        told = [self._frames()]

        def look() -> bool:
            told.append(self._frames())
            return right(told[-1])

        eventually(look, _SECONDS)
        return told[-1]

    def _frames(self) -> Frames:
        return _last(self.guest.run(f"cat /dev/vcs{_CONSOLE}"))

    def end_cube(self) -> None:
        """It has let go of the card when this returns."""
        # Its number goes last: until then a thread of it may still have the card.
        self.guest.run("kill $(cat /run/cube); while [ -e /proc/$(cat /run/cube) ]; do usleep 50000; done")


def desk_guest(rig: Rig, kernel: DisplayKernel, image: MesaImage, socket: Path, program: bytes, drawn: bytes) -> Guest:
    """A guest for a desk, not yet started."""
    disk = {name: kernel.module(module) for name, module in zip(_DISK, DISK, strict=True)}
    inside = {**display_files(kernel, program, drawn), **disk}
    return Guest(kernel.of(rig), [socket], files=inside, arguments=image.arguments(), memory=MEMORY)


def _last(told: str) -> Frames:
    found = _RENDERED.findall(told)
    return Frames(int(found[-1][0]), float(found[-1][1])) if found else Frames(0, 1.0)
