"""A screenshot of 1920x1080: its parts, what the daemon takes for it, and the whole command.

The parts are called here, in this process, as the host and the daemon call them: to copy the picture, for which its
guest has to wait, and to make a PNG of it. There are two pictures: one that looks like a desktop, and random pixels.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

from gpu_client import PICTURE, Guest, Updates
from gpu_scene import HEIGHT, PIXEL, WIDTH, Mdev
from programs import CannotMeasure
from served import Daemon

from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir
from mdev_user.daemon.screenshots import PictureFile, encoded
from mdev_user.driver import XR24
from mdev_user.host import pictures
from mdev_user.vfio.screens import Picture

_LINE = PIXEL * WIDTH
_TIMES = 5
"""What is short is done so often in a round; its median counts."""


@dataclass(frozen=True)
class Stages:
    """Milliseconds. ``compressed`` is ``asked`` with level 1."""

    taken: float
    encoded: float
    made: float
    """Both, one after the other."""
    asked: float
    compressed: float
    command: float
    megabytes: float
    """Of the file as it is compressed; without that its size is always the same."""


Measured = Mapping[str, Stages]
"""One round, by picture."""


class Screenshots:
    """A guest that shows a picture."""

    def __init__(self, stack: ExitStack, daemon: Daemon, folder: Path) -> None:
        self._mdev, self._run_dir, self._file = Mdev.created(daemon), daemon.run_dir, folder / "shot.png"
        self._client = Client(RunDir(daemon.run_dir))
        self._guest = Guest(str(self._mdev.socket), _LINE * HEIGHT, 0)
        self._guest.show(WIDTH, HEIGHT)
        self._pictures = {"desktop": desktop(), "random": Random(0).randbytes(_LINE * HEIGHT)}
        self._copies = PictureFile()
        stack.callback(self._copies.close)

    def round(self) -> Measured:
        return {name: self._stages(pixels) for name, pixels in self._pictures.items()}

    def _stages(self, pixels: bytes) -> Stages:
        self._draw(pixels)
        whole = Picture(WIDTH, HEIGHT, _LINE, XR24, pixels)
        uuid, copy = self._mdev.uuid, pictures._copied  # noqa: SLF001 - what a host does under the step lock
        copied = self._copies.picture(copy(self._copies.fd, whole))
        return Stages(
            _ms(lambda: copy(self._copies.fd, whole)),
            _ms(lambda: list(encoded(copied, 0, pointer=False).pieces)),
            _ms(lambda: (copy(self._copies.fd, whole), list(encoded(copied, 0, pointer=False).pieces))),
            _ms(lambda: self._client.screenshot(uuid, 0, 0)),
            _ms(lambda: self._client.screenshot(uuid, 0, 1), 1),
            _ms(self._command, 1),
            len(self._client.screenshot(uuid, 0, 1)) / 1e6,
        )

    def _draw(self, pixels: bytes) -> None:
        self._guest.memory[PICTURE : PICTURE + len(pixels)] = pixels
        updates = Updates(self._guest, WIDTH, HEIGHT, 1)
        while not updates.times:
            updates.go_on()

    def _command(self) -> None:
        run = [sys.executable, "-m", "mdev_user", "screenshot", "--run-dir", str(self._run_dir)]
        subprocess.run([*run, str(self._mdev.uuid), str(self._file)], check=True)
        if self._file.stat().st_size < 3 * WIDTH * HEIGHT:
            raise CannotMeasure("the screenshot is too small for its pixels")


def desktop() -> bytes:
    """A background that fades, windows of one colour each, and in them lines of what could be text."""
    lines = [b"".join(_fading(x, y) for x in range(WIDTH)) for y in range(0, HEIGHT, 8)]
    picture = bytearray(b"".join(line * 8 for line in lines))
    random = Random(1)
    for left, top, width, height, shade in ((60, 80, 900, 600, 250), (700, 300, 1000, 700, 240), (0, 0, WIDTH, 32, 40)):
        line = bytes((shade, shade, shade, 0)) * width
        for y in range(top, top + height):
            picture[_LINE * y + PIXEL * left : _LINE * y + PIXEL * (left + width)] = line
        for y in range(top + 8, top + height - 12, 20):
            _write(picture, random, left + 10, y, width - 20)
    return bytes(picture)


def _fading(x: int, y: int) -> bytes:
    return bytes((120 + 90 * y // HEIGHT, 60 + 60 * x // WIDTH, 40, 0))


def _write(picture: bytearray, random: Random, left: int, top: int, width: int) -> None:
    """A line of text, of letters that are 7 pixels wide and 11 high, of 26 kinds."""
    for x in range(left, left + width // 3 * random.randrange(1, 4), 8):
        letter = Random(random.randrange(32))  # some are blanks
        for y in range(top, top + 11):
            strokes = bytes(letter.choice((0, 0, 1)) for _ in range(7))
            at = _LINE * y + PIXEL * x
            for column, stroke in enumerate(strokes):
                if stroke:
                    picture[at + PIXEL * column : at + PIXEL * column + 3] = b"\x20\x20\x20"


def _ms(work: Callable[[], object], times: int = _TIMES) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return 1e3 * median(taken)
