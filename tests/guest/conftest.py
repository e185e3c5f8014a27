"""A real daemon, and two guests that share one of its parents, for every test that boots a real guest."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from guest.scene import BROKEN, HOTPLUG, Scene, Tenant
from mdev_user.guests.rig import Rig, find_rig
from mdev_user.guests.vm import Guest
from mdev_user.testing.daemon import RunningDaemon


@pytest.fixture(scope="session")
def rig() -> Rig:
    """The rig of this machine; never built here, since that takes a network and half a minute."""
    found = find_rig()
    if found is None:
        pytest.skip("no guest rig: `python -m mdev_user.guests` builds one")
    return found


@pytest.fixture(scope="session")
def daemon(rig: Rig) -> Iterator[RunningDaemon]:
    """Three sound parents, ``third`` in the host process of ``other``, and the broken ones in a host of their own."""
    broken = [f"{BROKEN}:{name},host=broken" for name in ("Crossed", "Mute", "Unreset")]
    with RunningDaemon("mtty", "mtty,name=other", "mtty,name=third,host=other", *broken) as running:
        yield running


@pytest.fixture(scope="session")
def scene(rig: Rig, daemon: RunningDaemon) -> Iterator[Scene]:
    """Two guests on the parent ``mtty``: one port in A, two in B. Each has mdevs of broken parents beside it."""
    one = {"mtty": daemon.create("mtty-1", parent="mtty"), "mute": daemon.create("mtty-1", parent="mute")}
    two = {"mtty": daemon.create("mtty-2", parent="mtty")}
    for mdevs in (one, two):
        mdevs["crossed"] = daemon.create("mtty-1", parent="crossed")
    with ExitStack() as stack:
        guests = [Guest(rig, map(daemon.run_dir.socket, mdevs.values()), arguments=HOTPLUG) for mdevs in (one, two)]
        for guest in guests:
            stack.callback(guest.close)
            guest.start()
        yield Scene(*(Tenant.booted(daemon, guest, mdevs) for guest, mdevs in zip(guests, (one, two), strict=True)))
