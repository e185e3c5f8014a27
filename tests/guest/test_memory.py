"""Whether a guest's RAM is shared with the daemon, as the daemon sees it."""

from collections.abc import Iterator

import pytest

from guest.scene import Scene, eventually
from mdev_user.daemon.views import MdevDetail
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import DEFAULT_MEMORY, Guest
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.units import MiB

pytestmark = pytest.mark.guest

PRIVATE = (
    *("-object", f"memory-backend-ram,id=private,size={DEFAULT_MEMORY // MiB}M"),
    *("-machine", "memory-backend=private"),  # instead of the shared one, since it comes later
)


@pytest.fixture
def private(rig: Rig, daemon: RunningDaemon) -> Iterator[MdevDetail]:
    """An mdev as it is shown once a QEMU with private RAM has mapped that; the guest's kernel is not waited for."""
    uuid = daemon.create("mtty-1", parent="mtty")
    guest = Guest(rig, [daemon.run_dir.socket(uuid)], arguments=PRIVATE)
    try:
        guest.start()
        eventually(lambda: daemon.control.mdev(uuid).warnings, 20)
        yield daemon.control.mdev(uuid)
    finally:
        guest.close()
        daemon.control.remove(uuid, wait=5, force=False)


def test_private_ram_is_shown_with_its_cure(private: MdevDetail) -> None:
    (warning,) = private.warnings
    assert "MiB of the guest's memory is not shared" in warning
    assert "share=on" in warning
    assert private.client is not None
    assert private.client.unshared_memory >= DEFAULT_MEMORY // 2


def test_shared_ram_is_not_warned_of(scene: Scene) -> None:
    """The negative control. Roms and the like are never shared."""
    for tenant in scene:
        detail = tenant.daemon.control.mdev(tenant.mdevs["mtty"])
        assert detail.warnings == []
        assert detail.client is not None
        assert detail.client.unshared_memory < MiB
