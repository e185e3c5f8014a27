"""What makes an mdev a VFIO device: its iommu group, the group's device, and the vfio-dev in the mdev's directory."""

from functools import partial

from mdev_user.errors import InvalidValue
from mdev_user.mdev.events import Event
from mdev_user.sysfs.device_nodes import DeviceNodes
from mdev_user.sysfs.paths import (
    IOMMU_GROUPS,
    VFIO_CLASS,
    VFIO_DEV_CLASS,
    binding_of,
    device_path,
    mdev_of,
    vfio_device_path,
    vfio_group_path,
)
from mdev_user.sysfs.tree import Rule, Tree
from mdev_user.sysfs.uevent_file import Announce, UeventFile, add_uevent
from mdev_user.sysfs.uevents import cdev_properties, group_properties

_SHOWN = 60


class Groups:
    """Each method is what one event on the bus does to the tree."""

    def __init__(self, tree: Tree, announce: Announce) -> None:
        self._tree = tree
        self._announce = announce
        for path in (IOMMU_GROUPS, VFIO_CLASS, VFIO_DEV_CLASS):
            tree.add_directory(path)
        self._nodes = DeviceNodes(tree, announce)

    def add(self, event: Event) -> None:
        number, mdev = binding_of(event).number, mdev_of(event)
        device, group, vfio = device_path(mdev), f"{IOMMU_GROUPS}/{number}", vfio_group_path(number)
        self._tree.add_directory(f"{group}/devices")
        for name, rule in _FILES.items():
            self._tree.add_attribute(f"{group}/{name}", rule, None)
        self._tree.add_link(f"{group}/devices/{mdev.name}", device)
        self._tree.add_link(f"{device}/iommu_group", group)
        self._tree.add_directory(vfio)
        add_uevent(self._tree, UeventFile(self._announce, vfio, "vfio", partial(group_properties, number)))
        self._tree.add_link(f"{vfio}/subsystem", VFIO_CLASS)
        self._nodes.add_group(number, vfio, device)
        self._tree.add_link(f"{VFIO_CLASS}/{number}", vfio)

    def remove(self, event: Event) -> None:
        number = binding_of(event).number
        vfio = vfio_group_path(number)
        self._nodes.remove_group(number)
        self._tree.remove(f"{VFIO_CLASS}/{number}")
        self._tree.remove(vfio)
        self._tree.remove_if_empty(vfio.rpartition("/")[0])
        self._tree.remove(f"{device_path(mdev_of(event))}/iommu_group")
        self._tree.remove(f"{IOMMU_GROUPS}/{number}")

    def add_vfio_device(self, event: Event) -> None:
        number, mdev = binding_of(event).number, mdev_of(event)
        path = vfio_device_path(mdev, number)
        self._tree.add_directory(path)
        add_uevent(self._tree, UeventFile(self._announce, path, "vfio-dev", partial(cdev_properties, number)))
        self._tree.add_link(f"{path}/subsystem", VFIO_DEV_CLASS)
        self._tree.add_link(f"{path}/device", device_path(mdev))
        self._nodes.add_cdev(number, path, device_path(mdev))
        self._tree.add_link(f"{VFIO_DEV_CLASS}/vfio{number}", path)

    def remove_vfio_device(self, event: Event) -> None:
        number = binding_of(event).number
        self._nodes.remove_cdev(number)
        self._tree.remove(f"{VFIO_DEV_CLASS}/vfio{number}")
        self._tree.remove(f"{device_path(mdev_of(event))}/vfio-dev")


def _store_type(_subject: object, data: bytes) -> None:
    raise InvalidValue(f"a mediated device's group has no domain to change, given {data[:_SHOWN]!r}")


_FILES: dict[str, Rule[object]] = {
    "name": Rule(0o444, lambda _subject: "vfio-noiommu\n"),
    "reserved_regions": Rule(0o444, lambda _subject: ""),
    "type": Rule(0o644, lambda _subject: "unknown\n", _store_type),
}
