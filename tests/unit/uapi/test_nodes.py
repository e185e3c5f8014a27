"""Which node a path is, and which mdev is behind it."""

import os
from errno import ENODEV
from pathlib import Path
from uuid import UUID

import pytest

from mdev_user import host
from mdev_user.sysfs import device_nodes
from mdev_user.uapi.nodes import Kind, Node, Nodes, may_open, node_at
from mdev_user.uapi.program import status_fields

ONE = UUID(int=1)


@pytest.mark.parametrize(
    ("path", "node"),
    [
        ("/dev/vfio/vfio", Node(Kind.CONTAINER)),
        ("/dev/iommu", Node(Kind.IOMMU)),
        ("/dev/vfio/0", Node(Kind.GROUP, 0)),
        ("/dev/vfio/42", Node(Kind.GROUP, 42)),
        ("/dev/vfio/devices/vfio7", Node(Kind.CDEV, 7)),
    ],
)
def test_node_of_a_path(path: str, node: Node) -> None:
    assert node_at(path) == node


@pytest.mark.parametrize(
    "path",
    [
        "/dev/vfio", "/dev/vfio/", "/dev/vfio/01", "/dev/vfio/x", "/dev/vfio/-1", "/dev/vfio/1/2", "/dev/vfio/\u0661",
        "/dev/vfio/devices", "/dev/vfio/devices/vfio", "/dev/vfio/devices/7", "/dev/iommu/", "/dev/kvm", "/vfio/vfio",
    ],
)  # fmt: skip
def test_other_paths_are_nobodys(path: str) -> None:
    assert node_at(path) is None


def test_numbers_of_the_nodes() -> None:
    assert Node(Kind.CONTAINER).rdev == os.makedev(10, 196)
    assert os.minor(Node(Kind.GROUP, 300).rdev) == 300
    assert os.major(Node(Kind.GROUP, 3).rdev) != os.major(Node(Kind.CDEV, 3).rdev)


def test_mdevs_are_found_by_the_numbers_of_their_group_and_cdev(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path / "sys", tmp_path / "devices")
    (tmp_path / "sys/kernel/iommu_groups/3/devices" / str(ONE)).mkdir(parents=True)
    (tmp_path / "sys/class/vfio-dev").mkdir(parents=True)
    (tmp_path / "sys/class/vfio-dev/vfio3").symlink_to(f"../../devices/virtual/mtty/mtty/{ONE}/vfio-dev/vfio3")
    assert nodes.of_group(3) == (ONE,)
    assert nodes.of_cdev(3) == ONE
    for ask in (nodes.of_group, nodes.of_cdev):
        with pytest.raises(OSError, match="4") as caught:
            ask(4)
        assert caught.value.errno == ENODEV


def test_socket_is_where_hosts_listen(tmp_path: Path) -> None:
    assert Nodes(tmp_path, tmp_path).socket(ONE) == tmp_path / str(ONE) / host.SOCKET_NAME


PROCESS = "Name:\tqemu\nUid:\t1\t2\t3\t64055\nGid:\t1\t2\t3\t108\nGroups:\t36 108 \nCapEff:\t{:016x}\n"
ALL, NONE = (1 << 41) - 1, 0


def process(capabilities: int) -> dict[str, str]:
    return status_fields(PROCESS.format(capabilities).encode())


def status_of(mode: int, uid: int, gid: int) -> os.stat_result:
    return os.stat_result((mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "may"),
    [
        (0o600, 0, 0, False),
        (0o600, 64055, 0, True),
        (0o066, 64055, 36, False),
        (0o660, 0, 36, True),
        (0o660, 0, 108, True),
        (0o660, 0, 37, False),
        (0o606, 0, 36, False),
        (0o666, 0, 0, True),
        (0o664, 0, 0, False),
    ],
)
def test_nodes_are_opened_by_whom_their_mode_lets(mode: int, uid: int, gid: int, may: bool) -> None:
    assert may_open(process(NONE), status_of(mode, uid, gid), own=True) is may


def test_capabilities_count_in_our_namespace_only() -> None:
    node = status_of(0o600, 0, 0)
    assert may_open(process(ALL), node, own=True)
    assert not may_open(process(ALL), node, own=False)


def test_a_node_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, tmp_path)
    (tmp_path / device_nodes.DEVICES / "vfio").mkdir(parents=True)
    (tmp_path / device_nodes.DEVICES / "vfio/7").touch()
    nodes.check_access(Node(Kind.GROUP, 7), os.getpid())
    with pytest.raises(FileNotFoundError):
        nodes.check_access(Node(Kind.GROUP, 8), os.getpid())
