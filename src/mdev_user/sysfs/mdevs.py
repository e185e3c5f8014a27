"""An mdev: its directory in its parent's, the links to it, and what its driver adds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from mdev_user.errors import NoDevice, NotReady
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.device import Mdev, State
from mdev_user.mdev.events import Event
from mdev_user.mdev.parsing import parse_unsigned
from mdev_user.sysfs.attributes import VendorAttributes
from mdev_user.sysfs.paths import MDEV_BUS, binding_of, device_path, driver_path, mdev_of, type_path
from mdev_user.sysfs.tree import Directory, Rule, Tree
from mdev_user.sysfs.uevent_file import Announce, UeventFile, add_uevent

OnChown = Callable[[UUID, int, int], None]
"""Called with the uid and gid that an mdev's directory is given (-1: as it is); what it raises, the chown answers."""


@dataclass(frozen=True, slots=True)
class _Device:
    """The subject of an mdev's own files."""

    bus: Bus
    mdev: Mdev

    def properties(self) -> Mapping[str, str]:
        binding = self.mdev.binding
        return {"DRIVER": binding.driver} if binding is not None else {}


class Mdevs:
    """Each method is what one event on the bus does to the tree."""

    def __init__(self, bus: Bus, tree: Tree, announce: Announce, on_chown: OnChown | None) -> None:
        self._bus = bus
        self._tree = tree
        self._announce = announce
        self._on_chown = on_chown
        self._attributes = VendorAttributes(tree)

    def add(self, event: Event) -> None:
        mdev = mdev_of(event)
        path = device_path(mdev)
        directory = self._tree.add_directory(path)
        if self._on_chown is not None:
            directory.on_chown = partial(self._on_chown, mdev.uuid)
        device = _Device(self._bus, mdev)
        self._tree.add_attribute(f"{path}/remove", _REMOVE, device)
        add_uevent(self._tree, UeventFile(self._announce, path, "mdev", device.properties))
        self._tree.add_link(f"{path}/subsystem", MDEV_BUS)
        self._tree.add_link(_bus_link(mdev), path)

    def add_type_links(self, event: Event) -> None:
        mdev = mdev_of(event)
        path = device_path(mdev)
        self._tree.add_link(_type_link(mdev), path)
        self._tree.add_link(f"{path}/mdev_type", type_path(mdev.parent, mdev.type_id))

    def remove_type_links(self, event: Event) -> None:
        mdev = mdev_of(event)
        path = device_path(mdev)
        for gone in (f"{path}/remove", f"{path}/mdev_type", _type_link(mdev)):
            self._tree.remove(gone)

    def hide(self, event: Event) -> None:
        """Linux takes the device from the bus, then its driver, and only then waits for the user."""
        mdev = mdev_of(event)
        path = device_path(mdev)
        for gone in (f"{path}/uevent", f"{path}/subsystem", _bus_link(mdev)):
            self._tree.remove(gone)

    def remove(self, event: Event) -> None:
        mdev = mdev_of(event)
        self._tree.remove(_bus_link(mdev))
        self._tree.remove(device_path(mdev))

    def add_driver(self, event: Event) -> None:
        mdev, driver = mdev_of(event), driver_path(binding_of(event).driver)
        path = device_path(mdev)
        self._attributes.add(path, mdev)
        self._tree.add_link(f"{path}/driver", driver)
        self._tree.add_link(f"{driver}/{mdev.name}", path)
        self._give_away(mdev, self._tree.add_directory(path))

    def remove_driver(self, event: Event) -> None:
        mdev, driver = mdev_of(event), driver_path(binding_of(event).driver)
        path = device_path(mdev)
        self._attributes.remove(path, mdev.parent.ops.attributes)
        self._tree.remove(f"{path}/driver")
        self._tree.remove(f"{driver}/{mdev.name}")

    def _give_away(self, mdev: Mdev, directory: Directory) -> None:
        """Whose the directory is already, whose the new VFIO device becomes."""
        owner = (directory.uid, directory.gid)
        if self._on_chown is not None and owner != self._tree.owner:
            self._on_chown(mdev.uuid, *owner)


def _bus_link(mdev: Mdev) -> str:
    return f"{MDEV_BUS}/devices/{mdev.name}"


def _type_link(mdev: Mdev) -> str:
    return f"{type_path(mdev.parent, mdev.type_id)}/devices/{mdev.name}"


def _remove(device: _Device, data: bytes) -> None:
    """Any number but 0 removes; blocks while the mdev is in use. ENODEV for who comes second, as in Linux."""
    if not parse_unsigned(data):
        return
    bus, mdev = device.bus, device.mdev
    try:
        bus.remove_mdev(mdev)
    except NotReady:
        if mdev.state is State.REMOVING:
            raise NoDevice(f"{mdev.uuid} is being removed") from None
        raise


_REMOVE: Rule[_Device] = Rule(0o200, None, _remove)
