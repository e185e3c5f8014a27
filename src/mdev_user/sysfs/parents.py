"""A parent: a virtual device or a PCI function, with its types and its link in class/mdev_bus."""

from collections.abc import Callable
from typing import Protocol

from mdev_user.mdev.bus import Bus
from mdev_user.mdev.events import Event
from mdev_user.mdev.parent import MdevParent
from mdev_user.sysfs.attributes import VendorAttributes
from mdev_user.sysfs.paths import MDEV_BUS_CLASS, is_pci, parent_path
from mdev_user.sysfs.pci_functions import PciFunctions
from mdev_user.sysfs.tree import Tree
from mdev_user.sysfs.types import add_types
from mdev_user.sysfs.uevent_file import Announce
from mdev_user.sysfs.virtual_devices import VirtualDevices


class Home(Protocol):
    """Where Linux has a kind of devices."""

    def add_driver(self, name: str) -> None:
        """What stands there for the devices of a driver; before the first of them."""
        ...

    def remove_driver(self, name: str) -> None: ...

    def add(self, parent: MdevParent) -> None:
        """The device's directory with the files of its kind, and the links to it."""
        ...

    def remove(self, parent: MdevParent) -> None: ...


class Parents:
    """Each method is what one event on the bus does to the tree."""

    def __init__(self, bus: Bus, tree: Tree, announce: Announce, cpus: int, created: Callable[[], None]) -> None:
        self._bus = bus
        self._created = created
        self._tree = tree
        self._virtual: Home = VirtualDevices(tree, announce)
        self._pci: Home = PciFunctions(tree, announce, cpus)
        self._attributes = VendorAttributes(tree)
        tree.add_directory(MDEV_BUS_CLASS)

    def add_home(self, event: Event) -> None:
        self._home(event.parent).add_driver(event.parent.ops.driver_name)

    def remove_home(self, event: Event) -> None:
        self._home(event.parent).remove_driver(event.parent.ops.driver_name)

    def add(self, event: Event) -> None:
        parent, path = event.parent, parent_path(event.parent)
        self._home(parent).add(parent)
        self._attributes.add_to_parent(path, parent)
        add_types(self._bus, self._tree, parent, self._created)
        self._tree.add_link(f"{MDEV_BUS_CLASS}/{parent.name}", path)

    def remove_link(self, event: Event) -> None:
        """What goes first: nobody finds the parent any more."""
        self._tree.remove(f"{MDEV_BUS_CLASS}/{event.parent.name}")

    def remove(self, event: Event) -> None:
        self._home(event.parent).remove(event.parent)

    def _home(self, parent: MdevParent) -> Home:
        return self._pci if is_pci(parent) else self._virtual
