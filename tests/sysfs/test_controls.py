"""Negative controls: with the one line broken that a capability stands on, the mounted tree behaves otherwise."""

import errno
import os
import stat
from collections.abc import Iterator

import pytest

from mdev_user.sysfs import operations, tree
from mdev_user.sysfs.operations import Config, FileInfo, Operations
from mdev_user.sysfs.tree import Directory, Node
from sysfs.access import answer, opened, read, write
from sysfs.mounted import Mounted, mounted_scene
from unit.sysfs.scene import MTTY, UUID1

pytestmark = pytest.mark.fuse

Patch = pytest.MonkeyPatch
DEVICE = f"bus/mdev/devices/{UUID1}"


@pytest.fixture
def mounted() -> Iterator[Mounted]:
    with mounted_scene() as mounted:
        mounted.scene.create()
        yield mounted


def configured(patch: Patch, **wrong: float) -> None:
    right = Operations.init_with_config

    def init_with_config(self: Operations, connection: object, config: Config) -> None:
        right(self, connection, config)
        for name, value in wrong.items():
            setattr(config, name, value)

    patch.setattr(Operations, "init_with_config", init_with_config)


def test_with_names_kept_by_the_kernel_a_removed_mdev_would_still_be_seen(monkeypatch: Patch) -> None:
    configured(monkeypatch, entry_timeout=60.0, attr_timeout=60.0)
    with mounted_scene() as mounted:
        mounted.scene.create()
        assert (mounted / DEVICE).is_symlink()
        mounted.scene.bus.remove(UUID1)
        assert (mounted / DEVICE).is_symlink()


def test_without_the_dead_mark_an_open_file_would_remove_the_next_mdev(mounted: Mounted, monkeypatch: Patch) -> None:
    monkeypatch.setattr(Directory, "remove", revived(Directory.remove))
    with opened(mounted / DEVICE / "uevent", os.O_RDONLY) as fd:
        mounted.scene.bus.remove(UUID1)
        assert answer(lambda: os.pread(fd, 100, 0)) == b""


def revived(remove: object) -> object:
    def removed(self: Directory, name: str) -> Node | None:
        node: Node | None = remove(self, name)  # type: ignore[operator] # the method itself
        if node is not None:
            node.dead = False
        return node

    return removed


def test_without_the_check_of_mode_bits_root_would_open_everything(mounted: Mounted, monkeypatch: Patch) -> None:
    monkeypatch.setattr(operations, "_NEEDED", dict.fromkeys(operations._NEEDED, ()))
    assert read(mounted / f"{MTTY}/create") == -errno.EIO
    assert write(mounted / f"{MTTY}/name", b"x") == -errno.EIO


def test_without_direct_io_the_kernel_would_read_what_it_has_seen(mounted: Mounted, monkeypatch: Patch) -> None:
    right = Operations.open

    def open_cached(self: Operations, path: str, file: FileInfo) -> int:
        answered = right(self, path, file)
        file.direct_io = 0  # type: ignore[attr-defined] # libfuse's own field
        return answered

    monkeypatch.setattr(Operations, "open", open_cached)
    with opened(mounted / f"{MTTY}/available_instances", os.O_RDONLY) as fd:
        assert os.pread(fd, 10, 0)[:2] == b"23"
        mounted.scene.mtty.free = 11
        assert os.pread(fd, 10, 0)[:2] == b"23"


def test_without_the_cut_a_store_would_get_more_than_a_page(mounted: Mounted, monkeypatch: Patch) -> None:
    monkeypatch.setattr(tree, "PAGE", 1 << 20)
    assert write(mounted / DEVICE / "vendor/speed", b"9" * 70_000) == 70_000


def test_with_one_type_for_all_entries_links_would_not_be_links(mounted: Mounted, monkeypatch: Patch) -> None:
    def readdir(_self: Operations, _path: str | None, _number: int) -> list[tuple[str, dict[str, int], int]]:
        return [(str(UUID1), {"st_mode": stat.S_IFREG, "st_ino": 7}, 0)]

    monkeypatch.setattr(Operations, "readdir", readdir)
    with os.scandir(mounted / "bus/mdev/devices") as entries:
        assert [entry.is_symlink() for entry in entries] == [False]
    assert (mounted / DEVICE).is_symlink()


def requests_of_a_create(patch: Patch) -> int:
    """The fewest of several: a walk that is interrupted long enough asks again."""
    asked: list[str] = []
    right = Operations.getattr

    def counted(self: Operations, path: str | None, file: FileInfo | None = None) -> dict[str, object]:
        asked.append(path or "")
        return right(self, path, file)

    patch.setattr(Operations, "getattr", counted)
    found = []
    with mounted_scene() as mounted:
        for _ in range(20):
            asked.clear()
            assert write(mounted / "class/mdev_bus/mtty/mdev_supported_types/mtty-1/create", b"?") == -errno.EINVAL
            found.append(len(asked))
    return min(found)


def test_a_walk_asks_for_each_name_once(monkeypatch: Patch) -> None:
    """class, mdev_bus, mtty, which is a link to devices, virtual, mtty, mtty; then two folders and the file."""
    assert requests_of_a_create(monkeypatch) <= 12


def test_with_modes_forgotten_at_once_a_walk_would_ask_twice(monkeypatch: Patch) -> None:
    configured(monkeypatch, attr_timeout=0.0)
    assert requests_of_a_create(monkeypatch) > 16
