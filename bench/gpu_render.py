"""A guest of one vgpu, without the guest, that has its GPU clear a texture, and reads it back.

``gpu_render.py SOCKET WIDTH HEIGHT`` does as many as each line on stdin says, one after the other: SUBMIT_3D with a
clear, then TRANSFER_FROM_HOST_3D, each when the other has come back. The answer is a line of JSON: nanoseconds of a
round trip. ``gpu_render.py SOCKET WIDTH HEIGHT busy`` clears all the time, and prints nothing.
"""

import json
import os
import struct
import sys
import time
from statistics import quantiles

from gpu_client import ENTRIES, PICTURE, Guest

_CREATE_CONTEXT, _USE, _CREATE_3D, _FROM_HOST, _SUBMIT, _ATTACH = 0x200, 0x202, 0x204, 0x206, 0x207, 0x106
_TEXTURE_2D, _BGRA, _TARGET_AND_VIEW = 2, 1, 2 | 8
_NUMBER, _SURFACE = 10, 5
_CREATE_OBJECT, _SET_FRAMEBUFFER, _CLEAR, _KIND_SURFACE, _COLOUR = 1, 5, 7, 8, 4
_AT_ONCE = 8
"""Of the one that is busy."""


class Renderer(Guest):
    """With a texture that its context draws into."""

    features, context = 1, 7

    def __init__(self, path: str, width: int, height: int) -> None:
        self._size = width, height, 1
        size = 4 * width * height
        super().__init__(path, size, 0)
        self.do(_CREATE_CONTEXT, "2I64x", 0, 0)
        self.do(_CREATE_3D, "11I4x", _NUMBER, _TEXTURE_2D, _BGRA, _TARGET_AND_VIEW, width, height, 1, 1, 0, 0, 0)
        self.memory[ENTRIES : ENTRIES + 16] = struct.pack("<QI4x", PICTURE, size)
        self.do(_ATTACH, "2I", _NUMBER, 1, more=16)
        self.do(_USE, "I4x", _NUMBER)
        surface = _command(_CREATE_OBJECT, _KIND_SURFACE, _SURFACE, _NUMBER, _BGRA, 0, 0)
        self._write(surface + _command(_SET_FRAMEBUFFER, 0, 1, 0, _SURFACE))
        self.do(_SUBMIT, "I4x", self._written, more=self._written)

    def clear(self, blue: int) -> None:
        """With an opaque colour that has so much blue, and nothing else."""
        self.offer_clear(blue)
        self.kick()
        self.wait()

    def read_back(self) -> None:
        self.do(_FROM_HOST, "6IQ4I", 0, 0, 0, *self._size, 0, _NUMBER, 0, 0, 0)

    def offer_clear(self, blue: int) -> None:
        colour = struct.unpack("<4I", struct.pack("<4f", 0, 0, blue / 255, 1))
        self._write(_command(_CLEAR, 0, _COLOUR, *colour, 0, 0, 0))
        self.offer(_SUBMIT, "I4x", self._written, more=self._written)

    def wait(self) -> None:
        while not self.taken():
            os.read(self.wakes, 8)

    def check(self, blue: int) -> None:
        """The first and the last pixel."""
        width, height, _depth = self._size
        for at in (0, 4 * (width * height - 1)):
            pixel = self.memory[PICTURE + at : PICTURE + at + 4]
            if pixel != bytes((blue, 0, 0, 255)):
                raise SystemExit(f"the texture is not of the colour that it was cleared with: {pixel.hex()}")

    def _write(self, commands: bytes) -> None:
        self.memory[ENTRIES : ENTRIES + len(commands)] = commands
        self._written = len(commands)


def _command(kind: int, part: int, *words: int) -> bytes:
    """Of the virgl protocol: ``part`` is the kind of object that it is about."""
    return struct.pack(f"<{len(words) + 1}I", kind | part << 8 | len(words) << 16, *words)


def _round(renderer: Renderer, count: int) -> dict[str, float]:
    times = []
    for number in range(count):
        blue = number % 255 + 1
        began = time.monotonic_ns()
        renderer.clear(blue)
        renderer.read_back()
        times.append(time.monotonic_ns() - began)
        renderer.check(blue)
    parts = quantiles(times, n=100, method="inclusive")
    return {"p50": parts[49], "p99": parts[98]}


def _draw(renderer: Renderer) -> None:
    for _ in range(_AT_ONCE):
        renderer.offer_clear(1)
    renderer.kick()
    while True:
        os.read(renderer.wakes, 8)
        for _ in range(renderer.taken()):
            renderer.offer_clear(1)
        renderer.kick()


def main() -> None:
    path, width, height, *rest = sys.argv[1:]
    renderer = Renderer(path, int(width), int(height))
    if rest:
        _draw(renderer)
    for line in sys.stdin:
        print(json.dumps(_round(renderer, int(line))), flush=True)


if __name__ == "__main__":
    main()
