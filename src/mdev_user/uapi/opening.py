"""What an open of one of VFIO's nodes gives: the file behind it."""

from collections.abc import Callable
from pathlib import Path

from mdev_user.uapi.call import Call
from mdev_user.uapi.cdev import Cdevs
from mdev_user.uapi.claims import Claims
from mdev_user.uapi.container import Container
from mdev_user.uapi.files import File
from mdev_user.uapi.group import Groups
from mdev_user.uapi.iommufd import IommuFile
from mdev_user.uapi.nodes import Kind, Node, Nodes, node_at


class Opener:
    """Opens the nodes of one daemon's mdevs. Used under the supervisor's lock of tables."""

    def __init__(self, tree: Path, devices: Path) -> None:
        """``tree`` is the daemon's sysfs (RUN/root/sys), ``devices`` its folder of mdevs (RUN/devices)."""
        nodes, claims = Nodes(tree, devices), Claims()
        self._nodes = nodes
        self._by_kind: dict[Kind, Callable[[Call, Node], File]] = {
            Kind.CONTAINER: _open_container,
            Kind.GROUP: Groups(nodes, claims).open,
            Kind.CDEV: Cdevs(nodes, claims).open,
            Kind.IOMMU: _open_iommu,
        }

    def __call__(self, call: Call, path: str) -> File | None:
        """The file; None for a path that is none of ours. Raises what open(2) fails with."""
        node = node_at(path)
        if node is None:
            return None
        self._nodes.check_access(node, call.tid)
        return self._by_kind[node.kind](call, node)


def _open_container(call: Call, _node: Node) -> File:
    return call.add(Container())


def _open_iommu(call: Call, _node: Node) -> File:
    return call.add(IommuFile())
