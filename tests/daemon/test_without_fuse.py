"""Where FUSE cannot be had: the daemon says what to install, and the control socket serves everything."""

from uuid import uuid4

import pytest

from mdev_user.daemon.client import Refused
from mdev_user.testing.daemon import RunningDaemon

NO_DEVICE = "from pathlib import Path; import mdev_user.sysfs.mount as m; m._DEVICE = Path('/dev/fuse-is-absent')"
NO_LIBRARY = (
    "from pathlib import Path; import mdev_user.sysfs.mount as m; m._DEVICE = Path('/dev/null'); "
    "import ctypes.util; ctypes.util.find_library = lambda name: None"
)


@pytest.mark.parametrize(
    ("preamble", "cure"),
    [(NO_DEVICE, "modprobe fuse"), (NO_LIBRARY, "apt install libfuse3")],
    ids=["no /dev/fuse", "no libfuse3"],
)
def test_without_fuse_the_control_socket_serves_everything(preamble: str, cure: str) -> None:
    with RunningDaemon("mtty", preamble=preamble) as daemon:
        status = daemon.control.status()
        assert status.sysfs is None
        assert cure in status.sysfs_reason
        assert cure in daemon.log
        assert list(daemon.sys.iterdir()) == []
        uuid = uuid4()
        created = daemon.control.create("mtty-2", None, uuid)
        assert (created.uuid, created.state, created.sysfs) == (str(uuid), "active", None)
        assert {each.type: each.available_instances for each in daemon.control.types()} == {"mtty-1": 22, "mtty-2": 11}
        with daemon.guest(uuid) as guest:
            assert guest.region_read(1, 5, 1) == b"\x60"
            with pytest.raises(Refused, match="in use"):
                daemon.control.remove(uuid, wait=0, force=False)
        daemon.control.remove(uuid, wait=5, force=False)
        assert daemon.control.mdevs() == []
        daemon.control.register_parent("mtty,name=more")
        daemon.control.unregister_parent("more")
        assert daemon.stop() == 0


@pytest.mark.fuse
def test_with_fuse_there_is_a_tree_and_nothing_to_say(daemon: RunningDaemon) -> None:
    """The negative control of the test above."""
    status = daemon.control.status()
    assert (status.sysfs, status.sysfs_reason) == (str(daemon.sys), "")
    assert sorted(each.name for each in daemon.sys.iterdir()) == ["bus", "class", "dev", "devices", "kernel", "module"]
