"""What a daemon says to whoever asks for what it has not, and of itself when it ends."""

import signal
from uuid import uuid4

import pytest

from mdev_user.daemon.client import Refused
from mdev_user.testing.daemon import DaemonFailed, RunningDaemon


def test_a_type_that_no_parent_has_is_told_with_those_there_are(daemon: RunningDaemon) -> None:
    with pytest.raises(Refused, match=r"^no parent has the type mtty-9; there are: mtty-1, mtty-2 \(EINVAL\)$"):
        daemon.control.create("mtty-9", None, None)


def test_a_pool_that_is_used_up_is_told_with_the_whole_type_and_the_cure() -> None:
    with RunningDaemon("mtty,ports=1") as daemon:
        daemon.create("mtty-1")
        with pytest.raises(Refused, match=r"^mtty-1 takes 1 of ports, 0 are free: remove an mdev of this parent first"):
            daemon.create("mtty-1")
        with pytest.raises(Refused, match=r"^mtty-2 .*: the parent has 1 in all; register it with ports=2 or more"):
            daemon.create("mtty-2")


def test_a_type_that_several_parents_have_wants_one_of_them(daemon: RunningDaemon) -> None:
    daemon.control.register_parent("mtty,name=more")
    expected = "expected one parent with the type mtty-1, there are: mtty, more; name one with --parent"
    with pytest.raises(Refused, match=expected):
        daemon.control.create("mtty-1", None, None)
    daemon.control.unregister_parent("more")


def test_an_mdev_that_is_not_there_is_told_with_where_to_look(daemon: RunningDaemon) -> None:
    uuid = uuid4()
    expected = rf"^no mdev {uuid}: `mdev-user list` shows those there are \(ENODEV\)$"
    with pytest.raises(Refused, match=expected):
        daemon.control.mdev(uuid)
    with pytest.raises(Refused, match=expected):
        daemon.control.remove(uuid, wait=0, force=False)


@pytest.mark.parametrize(("mdevs", "told"), [(0, ""), (1, ": 1 mdev;"), (2, ": 2 mdevs;")])
def test_the_end_is_logged_with_what_it_takes_along(mdevs: int, told: str) -> None:
    with RunningDaemon("mtty") as daemon:
        for _ in range(mdevs):
            daemon.create("mtty-1")
        assert daemon.stop(signal.SIGTERM) == 0
        assert " I serving 1 parent; run directory " in daemon.log
        assert " I ending: SIGTERM came\n" in daemon.log
        assert f" W what ends with the daemon{told}" in daemon.log if mdevs else " W what ends" not in daemon.log


def test_a_socket_that_cannot_be_bound_names_the_run_directory() -> None:
    daemon = RunningDaemon("mtty")
    daemon.run_dir.path.mkdir(mode=0o700)
    daemon.run_dir.control.mkdir()
    with pytest.raises(DaemonFailed, match=rf"cannot serve: run directory {daemon.run_dir.path} cannot be used: "):
        daemon.__enter__()
