"""Run in a guest that has a render node: vgpu's renderer, as on a host that has one. Prints what it drew."""

import fcntl
import json
import os
import re
from mmap import mmap

from drivers.virgl.stream import BGRA, clear, target
from guest import grouped
from mdev_user.driver.answers import answers_of
from mdev_user.drivers.vgpu.virgl.capsets import Capset
from mdev_user.drivers.vgpu.virgl.program import Virgl
from mdev_user.drivers.vgpu.virgl.shape import Box, Shape, Target
from mdev_user.host.program.process import ProgramProcess
from mdev_user.host.program.wire import start_message
from mdev_user.units import MiB
from mdev_user.vfio.programs import Launch

SIDE = 64
_PICTURE = Shape(Target.TEXTURE_2D, BGRA, 2 | 8, SIDE, SIDE, 1, 1, 0, 0, 0)
_ROOM = MiB
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def main() -> None:
    """Who draws, in its own words; the pixels of a picture that it cleared."""
    fd = os.memfd_create("pixels", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(fd, _ROOM)
    pixels = mmap(fd, _ROOM)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    launch = Launch("virgl", Virgl, (256 * MiB,), answers_of(Virgl), 768 * MiB, _ROOM, 120.0, 120.0, MiB, 5)
    one = ProgramProcess(launch, "guest", start_message(launch), fd, lambda _process, _error, _calls: None)
    one.begin(grouped.Pace())
    capsets = grouped.call(one, "capsets")
    assert isinstance(capsets, list), capsets
    print(json.dumps(renderer_of(capsets[-1])), flush=True)
    grouped.call(one, "create_resource", 1, _PICTURE)
    grouped.call(one, "create_context", 1, b"rendered")
    grouped.call(one, "attach", 1, 1)
    grouped.call(one, "submit", 1, target(1) + clear(1, 0.5, 0.25, 1))
    grouped.call(one, "picture", 1, Box(0, 0, 0, SIDE, SIDE, 1), 0)
    print(json.dumps(pixels[: SIDE * SIDE * 4].hex()), flush=True)
    os._exit(0)  # the guest has not all that an end of Python loads


def renderer_of(capset: Capset) -> str:
    """GL_RENDERER, as the second set has it."""
    found = re.findall(rb"[ -~]{8,}", capset.contents)
    return " ".join(each.decode() for each in found)
