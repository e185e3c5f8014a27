"""Guests that go: by kill -9, by poweroff, by unplugging; what is left of them, and who comes after."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import pytest

from guest.scene import (
    DATA_READY,
    DRIVERLESS,
    LSR,
    OLD,
    RBR,
    THR,
    Function,
    Scene,
    Tenant,
    eventually,
    functions,
    is_free,
    plugged,
    talking,
)
from mdev_user.guests import serial
from mdev_user.guests.rig import Rig
from mdev_user.guests.serial import Exchange
from mdev_user.guests.vm import Guest
from mdev_user.testing.daemon import RunningDaemon

pytestmark = pytest.mark.guest


@dataclass(frozen=True)
class Killed:
    """What a killed guest leaves behind: mdevs by their parent's name, with bytes in each."""

    mdevs: dict[str, UUID]
    held: list[bool]
    """For each of its mdevs: whether its register showed the bytes while the guest lived."""
    seconds: float
    """From its death until the daemon showed all mdevs as free."""
    neighbour: list[Exchange]
    """The conversations of a guest with another mdev of the same parent meanwhile."""


@pytest.fixture(scope="module")
def killed(rig: Rig, scene: Scene, daemon: RunningDaemon) -> Killed:
    mdevs = {parent: daemon.create("mtty-1", parent=parent) for parent in ("mtty", "unreset")}
    with Guest(rig, map(daemon.run_dir.socket, mdevs.values())) as guest:
        held = [leave_bytes(function) for function in functions(guest)]
        assert not any(is_free(daemon, each) for each in mdevs.values())
        with talking(scene.one) as talks:
            os.kill(guest.pid, signal.SIGKILL)
            seconds = until_free(daemon, *mdevs.values())
    return Killed(mdevs, held, seconds, talks)


def leave_bytes(function: Function) -> bool:
    function.write(THR, OLD)
    return bool(function.read(LSR) & DATA_READY)


def until_free(daemon: RunningDaemon, *mdevs: UUID) -> float:
    began = time.monotonic()
    eventually(lambda: all(is_free(daemon, each) for each in mdevs), 30)
    return time.monotonic() - began


def test_the_mdevs_of_a_killed_qemu_are_closed_within_a_second(killed: Killed) -> None:
    assert killed.seconds < 1.0


def test_a_killed_guests_neighbour_does_not_notice(killed: Killed) -> None:
    assert all(each.identical for each in killed.neighbour)


@pytest.fixture(scope="module")
def found(rig: Rig, killed: Killed, daemon: RunningDaemon) -> dict[str, bytes]:
    """What the next guest finds in the receiver of each mdev: nothing, or some bytes. Its 8250 driver clears none."""
    sockets = map(daemon.run_dir.socket, killed.mdevs.values())
    with Guest(rig, sockets, arguments=DRIVERLESS) as guest:
        assert serial.ports(guest) == []
        return {name: received(each) for name, each in zip(killed.mdevs, functions(guest), strict=True)}


def received(function: Function) -> bytes:
    function.enable()
    values = bytearray()
    while function.read(LSR) & DATA_READY and len(values) <= len(OLD):
        values.append(function.read(RBR))
    return bytes(values)


def test_the_next_guest_reads_no_old_byte(killed: Killed, found: dict[str, bytes]) -> None:
    assert all(killed.held)
    assert found["mtty"] == b""


def test_an_mdev_that_is_not_reset_shows_the_old_bytes(found: dict[str, bytes]) -> None:
    """The negative control."""
    assert found["unreset"] == OLD


@pytest.fixture(scope="module")
def heir(rig: Rig, killed: Killed, daemon: RunningDaemon) -> Iterator[Tenant]:
    """A new guest on the killed one's mdev."""
    mdevs = {"mtty": killed.mdevs["mtty"]}
    with Guest(rig, map(daemon.run_dir.socket, mdevs.values())) as guest:
        yield Tenant.booted(daemon, guest, mdevs)


def test_a_new_qemu_uses_the_mdev_of_a_killed_one(heir: Tenant) -> None:
    assert serial.pending(heir.guest, heir.ports["mtty"][0]) == b""
    assert heir.exchange(b"heir", 10_000).identical


def test_a_guest_that_is_reset_uses_its_mdev_again(heir: Tenant) -> None:
    opens = heir.daemon.control.mdev(heir.mdevs["mtty"]).counters["opens"]
    heir.guest.reset()
    status = serial.status(heir.guest, heir.ports["mtty"][0])
    assert (status.uart, status.sent, status.irq > 0) == ("16550A", 0, True)
    assert heir.converse("after the reset", 20).identical
    assert heir.daemon.control.mdev(heir.mdevs["mtty"]).counters["opens"] == opens  # the same connection


def test_a_poweroff_closes_the_mdev(heir: Tenant) -> None:
    heir.guest.shutdown()
    assert until_free(heir.daemon, heir.mdevs["mtty"]) < 1.0
    with heir.daemon.guest(heir.mdevs["mtty"]) as client:
        assert client.region_read(0, LSR, 1) == b"\x60"


def test_a_hot_plugged_mdev_works_and_can_be_unplugged(scene: Scene, daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1", parent="mtty")
    with plugged(daemon, scene.two.guest, uuid) as port:
        status = serial.status(scene.two.guest, port)
        assert (status.uart, status.irq > 0) == ("16550A", True), status.text
        assert serial.converse(scene.two.guest, port, "plugged", 5).identical
        assert serial.exchange(scene.two.guest, port, bytes(range(256)), 1000).identical
    assert until_free(daemon, uuid) < 1.0
    assert scene.two.converse("still here", 5).identical
    daemon.control.remove(uuid, wait=5, force=False)
