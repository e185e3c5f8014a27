"""The merged tree: the nodes that it answers with, beside a machine's sysfs that is a plain folder here."""

import stat
from pathlib import Path

import pytest

from mdev_user.sysfs.merged import MERGED, MergedTree
from mdev_user.sysfs.tree import Directory, Link, Node, Rule


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    for path in ("class/net", "bus/pci/devices", "devices/virtual/net/lo", "devices/virtual/vfio/7", "kernel/debug"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "class/net/lo").symlink_to("../../devices/virtual/net/lo")
    (tmp_path / "bus/pci/devices/0000:00:00.0").symlink_to("../../../devices/pci0000:00/0000:00:00.0")
    (tmp_path / "bus/pci/rescan").write_text("")
    return tmp_path


@pytest.fixture
def tree(machine: Path) -> MergedTree:
    tree = MergedTree((7, 8), machine)
    for path in ("bus/pci/devices", "class/mdev_bus", "devices/virtual/mtty/mtty", "kernel/iommu_groups"):
        tree.add_directory(path)
    tree.add_link("class/mdev_bus/mtty", "devices/virtual/mtty/mtty")
    tree.add_attribute("devices/virtual/mtty/mtty/uevent", Rule(0o644, lambda _subject: "text\n"), None)
    return tree


def merged(tree: MergedTree, path: str) -> Node | None:
    return tree.lookup(f"{MERGED}/{path}" if path else MERGED)


def names(tree: MergedTree, path: str) -> dict[str, int]:
    node = merged(tree, path)
    assert isinstance(node, Directory)
    return {name: each.kind for name, each in node.entries().items()}


def test_no_listing_shows_it(tree: MergedTree) -> None:
    assert set(tree.root.entries()) == {"bus", "class", "devices", "kernel"}
    assert tree.lookup(f"{MERGED}ly") is None
    assert tree.lookup("class/net") is None


def test_names_of_both_are_listed_with_their_types(tree: MergedTree) -> None:
    assert names(tree, "") == dict.fromkeys(("bus", "class", "devices", "kernel"), stat.S_IFDIR)
    assert names(tree, "class") == {"net": stat.S_IFDIR, "mdev_bus": stat.S_IFDIR}
    assert names(tree, "bus/pci") == {"devices": stat.S_IFDIR, "rescan": stat.S_IFREG}
    assert names(tree, "bus/pci/devices") == {"0000:00:00.0": stat.S_IFLNK}


def test_what_is_ours_is_the_same_node(tree: MergedTree) -> None:
    for path in ("class/mdev_bus/mtty", "devices/virtual/mtty", "devices/virtual/mtty/mtty/uevent"):
        assert merged(tree, path) is tree.lookup(path) is not None


def test_a_link_of_the_machine_is_a_link(tree: MergedTree) -> None:
    link = merged(tree, "bus/pci/devices/0000:00:00.0")
    assert isinstance(link, Link)
    assert link.target == "../../../devices/pci0000:00/0000:00:00.0"


def test_a_directory_of_the_machine_is_an_empty_place(tree: MergedTree, machine: Path) -> None:
    assert names(tree, "class/net") == {}
    assert merged(tree, "class/net/lo") is None
    assert merged(tree, "class/net") is not merged(tree, "class/net"), "made anew, so nothing of it can grow old"
    (machine / "class/net/lo").unlink()
    (machine / "class/net").rmdir()
    assert merged(tree, "class/net") is None


def test_what_comes_later_is_there_at_once(tree: MergedTree, machine: Path) -> None:
    tree.add_directory("devices/virtual/crc/crc")
    tree.add_link("bus/pci/devices/4d44:00:01.0", "devices/pci4d44:00/4d44:00:01.0")
    (machine / "class/watchdog").mkdir()
    assert set(names(tree, "devices/virtual")) == {"net", "vfio", "mtty", "crc"}
    assert set(names(tree, "bus/pci/devices")) == {"0000:00:00.0", "4d44:00:01.0"}
    assert "watchdog" in names(tree, "class")


def test_a_group_of_ours_is_seen_beside_the_machines(tree: MergedTree) -> None:
    assert names(tree, "devices/virtual/vfio") == {"7": stat.S_IFDIR}
    tree.add_directory("devices/virtual/vfio/8")
    assert names(tree, "devices/virtual/vfio") == {"7": stat.S_IFDIR, "8": stat.S_IFDIR}
    tree.remove("devices/virtual/vfio")
    assert names(tree, "devices/virtual/vfio") == {"7": stat.S_IFDIR}


def test_inode_numbers_are_neither_ours_nor_twice_the_same(tree: MergedTree) -> None:
    paths = ["", "class", "class/net", "class/mdev_bus", "bus", "bus/pci", "bus/pci/rescan", "kernel/debug"]
    numbers = [node.st_ino for path in paths if (node := merged(tree, path)) is not None]
    assert len(set(numbers)) == len(paths)
    listed = merged(tree, "class")
    assert isinstance(listed, Directory)
    net = merged(tree, "class/net")
    assert net is not None
    assert listed.entries()["net"].st_ino == net.st_ino


def test_a_directory_of_the_machine_is_not_ours_to_change(tree: MergedTree) -> None:
    node = merged(tree, "class")
    assert node is not None
    with pytest.raises(PermissionError):
        node.chmod(0o777)
    with pytest.raises(PermissionError):
        node.chown(1, 1)


def test_without_a_machine_it_is_our_tree(tmp_path: Path) -> None:
    tree = MergedTree(machine=tmp_path / "absent")
    tree.add_directory("bus/mdev")
    assert merged(tree, "bus") is tree.lookup("bus")
    assert merged(tree, "class") is None
    assert tree.lookup(f"{MERGED}/class/net") is None
