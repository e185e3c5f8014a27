"""`mdev-user run` where it cannot: it says what is in the way, what to do, and ends with status 1."""

import os
import shutil
from collections.abc import Iterator

import pytest

from core import core_skip
from mdev_user.testing.daemon import RunningDaemon
from tools.running import command, finished, printed

pytestmark = pytest.mark.fuse

NO_FUSE = "from pathlib import Path; import mdev_user.sysfs.mount as m; m._DEVICE = Path('/dev/fuse-is-absent')"


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty") as daemon:
        yield daemon


def refusal(words: list[str]) -> str:
    done = finished(words)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_no_daemon() -> None:
    daemon = RunningDaemon()
    shutil.rmtree(daemon.folder)
    assert refusal(command(daemon, "--", "true")) == (
        f"mdev-user: no daemon at {daemon.run_dir.path}: start `mdev-user serve mtty`, or give its --run-dir DIR\n"
    )


def test_a_dead_daemon() -> None:
    with RunningDaemon() as daemon:
        daemon.kill()
        assert f"no daemon at {daemon.run_dir.path}" in refusal(command(daemon, "--", "true"))


def test_a_daemon_without_a_tree() -> None:
    with RunningDaemon(preamble=NO_FUSE) as daemon:
        assert "has no sysfs tree: /dev/fuse-is-absent is absent" in refusal(command(daemon, "--", "true"))


def test_events_of_a_daemon_that_cannot_be_asked() -> None:
    with RunningDaemon() as daemon:
        daemon.run_dir.control.unlink()
        said = refusal(command(daemon, "--events=private", "--", "true"))
    assert f"mdev-user: no uevents can be told: no daemon at {daemon.run_dir.path}" in said


def test_unknown_events_are_wrong_usage(daemon: RunningDaemon) -> None:
    done = finished(command(daemon, "--events=all", "--", "true"))
    assert done.returncode == 2
    assert "all" in done.stderr


# --- without the capability that mounting takes -------------------------------------------------------------------

WITHOUT_ADMIN = ["setpriv", "--bounding-set", "-sys_admin"]
NO_MORE = ["sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "sh"]


def without_admin() -> list[str]:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("takes a capability from root, with setpriv(1)")
    if finished([*WITHOUT_ADMIN, "unshare", "--user", "true"]).returncode:
        core_skip("user namespaces are forbidden here")
    return WITHOUT_ADMIN


def test_root_without_the_capability_takes_a_user_namespace(daemon: RunningDaemon) -> None:
    words = ["sh", "-c", "id -u; ls /sys/class/mdev_bus"]
    assert printed([*without_admin(), *command(daemon, "--", *words)]) == "0\nmtty\n"


def test_where_user_namespaces_are_forbidden_the_setting_is_named(daemon: RunningDaemon) -> None:
    unprivileged = without_admin()
    in_a_namespace = ["unshare", "--user", "--map-root-user", *NO_MORE]
    said = refusal([*in_a_namespace, *unprivileged, *command(daemon, "--", "true")])
    assert said == (
        "mdev-user: /sys cannot be composed here: expected root, or user namespaces for ordinary users, given "
        "unshare: No space left on device: as root, write something else than 0 to /proc/sys/user/max_user_namespaces; "
        "without `run` the tree is RUN/root/sys, and QEMU 10.1 or later uses an mdev by its socket "
        "(`mdev-user qemu-args`)\n"
    )
