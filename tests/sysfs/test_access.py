"""Modes, owners, sizes and types as programs see them through the kernel."""

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sysfs.access import answer, opened, read, write
from sysfs.mounted import Mounted
from unit.sysfs.scene import MTTY, UUID1

pytestmark = pytest.mark.fuse

DEVICE = f"bus/mdev/devices/{UUID1}"
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@pytest.fixture
def device(mounted: Mounted) -> Path:
    mounted.scene.create()
    return mounted / DEVICE


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_create_and_remove_cannot_be_opened_for_reading_even_by_root(
    mounted: Mounted, device: Path, flags: int
) -> None:
    for path in (mounted / f"{MTTY}/create", device / "remove"):
        assert answer(lambda path=path: os.open(path, flags)) == -errno.EACCES  # type: ignore[misc] # mypy 10908


@pytest.mark.parametrize("name", ["name", "available_instances", "device_api"])
def test_what_is_read_only_cannot_be_written_even_by_root(mounted: Mounted, name: str) -> None:
    assert write(mounted / f"{MTTY}/{name}", b"5") == -errno.EACCES


def test_a_mode_stays_and_counts(mounted: Mounted, device: Path) -> None:
    create = mounted / f"{MTTY}/create"
    create.chmod(0o666)
    assert stat.filemode(create.stat().st_mode) == "-rw-rw-rw-"
    assert read(create) == -errno.EIO
    assert write(create, str(UUID1).encode()) == -errno.EEXIST
    (device / "uevent").chmod(0)
    assert read(device / "uevent") == -errno.EACCES
    write(device / "remove", b"1")
    mounted.scene.create()
    assert (device / "uevent").stat().st_mode == stat.S_IFREG | 0o644


@as_root
def test_an_owner_stays_until_the_node_goes(mounted: Mounted, device: Path) -> None:
    os.chown(device, 1000, -1)
    os.chown(device, -1, 1001)
    assert (device.stat().st_uid, device.stat().st_gid) == (1000, 1001)
    write(device / "remove", b"1")
    mounted.scene.create()
    assert device.stat().st_uid == os.geteuid()


def as_nobody(script: str, folder: Path) -> str:
    # Not cwd=: between fork and exec the child would walk into a mount that this very process serves.
    done = subprocess.run(
        ["bash", "-c", f'cd "$0"; {script}', str(folder)],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@as_root
def test_who_is_given_a_file_may_use_it_and_nobody_else(mounted: Mounted, device: Path) -> None:
    folder = (mounted / MTTY).resolve()
    mounted.root.chmod(0o755)
    other = "12345678-9abc-def0-1234-56789abcdef0"
    assert "Permission denied" in as_nobody(f"echo {other} > create", folder)
    assert "Operation not permitted" in as_nobody("chmod 666 create", folder)
    assert "24" not in as_nobody("cat available_instances", folder)
    os.chown(folder / "create", NOBODY, NOBODY)
    assert as_nobody(f"echo {other} > create && cat available_instances", folder) == "22\n"
    assert "Permission denied" in as_nobody(f"echo 1 > devices/{other}/remove", folder)
    os.chown(folder / f"devices/{other}/remove", NOBODY, NOBODY)
    assert as_nobody(f"echo 1 > devices/{other}/remove", folder) == ""
    assert mounted.names("bus/mdev/devices") == [str(UUID1)]


@as_root
def test_a_group_that_is_given_the_files_may_use_them_and_their_owner_may_change_them(mounted: Mounted) -> None:
    folder = (mounted / MTTY).resolve()
    mounted.root.chmod(0o755)
    os.chown(folder / "create", 0, NOBODY)
    (folder / "create").chmod(0o220)
    assert as_nobody(f"echo {UUID1} > create && ls devices", folder) == f"{UUID1}\n"
    remove = f"devices/{UUID1}/remove"
    os.chown(folder / remove, NOBODY, -1)
    assert "Operation not permitted" in as_nobody(f"chown 0 {remove}", folder)
    assert "Permission denied" in as_nobody(f"echo add > devices/{UUID1}/uevent", folder)
    assert as_nobody(f"chmod 600 {remove} && cat {remove}", folder).endswith("Input/output error\n")
    assert as_nobody(f"echo 1 > {remove}; ls devices", folder) == ""


def test_what_copies_files_copies_the_text(mounted: Mounted, device: Path) -> None:
    """Programs that trust st_size, or have the kernel copy."""
    with TemporaryDirectory(dir="/tmp") as folder:
        copy = Path(folder, "copy")
        for command in (
            'cp "$0" "$1"',
            'dd status=none bs=7 if="$0" of="$1"',
            'cat "$0" > "$1"',
            'head -c 99 "$0" > "$1"',
        ):
            subprocess.run(["bash", "-c", command, str(device / "vendor/sample_mdev_dev"), str(copy)], check=True)
            assert copy.read_text() == f"This is MDEV {UUID1}\n", command
            copy.unlink()


@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        (lambda folder: (folder / "new").mkdir(), errno.EPERM),
        (lambda folder: (folder / "devices").rmdir(), errno.EPERM),
        (lambda folder: (folder / "create").unlink(), errno.EPERM),
        (lambda folder: (folder / "create").rename(folder / "new"), errno.EPERM),
        (lambda folder: (folder / "new").symlink_to("create"), errno.EPERM),
        (lambda folder: (folder / "new").hardlink_to(folder / "create"), errno.EPERM),
        (lambda folder: os.mkfifo(folder / "new"), errno.EPERM),
        (lambda folder: os.open(folder / "new", os.O_WRONLY | os.O_CREAT), errno.EACCES),
        (lambda folder: os.open(folder / "create", os.O_WRONLY | os.O_CREAT | os.O_EXCL), errno.EEXIST),
        (lambda folder: os.open(folder / "devices", os.O_WRONLY), errno.EISDIR),
    ],
)
def test_the_tree_cannot_be_changed_by_hand(mounted: Mounted, refused: Callable[[Path], object], expected: int) -> None:
    before = mounted.names(MTTY)
    assert answer(lambda: refused(mounted / MTTY)) == -expected
    assert mounted.names(MTTY) == before


def test_truncate_and_touch_have_no_effect(mounted: Mounted) -> None:
    create = mounted / f"{MTTY}/create"
    os.truncate(create, 0)
    os.truncate(create, 10)
    os.utime(create)
    with opened(create, os.O_WRONLY) as fd:
        os.ftruncate(fd, 0)
        os.fchmod(fd, 0o200)
        assert os.fstat(fd).st_size == 4096
    assert write(create, b"", os.O_WRONLY | os.O_TRUNC | os.O_CREAT) == 0
    assert (create.stat().st_size, mounted.scene.bus.mdevs()) == (4096, [])


def test_sizes_links_and_numbers_are_those_of_sysfs(mounted: Mounted, device: Path) -> None:
    for path, node in mounted.scene.tree.walk():
        found = (mounted / path).lstat()
        assert found.st_mode == node.kind | node.mode, path
        assert (found.st_size, found.st_blocks, found.st_blksize) == (node.size, 0, 4096), path
        assert (found.st_nlink, found.st_ino) == (node.nlink, node.st_ino), path
        assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid()), path
        assert found.st_mtime > 1e9, path
    parent = mounted / "devices/virtual/mtty/mtty"
    assert parent.stat().st_nlink == 2 + sum(each.is_dir() and not each.is_symlink() for each in parent.iterdir())
    assert (mounted / MTTY).stat().st_nlink == 3


def test_a_listing_gives_types_and_numbers_without_asking_each_entry(mounted: Mounted, device: Path) -> None:
    for folder in (mounted / "bus/mdev/devices", device, mounted / MTTY, mounted / "class/mdev_bus"):
        with os.scandir(folder) as entries:
            for entry in entries:
                found = (folder / entry.name).lstat()
                assert entry.inode() == found.st_ino
                assert entry.is_symlink() == stat.S_ISLNK(found.st_mode)
                assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(found.st_mode)


def test_the_file_system_has_sysfs_block_size(mounted: Mounted) -> None:
    found = os.statvfs(mounted.root)
    assert (found.f_bsize, found.f_namemax) == (4096, 255)


def test_an_attribute_is_read_whole_in_slices_and_anew_from_the_start(mounted: Mounted, device: Path) -> None:
    with opened(mounted / f"{MTTY}/available_instances", os.O_RDONLY) as fd:
        assert [os.read(fd, 1), os.read(fd, 100), os.read(fd, 100)] == [b"2", b"3\n", b""]
        write(device / "remove", b"1")
        assert os.pread(fd, 100, 1) == b"3\n"
        assert [os.pread(fd, 100, 0), os.pread(fd, 100, 1), os.pread(fd, 100, 4096)] == [b"24\n", b"4\n", b""]
        os.lseek(fd, 0, os.SEEK_SET)
        assert os.read(fd, 100) == b"24\n"
        assert os.lseek(fd, 0, os.SEEK_END) == 4096


def test_a_write_longer_than_a_page_is_short(mounted: Mounted, device: Path) -> None:
    assert [write(device / "vendor/speed", b"9" * size) for size in (4095, 4096, 4097, 70_000)] == [4095] + [4096] * 3
    assert [len(data) for data in mounted.scene.mtty.stored] == [4095] + [4096] * 3


def test_every_change_is_seen_by_the_next_system_call(mounted: Mounted) -> None:
    device, create = mounted / DEVICE, mounted / f"{MTTY}/create"
    for _ in range(100):
        assert write(create, str(UUID1).encode()) == 36
        assert device.is_symlink()
        assert read(device / "uevent") == "DRIVER=mtty\n"
        assert str(UUID1) in mounted.names(f"{MTTY}/devices")
        assert write(device / "remove", b"1") == 1
        assert not device.is_symlink()
        assert read(device / "uevent") == -errno.ENOENT
        assert mounted.names("bus/mdev/devices") == []


def test_links_resolve_inside_the_tree(mounted: Mounted, device: Path) -> None:
    real = mounted.root.resolve()
    assert device.resolve() == real / f"devices/virtual/mtty/mtty/{UUID1}"
    assert (device / "mdev_type").resolve().name == "mtty-1"
    assert (device / "iommu_group").resolve() == real / "kernel/iommu_groups/0"
    assert (device / "driver").resolve() == real / "bus/mdev/drivers/mtty"
    assert (device / "subsystem").resolve() == real / "bus/mdev"
    assert (device / "vfio-dev/vfio0/device").resolve() == device.resolve()
