"""Ours beside QEMU's own virtio-gpu: one guest with both cards, whose stock driver flips full screens on each in turn.

A flip is a TRANSFER_TO_HOST_2D and a FLUSH, and the guest waits for its fence. The guest is emulated, so most of the
time is its own; both cards have the same kernel, driver and program.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

from gpu_scene import PARENT, Mdev
from served import served

from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir
from mdev_user.guests.display_kernel import find_display_kernel
from mdev_user.guests.rig import find_rig
from mdev_user.guests.vm import Guest
from mdev_user.units import MiB

_TESTS = Path(__file__).parent.parent / "tests"
_KIND = "vgpu-GVTg_V5_4"
_SIZE = (1920, 1200)
"""That type's monitor."""
_REFERENCE = (*("-device", f"virtio-gpu-pci,id=reference,addr=0x10,max_outputs=1,xres={_SIZE[0]},yres={_SIZE[1]}"),)
"""Behind the mdev on the bus, so that it is the second card."""
_MEMORY, _MS = 512 * MiB, 2000


class _Painter(Protocol):
    def tell(self, *words: object) -> str: ...


@dataclass(frozen=True)
class Measured:
    """One round: full-screen flips a second."""

    ours: float
    qemus: float


def measure(rounds: int) -> Sequence[Measured]:
    """Nothing where there is no guest rig, or no kernel that has the driver."""
    rig, kernel = find_rig(), find_display_kernel()
    if rig is None or kernel is None:
        return []
    sys.path.insert(0, str(_TESTS))
    from guest import drm_scene as scene  # noqa: PLC0415 - the tests' own, which are not where bench looks

    drawn = Random(0).randbytes(4 * _SIZE[0] * _SIZE[1])
    with served([PARENT]) as daemon, ExitStack() as stack:
        mdev = Mdev.created(daemon, _KIND)
        files = scene.files(kernel, scene.compiled_program(), drawn)
        guest = Guest(kernel.of(rig), [mdev.socket], memory=_MEMORY, files=files, arguments=_REFERENCE)
        stack.callback(guest.close)
        guest.boot()
        scene.insert_modules(guest)
        looks = (scene.mdev_look(Client(RunDir(daemon.run_dir)), mdev.uuid), scene.qemu_look(guest, "reference"))
        painters = [scene.Painter.started(guest, card, drawn, look) for card, look in enumerate(looks)]
        for painter in painters:
            painter.show(*_SIZE, 0)
            painter.check()
        return [Measured(*(_flips(painter) for painter in painters)) for _ in range(rounds)]


def _flips(painter: _Painter) -> float:
    count, microseconds = map(int, painter.tell("frames", 0, _MS).split())
    return count / microseconds * 1e6
