"""The end of a host process, while guests use the mdevs of its parents and of others."""

import os
import signal

import pytest

from guest.scene import LSR, Scene, Tenant, eventually, functions, talking
from mdev_user.errors import MdevUserError
from mdev_user.guests.console import GuestFailed
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import Guest
from mdev_user.testing.daemon import RunningDaemon

pytestmark = pytest.mark.guest


def test_a_killed_host_takes_its_own_mdevs_and_no_other_parents_guest_notices(
    rig: Rig, scene: Scene, daemon: RunningDaemon
) -> None:
    mdevs = {parent: daemon.create("mtty-1", parent=parent) for parent in ("other", "third")}
    with Guest(rig, map(daemon.run_dir.socket, mdevs.values())) as guest:
        victim = Tenant.booted(daemon, guest, mdevs)
        assert victim.exchange(b"before", 100, "other").identical
        assert victim.exchange(b"before", 100, "third").identical
        with talking(scene.one) as talks:
            os.kill(daemon.host_pids()["other"], signal.SIGKILL)
            # `third` lived in the same process: the control that another parent can notice such an end
            eventually(lambda: not {str(each) for each in mdevs.values()} & listed(daemon), 30)
        assert all(each.identical for each in talks)
        assert notices(guest), "the control: its own guest does"
        for uuid in mdevs.values():
            assert not daemon.run_dir.socket(uuid).exists()
            assert not (daemon.sys / "bus/mdev/devices" / str(uuid)).exists()
            with pytest.raises(MdevUserError, match=r"ENODEV|ENOENT"):
                daemon.control.mdev(uuid)
    assert scene.one.exchange(b"after", 1000).identical
    assert {str(each) for each in scene.one.mdevs.values()} <= listed(daemon)


def notices(guest: Guest) -> bool:
    """Nothing answers, which on PCI reads as all ones.

    Or QEMU has ended: 11.1 aborts where the other end dies with something unread, of which it reports the error twice.
    We leave nothing unread (`vfio_user.farewell`), but a process that is killed does.
    """
    try:
        return [each.read(LSR) for each in functions(guest)] == [0xFF, 0xFF]
    except GuestFailed as error:
        return "`*errp == NULL' failed" in str(error)


def test_a_parent_whose_host_was_killed_is_used_again(rig: Rig, daemon: RunningDaemon) -> None:
    eventually(lambda: "other" in daemon.host_pids(), 20)
    os.kill(old := daemon.host_pids()["other"], signal.SIGKILL)
    eventually(lambda: daemon.host_pids().get("other", old) != old, 20)
    uuid = daemon.create("mtty-1", parent="other")
    with Guest(rig, [daemon.run_dir.socket(uuid)]) as guest:
        tenant = Tenant.booted(daemon, guest, {"other": uuid})
        assert tenant.exchange(b"again", 100, "other").identical
    daemon.control.remove(uuid, wait=5, force=False)


def listed(daemon: RunningDaemon) -> set[str]:
    return {each.uuid for each in daemon.control.mdevs()}
