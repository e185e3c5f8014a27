"""Guests that go: by kill -9, by poweroff, by unplugging; what is left of them, and who comes after."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import pytest

from guest.scene import (
    DATA_READY,
    HOTPLUG,
    LSR,
    OLD,
    RBR,
    THR,
    Scene,
    Tenant,
    eventually,
    functions,
    is_free,
    meanwhile,
    plugged,
)
from mdev_user.guests import serial
from mdev_user.guests.rig import Rig
from mdev_user.guests.serial import Exchange
from mdev_user.guests.vm import Guest
from mdev_user.testing.daemon import RunningDaemon

pytestmark = pytest.mark.guest


@dataclass(frozen=True)
class Killed:
    """What a killed guest leaves behind: two mdevs of ``mtty`` and one that is never reset, with bytes in each."""

    inherited: UUID
    plugged: UUID
    unreset: UUID
    held: list[bool]
    """For each of its mdevs: whether its register showed the bytes while the guest lived."""
    seconds: float
    """From its death until the daemon showed all mdevs as free."""
    neighbour: Exchange
    """What a guest with another mdev of the same parent sent and received meanwhile."""


@pytest.fixture(scope="module")
def killed(rig: Rig, scene: Scene, daemon: RunningDaemon) -> Killed:
    mdevs = [daemon.create("mtty-1", parent=parent) for parent in ("mtty", "mtty", "unreset")]
    with Guest(rig, map(daemon.run_dir.socket, mdevs)) as guest:
        held = [leave_bytes(function) for function in functions(guest)]
        with meanwhile(partial(scene.one.converse, "I go on", 40)) as talk:
            os.kill(guest.pid, signal.SIGKILL)
            seconds = until_free(daemon, *mdevs)
    return Killed(*mdevs, held, seconds, talk.result())


def leave_bytes(function) -> bool:
    function.write(THR, OLD)
    return bool(function.read(LSR) & DATA_READY)


def until_free(daemon: RunningDaemon, *mdevs: UUID) -> float:
    began = time.monotonic()
    eventually(lambda: all(is_free(daemon, each) for each in mdevs), 10)
    return time.monotonic() - began


def test_the_mdevs_of_a_killed_qemu_are_closed_within_a_second(killed: Killed) -> None:
    assert killed.seconds < 1.0


def test_a_killed_guests_neighbour_does_not_notice(killed: Killed) -> None:
    assert killed.neighbour.identical


def test_the_next_guest_reads_no_old_byte(killed: Killed, scene: Scene, daemon: RunningDaemon) -> None:
    """Hot-plugged, without a driver, which would clear the FIFO."""
    assert all(killed.held)
    with plugged(daemon, scene.two.guest, killed.plugged) as function:
        assert not function.read(LSR) & DATA_READY
        assert function.read(RBR) == 0


def test_an_mdev_that_is_not_reset_shows_the_old_bytes(killed: Killed, scene: Scene, daemon: RunningDaemon) -> None:
    """The negative control."""
    with plugged(daemon, scene.two.guest, killed.unreset) as function:
        assert function.read(LSR) & DATA_READY
        assert bytes(function.read(RBR) for _ in OLD) == OLD


def test_a_hot_plugged_mdev_works_and_can_be_unplugged(killed: Killed, scene: Scene, daemon: RunningDaemon) -> None:
    guest = scene.two.guest
    before = serial.ports(guest)
    with plugged(daemon, guest, killed.plugged) as function:
        function.bind("serial")
        (port,) = set(serial.ports(guest)) - set(before)
        assert serial.converse(guest, port, "plugged", 5).identical
        assert serial.exchange(guest, port, bytes(range(256)), 1000).identical
    assert serial.ports(guest) == before
    assert until_free(daemon, killed.plugged) < 1.0
    assert scene.two.converse("still here", 5).identical


@pytest.fixture(scope="module")
def heir(rig: Rig, killed: Killed, daemon: RunningDaemon) -> Iterator[Tenant]:
    """A new guest on the killed one's mdev. A reset makes QEMU start it again, not end."""
    arguments = (*HOTPLUG, "-action", "reboot=reset")
    with Guest(rig, [daemon.run_dir.socket(killed.inherited)], arguments=arguments) as guest:
        yield Tenant.booted(daemon, guest, {"mtty": killed.inherited})


def test_a_new_qemu_uses_the_mdev_of_a_killed_one(heir: Tenant) -> None:
    assert serial.pending(heir.guest, heir.ports["mtty"][0]) == b""
    assert heir.exchange(b"heir", 10_000).identical


def test_a_guest_that_is_reset_uses_its_mdev_again(heir: Tenant) -> None:
    opens = heir.daemon.control.mdev(heir.mdevs["mtty"]).counters["opens"]
    assert leave_bytes(functions(heir.guest)[0])
    heir.guest.qmp.execute("system_reset")
    heir.guest.boot()
    status = serial.status(heir.guest, heir.ports["mtty"][0])
    assert (status.uart, status.sent, status.irq > 0) == ("16550A", 0, True)
    assert heir.converse("after the reset", 20).identical
    assert heir.daemon.control.mdev(heir.mdevs["mtty"]).counters["opens"] == opens  # the same connection


def test_a_poweroff_closes_the_mdev(heir: Tenant) -> None:
    heir.guest.shutdown()
    assert until_free(heir.daemon, heir.mdevs["mtty"]) < 1.0
    with heir.daemon.guest(heir.mdevs["mtty"]) as client:
        assert client.region_read(0, LSR, 1) == b"\x60"
