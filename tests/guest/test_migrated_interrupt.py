"""A guest is stopped and moved while QEMU holds an INTx line up that the device has let go: it gets one interrupt.

QEMU's line comes along with the guest, and that it waits for the guest to look does not. Of a line that nobody raises
again the guest has interrupts without end, until Linux turns the line off ("nobody cared").
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest

from daemon.support import PARENTS
from guest.scene import eventually
from guest.test_live_migration import INCOMING, SECONDS, launcher
from mdev_user.guests import serial
from mdev_user.guests.arguments import MDEVS
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import Guest
from mdev_user.testing.daemon import RunningDaemon

pytestmark = [pytest.mark.guest, pytest.mark.fuse]

STORM = 1000
"""Interrupts that no guest needs to look at one."""


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    yield made
    shutil.rmtree(made)


@contextmanager
def machine(rig: Rig, daemon: RunningDaemon, uuid: UUID, *more: str) -> Iterator[Guest]:
    device = f"vfio-pci,sysfsdev={MDEVS}/{uuid},enable-migration=on"
    guest = Guest(rig, arguments=["-device", device, *more], launcher=launcher(daemon))
    try:
        guest.start()
        yield guest
    finally:
        guest.close()


def interrupts_of_a_moved_line(rig: Rig, daemon: RunningDaemon, folder: Path) -> int:
    """How many a guest has had after the move that it did not have before, once it does something with the port."""
    here, there = (daemon.create("pulses-1", parent=parent) for parent in ("here", "there"))
    inject = daemon.sys / f"bus/mdev/devices/{here}/vendor/inject"
    with machine(rig, daemon, here) as source, machine(rig, daemon, there, *INCOMING) as target:
        source.boot()
        port = serial.ports(source)[0]
        irq = serial.status(source, port).irq
        source.run(f"exec 3<>/dev/{port}; stty raw -echo <&3; sleep 1000 <&3 >/dev/null 2>&1 &")  # keeps it open
        before = serial.interrupt_count(source, irq)
        source.qmp.execute("stop")
        for text in "10":
            inject.write_text(text)  # QEMU raises its line, and the device lowers its own
        move(source, target, f"unix:{folder}/m")
        target.qmp.execute("cont")
        eventually(lambda: serial.interrupt_count(target, irq) > before, SECONDS)
        target.run("sleep 1")
        return serial.interrupt_count(target, irq) - before


def move(source: Guest, target: Guest, uri: str) -> None:
    target.qmp.execute("migrate-incoming", {"uri": uri})
    source.qmp.execute("migrate", {"uri": uri})

    def is_over() -> bool:
        told = source.qmp.execute("query-migrate")
        assert isinstance(told, dict)
        assert told.get("status") != "failed", told
        return told.get("status") == "completed"

    eventually(is_over, SECONDS)


def test_line_that_came_along_interrupts_once(rig: Rig, folder: Path) -> None:
    with RunningDaemon(*(f"{PARENTS}/pulsed.py:Pulses,name={name}" for name in ("here", "there"))) as daemon:
        assert interrupts_of_a_moved_line(rig, daemon, folder) < STORM


def test_it_would_without_end(rig: Rig, folder: Path) -> None:
    """The negative control."""
    pulses = f"{PARENTS}/pulsed.py:Pulses"
    with RunningDaemon(f"{pulses},name=here", f"{pulses},name=there,silent=true") as daemon:
        assert interrupts_of_a_moved_line(rig, daemon, folder) > STORM
