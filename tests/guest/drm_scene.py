"""Guests whose stock DRM driver shows what our program tells it to show, and what must then be on their screens."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from struct import unpack_from
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self
from uuid import UUID

from guest.compiler import compile_static
from guest.scene import eventually
from mdev_user.daemon.client import Client
from mdev_user.errors import MdevUserError
from mdev_user.guests.display_kernel import VIRTIO_GPU, DisplayKernel
from mdev_user.guests.vm import Guest
from mdev_user.units import MiB

PROGRAM, PIXELS, MODULES = "/drm_program", "/pixels", "/modules"
BYTES = 6 * MiB
"""Of what a guest draws: enough for a picture of 1024x768 to begin at many places."""
PIXEL = 4
SECONDS = 30.0
"""For a picture to be there: the driver does not wait for the display after each redraw."""
_COLOURS = 3


class Screen(NamedTuple):
    """What is on a head; ``rgb`` has three bytes for each pixel."""

    width: int
    height: int
    rgb: bytes


Look = Callable[[int], Screen | None]
"""What is on a head, by its number; None where nothing is shown."""


def compiled_program() -> bytes:
    """The program ``drm_program.c``."""
    with TemporaryDirectory() as folder:
        compile_static(Path(__file__).with_name("drm_program.c"), target := Path(folder) / "drm_program")
        return target.read_bytes()


def pixels(number: int) -> bytes:
    """What the guest with this number draws: like nothing that another one draws."""
    return Random(number).randbytes(BYTES)


def files(kernel: DisplayKernel, program: bytes, drawn: bytes) -> dict[str, bytes]:
    """What such a guest has in its initramfs."""
    modules = {f"{MODULES}/{number}.ko": kernel.module(name) for number, name in enumerate(VIRTIO_GPU)}
    return {**modules, PROGRAM: program, PIXELS: drawn}


def insert_modules(guest: Guest) -> None:
    """The stock driver takes what it finds."""
    guest.run(f"set -e; chmod +x {PROGRAM}; for each in {MODULES}/*.ko; do insmod $each; done")


@dataclass
class Canvas:
    """What has to be on a head, as the guest has it in memory: blue, green, red and a byte that nobody sees."""

    width: int
    height: int
    bgrx: bytearray

    def draw(self, x: int, y: int, width: int, height: int, drawn: bytes) -> None:
        for row in range(height):
            at = PIXEL * ((y + row) * self.width + x)
            self.bgrx[at : at + PIXEL * width] = drawn[PIXEL * width * row : PIXEL * width * (row + 1)]

    def screen(self) -> Screen:
        return Screen(self.width, self.height, rgb_of(self.bgrx))


@dataclass
class Painter:
    """The program in a guest, holding one card, and what has to be on the card's heads. None: nothing is shown."""

    guest: Guest
    card: int
    drawn: bytes
    look: Look
    heads: dict[int, Canvas | None] = field(default_factory=dict)

    @classmethod
    def started(cls, guest: Guest, card: int, drawn: bytes, look: Look) -> Self:
        guest.run(f"{PROGRAM} serve card{card} {PIXELS} /run/card{card}")
        return cls(guest, card, drawn, look)

    def tell(self, *words: object, seconds: float = 60.0) -> str:
        """What the program answers; GuestCommandError where the kernel refuses it."""
        return self.guest.run(f"{PROGRAM} tell /run/card{self.card} {' '.join(map(str, words))}", seconds)

    def modes(self, head: int = 0) -> list[str]:
        """Sizes, the preferred one first; none where there is no monitor."""
        return self.tell("modes", head).split()[1:]

    def show(self, width: int, height: int, start: int, head: int = 0) -> None:
        self.tell("show", head, f"{width}x{height}", start)
        self.heads[head] = Canvas(width, height, bytearray(self._drawn(width, height, start)))

    def draw(self, place: tuple[int, int, int, int], start: int, head: int = 0) -> None:
        """Redraw ``x, y, width, height``."""
        x, y, width, height = place
        self.tell("draw", head, f"{width}x{height}+{x}+{y}", start)
        self._canvas(head).draw(x, y, width, height, self._drawn(width, height, start))

    def flip(self, start: int, head: int = 0) -> None:
        self.tell("flip", head, start)
        canvas = self._canvas(head)
        canvas.draw(0, 0, canvas.width, canvas.height, self._drawn(canvas.width, canvas.height, start))

    def off(self, head: int = 0) -> None:
        self.tell("off", head)
        self.heads[head] = None

    def end(self) -> None:
        """The program lets go of the card."""
        self.tell("quit")

    def expected(self, head: int) -> Screen | None:
        canvas = self.heads.get(head)
        return canvas.screen() if canvas else None

    def check(self, seconds: float = SECONDS) -> None:
        """Every head shows exactly what it has to; AssertionError saying what is otherwise."""
        for head in self.heads:
            await_screen(partial(self.look, head), self.expected(head), f"card {self.card}, head {head}", seconds)

    def check_dark(self, head: int = 0) -> None:
        await_screen(partial(self.look, head), None, f"card {self.card}, head {head}")

    def _canvas(self, head: int) -> Canvas:
        canvas = self.heads[head]
        assert canvas is not None, f"nothing is shown on head {head}"
        return canvas

    def _drawn(self, width: int, height: int, start: int) -> bytes:
        return self.drawn[start : start + PIXEL * width * height]


def await_screen(
    look: Callable[[], Screen | None], expected: Screen | None, where: str, seconds: float = SECONDS
) -> None:
    """Wait until this is there."""
    seen: list[Screen | None] = [None]

    def same() -> bool:
        seen[0] = look()
        return seen[0] == expected

    try:
        eventually(same, seconds)
    except AssertionError:
        raise AssertionError(f"{where}: {difference(seen[0], expected)}") from None


def difference(seen: Screen | None, expected: Screen | None) -> str:
    """In words: of two pictures of one size, how many pixels differ, and the first that does."""
    if seen is None or expected is None or seen[:2] != expected[:2]:
        sizes = ["nothing" if each is None else f"{each.width}x{each.height}" for each in (seen, expected)]
        return f"it shows {sizes[0]}, expected {sizes[1]}"
    count = len(expected.rgb) // _COLOURS
    wrong = [at for at in range(count) if seen.rgb[3 * at : 3 * at + 3] != expected.rgb[3 * at : 3 * at + 3]]
    first = divmod(wrong[0], expected.width)[::-1] if wrong else None
    return f"{len(wrong)} of {count} pixels differ, the first at {first}"


def rgb_of(bgrx: bytes | bytearray) -> bytes:
    rgb = bytearray(len(bgrx) // PIXEL * _COLOURS)
    for colour in range(_COLOURS):
        rgb[colour::_COLOURS] = bgrx[2 - colour :: PIXEL]
    return bytes(rgb)


def mdev_look(control: Client, uuid: UUID, *, pointer: bool = False) -> Look:
    """By the daemon's screenshots."""

    def look(head: int) -> Screen | None:
        try:
            return screen_of_png(control.screenshot(uuid, head, pointer=pointer))
        except MdevUserError as error:
            if "shows nothing" not in str(error):
                raise
            return None

    return look


def qemu_look(guest: Guest, device: str) -> Look:
    """By QEMU's own, of one of its devices; for a head that is off it draws a few white words on black."""

    def look(head: int) -> Screen | None:
        with TemporaryDirectory() as folder:
            guest.qmp.execute("screendump", {"filename": f"{folder}/ppm", "device": device, "head": head})
            screen = screen_of_ppm((Path(folder) / "ppm").read_bytes())
        return screen if screen.rgb.count(0) < len(screen.rgb) // 2 else None

    return look


def screen_of_ppm(data: bytes) -> Screen:
    kind, size, _most, rgb = data.split(b"\n", 3)
    assert kind == b"P6"
    width, height = map(int, size.split())
    return Screen(width, height, rgb)


def screen_of_png(data: bytes) -> Screen:
    """Of one that has 8 bits of red, green and blue, and no filters."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks = _chunks(data)
    width, height, bits, kind = unpack_from(">IIBB", chunks[b"IHDR"])
    assert (bits, kind) == (8, 2)
    lines, pitch = zlib.decompress(chunks[b"IDAT"]), 1 + _COLOURS * width
    assert not any(lines[::pitch]), "a line is filtered"
    return Screen(width, height, b"".join(lines[pitch * row + 1 : pitch * (row + 1)] for row in range(height)))


def _chunks(data: bytes) -> Mapping[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        length, kind = unpack_from(">I4s", data, at)
        found[kind] = found.get(kind, b"") + data[at + 8 : at + 8 + length]
        at += 12 + length
    return found
