"""Parents that are devices on no bus: devices/virtual/<class>/<name>, each in the class that has its driver's name."""

from mdev_user.mdev.parent import MdevParent
from mdev_user.sysfs.paths import class_path, devices_path, parent_path
from mdev_user.sysfs.tree import Tree
from mdev_user.sysfs.uevent_file import Announce, UeventFile, add_uevent


class VirtualDevices:
    """The class of a driver and the directory of its devices are there while it has devices on no bus."""

    def __init__(self, tree: Tree, announce: Announce) -> None:
        self._tree = tree
        self._announce = announce
        tree.add_directory("devices/virtual")

    def add_driver(self, name: str) -> None:
        self._tree.add_directory(class_path(name))

    def remove_driver(self, name: str) -> None:
        self._tree.remove(class_path(name))
        self._tree.remove(devices_path(name))

    def add(self, parent: MdevParent) -> None:
        path, of_class = parent_path(parent), class_path(parent.ops.driver_name)
        self._tree.add_directory(path)
        add_uevent(self._tree, UeventFile(self._announce, path, parent.ops.driver_name))
        self._tree.add_link(f"{path}/subsystem", of_class)
        self._tree.add_link(f"{of_class}/{parent.name}", path)

    def remove(self, parent: MdevParent) -> None:
        self._tree.remove(f"{class_path(parent.ops.driver_name)}/{parent.name}")
        self._tree.remove(parent_path(parent))
