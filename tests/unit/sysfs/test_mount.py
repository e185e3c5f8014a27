"""What must be there before a mount: each thing that is missing is named with its cure."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mdev_user.errors import MountError
from mdev_user.sysfs import mount, mountpoint
from mdev_user.sysfs.mount import Mount, check_preconditions
from mdev_user.sysfs.tree import Tree

Patch = pytest.MonkeyPatch


def no_device(patch: Patch, tmp_path: Path) -> None:
    patch.setattr(mount, "_DEVICE", tmp_path / "absent")


def no_access(patch: Patch, tmp_path: Path) -> None:
    patch.setattr("os.access", lambda _path, _mode: False)


def no_library(patch: Patch, tmp_path: Path) -> None:
    patch.setattr("ctypes.util.find_library", lambda _name: None)


def no_capability(patch: Patch, tmp_path: Path) -> None:
    (tmp_path / "status").write_text("CapPrm:\t000001ffffffffff\nCapEff:\t000001ffffdfffff\n")


def no_fusermount(patch: Patch, tmp_path: Path) -> None:
    patch.setattr("os.geteuid", lambda: 1000)
    patch.setattr("shutil.which", lambda _name: None)


def no_others(patch: Patch, tmp_path: Path) -> None:
    patch.setattr("os.geteuid", lambda: 1000)
    patch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    patch.setattr(mount, "_FUSE_CONF", tmp_path / "fuse.conf")
    (tmp_path / "fuse.conf").write_text("# user_allow_other\n#user_allow_other\n")


@pytest.fixture
def everything(monkeypatch: Patch, tmp_path: Path) -> None:
    """As on a machine that has it all, whatever this one has."""
    (tmp_path / "fuse").touch()
    monkeypatch.setattr(mount, "_DEVICE", tmp_path / "fuse")
    (tmp_path / "status").write_text("CapPrm:\t000001ffffffffff\nCapEff:\t0000000000200000\n")
    monkeypatch.setattr(mount, "_STATUS", tmp_path / "status")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("ctypes.util.find_library", lambda _name: "libfuse3.so.3")


@pytest.mark.usefixtures("everything")
def test_with_everything_there_nothing_is_said(monkeypatch: Patch, tmp_path: Path) -> None:
    check_preconditions(allow_other=True)
    no_others(monkeypatch, tmp_path)
    check_preconditions(allow_other=False)
    (tmp_path / "fuse.conf").write_text("mount_max = 5\nuser_allow_other\n")
    check_preconditions(allow_other=True)


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(
    ("take_away", "cure"),
    [
        (no_device, "--device"),
        (no_access, "chmod 0666"),
        (no_capability, "CAP_SYS_ADMIN.*--cap-add SYS_ADMIN --device /dev/fuse"),
        (no_library, "apt install libfuse3-3"),
        (no_fusermount, "apt install fuse3"),
        (no_others, "user_allow_other"),
    ],
)
def test_what_is_missing_is_named_with_its_cure(
    monkeypatch: Patch, tmp_path: Path, take_away: Callable[[Patch, Path], None], cure: str
) -> None:
    take_away(monkeypatch, tmp_path)
    with pytest.raises(MountError, match=cure):
        check_preconditions(allow_other=True)


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (RuntimeError(4), r"sys: mount\(2\) was refused, .*--cap-add SYS_ADMIN"),
        (RuntimeError(3), "libfuse ended with 3, and said on stderr why"),
        (MountError("libfuse (2, 9) was loaded"), r"libfuse \(2, 9\)"),
    ],
)
def test_a_number_of_libfuses_is_told_in_words(
    monkeypatch: Patch, tmp_path: Path, failure: Exception, told: str
) -> None:
    def fail(*_given: object) -> None:
        raise failure

    monkeypatch.setattr(mount, "_run", fail)
    with pytest.raises(MountError, match=told):
        Mount(Tree(), tmp_path / "sys").mount()


def test_a_mount_that_cannot_be_made_leaves_nothing_behind(monkeypatch: Patch, tmp_path: Path) -> None:
    no_library(monkeypatch, tmp_path)
    where = tmp_path / "sys"
    failed = Mount(Tree(), where)
    with pytest.raises(MountError):
        failed.mount()
    failed.unmount()
    assert not where.exists()


def test_the_mounts_of_a_place_are_found_in_mountinfo(monkeypatch: Patch) -> None:
    lines = (
        "36 35 0:40 / /run/a\\040b\\134c/sys rw,nosuid shared:5 - fuse.mdev-user mdev-user rw,user_id=0\n"
        "37 35 0:41 / /run/a\\040b\\134c rw - tmpfs none rw\n"
        "38 36 0:42 / /run/a\\040b\\134c/sys rw - ext4 /dev/vda rw\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda _path, errors: lines)
    assert mountpoint.mounted(Path("/run/a b\\c/sys")) == ["ext4", "fuse.mdev-user"]
    assert mountpoint.mounted(Path("/run")) == []


TREE, OTHER = "- fuse.mdev-user mdev-user rw", "- sysfs sysfs rw"
OURS = f"41 1 0:40 / /srv/a\\040b/sys rw {TREE}"
SHOWN = f"42 1 0:40 /.merged /sys rw {TREE}"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        pytest.param([OURS, SHOWN], ["/srv/a b/sys"], id="one daemon"),
        pytest.param([f"40 1 0:39 / /srv/c rw {TREE}", OURS, SHOWN], ["/srv/a b/sys"], id="two daemons"),
        pytest.param([f"40 1 0:39 / /srv/c rw {TREE}", SHOWN], [], id="its own place is not in this namespace"),
        pytest.param([OURS, SHOWN, f"43 1 0:5 / /sys rw {OTHER}"], [], id="another is on top"),
        pytest.param([OURS, f"42 1 0:40 / /sys rw {OTHER}"], [], id="another's"),
        pytest.param([OURS], [], id="not shown"),
    ],
)
def test_the_places_of_the_tree_that_sys_shows(monkeypatch: Patch, lines: list[str], found: list[str]) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _path, errors: "\n".join(lines))
    assert mountpoint.places_of(Path("/sys")) == [Path(each) for each in found]


def test_what_is_mounted_below_is_found_and_not_the_folder_itself(monkeypatch: Patch) -> None:
    lines = [f"41 1 0:41 / {place} rw {OTHER}" for place in ("/dev", "/dev/pts", "/devel")]
    monkeypatch.setattr(Path, "read_text", lambda _path, errors: "\n".join(lines))
    assert mountpoint.below(Path("/dev")) == ["/dev/pts"]


def test_something_else_on_the_place_is_left_alone(monkeypatch: Patch) -> None:
    detached: list[Path] = []
    monkeypatch.setattr(mountpoint, "detach", detached.append)
    with pytest.raises(MountError, match="proc is mounted on /proc"):
        mountpoint.detach_stale(Path("/proc"))
    assert detached == []


def test_without_fusermount_an_ordinary_user_is_told_so(monkeypatch: Patch, tmp_path: Path) -> None:
    no_fusermount(monkeypatch, tmp_path)
    with pytest.raises(MountError, match="apt install fuse3"):
        mountpoint.detach(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="umount(2) is root's")
def test_detaching_what_is_not_mounted_does_nothing(tmp_path: Path) -> None:
    mountpoint.detach(tmp_path)
    mountpoint.detach(tmp_path / "absent")
    assert mountpoint.detach_stale(tmp_path) is False
