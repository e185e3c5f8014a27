"""VFIO's character devices: nodes for a /dev beside the tree, the files ``dev``, and two devices of the class misc.

The nodes are below `DEVICES`, which no listing shows: `mdev-user run` binds them to /dev/vfio and /dev/iommu. They can
be looked at, and be given to somebody as in Linux; the kernel opens none of them, since FUSE is mounted nodev.
"""

from functools import partial

from mdev_user.sysfs.paths import misc_path
from mdev_user.sysfs.tree import Rule, Tree
from mdev_user.sysfs.uevent_file import Announce, UeventFile, add_uevent
from mdev_user.sysfs.uevents import EVERYBODY, MISC, misc_properties
from mdev_user.vfio.device_numbers import CDEV_MAJOR, GROUP_MAJOR, Number

DEVICES = ".dev"
"""The name in the root of the tree."""
CDEVS = f"{DEVICES}/vfio/devices"
_OWNER = 0o600
_NUMBERS = "dev/char"
_MISC_CLASS = "class/misc"


class DeviceNodes:
    """Adds and removes what belongs to a device number; paths are those of the device's directories in sysfs.

    The folder of cdevs comes with the first and goes with the last, as in Linux.
    """

    def __init__(self, tree: Tree, announce: Announce) -> None:
        self._tree = tree
        tree.add_hidden_directory(DEVICES)
        for directory in (f"{DEVICES}/vfio", _NUMBERS, _MISC_CLASS):
            tree.add_directory(directory)
        for name, (node, number) in MISC.items():
            path = misc_path(name)
            tree.add_directory(path)
            add_uevent(tree, UeventFile(announce, path, "misc", partial(misc_properties, name)))
            tree.add_link(f"{path}/subsystem", _MISC_CLASS)
            tree.add_link(f"{_MISC_CLASS}/{name}", path)
            tree.add_device_node(f"{DEVICES}/{node}", EVERYBODY, number)
            self._add_number(path, number)

    def add_group(self, number: int, path: str, device: str) -> None:
        """``device`` is the mdev's directory, ``path`` the group's."""
        self._tree.add_device_node(_group_node(number), _OWNER, (GROUP_MAJOR, number), device)
        self._add_number(path, (GROUP_MAJOR, number))

    def remove_group(self, number: int) -> None:
        self._tree.remove(_group_node(number))
        self._tree.remove(_number_link((GROUP_MAJOR, number)))

    def add_cdev(self, number: int, path: str, device: str) -> None:
        """``device`` is the mdev's directory, ``path`` that of its VFIO device."""
        self._tree.add_directory(CDEVS)
        self._tree.add_device_node(_cdev_node(number), _OWNER, (CDEV_MAJOR, number), device)
        self._add_number(path, (CDEV_MAJOR, number))

    def remove_cdev(self, number: int) -> None:
        self._tree.remove(_cdev_node(number))
        self._tree.remove_if_empty(CDEVS)
        self._tree.remove(_number_link((CDEV_MAJOR, number)))

    def _add_number(self, path: str, number: Number) -> None:
        self._tree.add_attribute(f"{path}/dev", _DEV, number)
        self._tree.add_link(_number_link(number), path)


def _group_node(number: int) -> str:
    return f"{DEVICES}/vfio/{number}"


def _cdev_node(number: int) -> str:
    return f"{CDEVS}/vfio{number}"


def _number_link(number: Number) -> str:
    return f"{_NUMBERS}/{number[0]}:{number[1]}"


_DEV: Rule[Number] = Rule(0o444, lambda number: f"{number[0]}:{number[1]}\n")
