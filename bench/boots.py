"""A guest without devices, booted with and without `run`: what the supervisor costs a QEMU that does not need it."""

import time
from collections.abc import Sequence

import meter
from served import served

from mdev_user.guests.arguments import run_command
from mdev_user.guests.rig import Rig, find_rig
from mdev_user.guests.vm import Guest


def measure(boots: int) -> list[tuple[float, float]]:
    """Seconds until the guest takes commands: alone, and under `run`. Nothing where there is no guest rig."""
    rig = find_rig()
    if rig is None:
        return []
    with served([f"{meter.__file__}:Meters,name=boots"]) as daemon:
        return [(_boot(rig, ()), _boot(rig, run_command(daemon.run_dir))) for _ in range(boots)]


def _boot(rig: Rig, launcher: Sequence[str]) -> float:
    began = time.monotonic()
    with Guest(rig, launcher=launcher):
        return time.monotonic() - began
