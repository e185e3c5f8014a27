"""From mount to unmount: what is left, what a dead daemon leaves, and what the mounting process notices."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from mdev_user.errors import MountError
from mdev_user.sysfs import mountpoint
from mdev_user.sysfs.mount import Mount
from mdev_user.sysfs.tree import Tree
from sysfs.access import answer, read
from sysfs.mounted import Mounted, mounted_scene, temporary_mountpoint
from unit.sysfs.scene import PATIENCE

pytestmark = pytest.mark.fuse

SERVER = """
import sys, threading
from pathlib import Path
from mdev_user.sysfs.mount import Mount
from mdev_user.sysfs.tree import Tree
tree = Tree()
tree.add_directory("served")
Mount(tree, Path(sys.argv[1])).mount()
print("mounted", flush=True)
threading.Event().wait()
"""


@contextmanager
def server(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that serves a tree; killed at the end."""
    with subprocess.Popen([sys.executable, "-c", SERVER, str(root)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "mounted\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def root() -> Iterator[Path]:
    with temporary_mountpoint() as root:
        yield root


def kill_server(root: Path) -> None:
    with server(root) as process:
        process.kill()
        process.wait(PATIENCE)
    with pytest.raises(OSError, match="not connected"):
        root.stat()


def test_unmounting_leaves_an_empty_folder(root: Path) -> None:
    tree = Tree()
    tree.add_directory("here")
    mount = Mount(tree, root)
    for _ in range(3):
        mount.mount()
        assert [each.name for each in root.iterdir()] == ["here"]
        mount.unmount()
        assert list(root.iterdir()) == []
        mount.unmount()


def test_what_a_killed_daemon_left_is_detached(root: Path) -> None:
    kill_server(root)
    assert mountpoint.detach_stale(root)
    assert list(root.iterdir()) == []
    assert not mountpoint.detach_stale(root)


def test_mounting_cleans_up_after_a_killed_daemon(root: Path) -> None:
    for _ in range(2):
        kill_server(root)
    mount = Mount(Tree(), root)
    mount.mount()
    assert list(root.iterdir()) == []
    mount.unmount()


def test_without_the_clean_up_the_next_daemon_could_not_start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    kill_server(root)
    monkeypatch.setattr(mountpoint, "detach_stale", lambda _root: False)
    with pytest.raises((MountError, OSError)):
        Mount(Tree(), root).mount()


def test_the_place_of_a_living_daemon_is_refused_and_left_alone(root: Path) -> None:
    with server(root):
        with pytest.raises(MountError, match="another mdev-user serves"):
            Mount(Tree(), root).mount()
        assert [each.name for each in root.iterdir()] == ["served"]


def test_a_place_with_a_space_is_found_again(root: Path) -> None:
    place = root / "a b"
    try:
        kill_server(place)
        assert mountpoint.detach_stale(place)
    finally:
        mountpoint.detach(place)
        place.rmdir()


def test_the_folder_is_made_where_it_is_absent(root: Path) -> None:
    place = root / "deep/er"
    mount = Mount(Tree(), place)
    try:
        mount.mount()
        assert place.is_mount()
    finally:
        mount.unmount()
        place.rmdir()
        place.parent.rmdir()


def test_the_process_keeps_its_folder_and_its_signals(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    before = Path.cwd(), [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    status = Path("/proc/self/status").read_text().split("SigCgt:")[1].split()[0]
    mount = Mount(Tree(), root)
    mount.mount()
    try:
        assert Path.cwd() == before[0]
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == before[1]
        assert Path("/proc/self/status").read_text().split("SigCgt:")[1].split()[0] == status
    finally:
        mount.unmount()


def test_it_can_be_mounted_from_any_thread(root: Path) -> None:
    mount = Mount(Tree(), root)
    thread = Thread(target=mount.mount)
    thread.start()
    thread.join(PATIENCE)
    assert root.is_mount()
    mount.unmount()
    assert not root.is_mount()


def test_a_mount_in_use_is_taken_away_all_the_same() -> None:
    with mounted_scene() as mounted:
        fd = os.open(mounted / "bus", os.O_RDONLY | os.O_DIRECTORY)
        try:
            mounted.mount.unmount()
            assert not mounted.root.is_mount()
            assert answer(lambda: os.stat("mdev", dir_fd=fd)) in {-errno.ENOTCONN, -errno.ECONNABORTED}
        finally:
            os.close(fd)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_behind(mounted: Mounted) -> None:
    open_before = descriptors()
    for _ in range(50):
        assert read(mounted / "bus/mdev/drivers_autoprobe") == "1\n"
        assert mounted.names("bus")
    assert descriptors() == open_before


def test_a_server_ends_with_sigterm(root: Path) -> None:
    """libfuse would take the signal for itself and do nothing."""
    with server(root) as process:
        process.terminate()
        assert process.wait(PATIENCE) == -signal.SIGTERM
