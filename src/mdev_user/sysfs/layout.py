"""Which nodes are in the tree: each event on the bus adds and takes away what Linux does at that moment."""

from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

from mdev_user.mdev.bus import Bus
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.events import Event, EventKind
from mdev_user.mdev.parent import MdevParent
from mdev_user.mdev.types import MdevAttribute
from mdev_user.sysfs import attributes
from mdev_user.sysfs.attributes import BusFiles, Device, DriverOf, S, TypeOf
from mdev_user.sysfs.tree import Rule, Tree

_BUS = "bus/mdev"
_GROUPS = "kernel/iommu_groups"
_TYPES = "mdev_supported_types"
_SKELETON = (
    f"{_BUS}/devices",
    f"{_BUS}/drivers",
    "class/mdev_bus",
    "class/vfio",
    "class/vfio-dev",
    "devices/virtual",
    _GROUPS,
)

OnChown = Callable[[UUID, int, int], None]
"""Called with the uid and gid that an mdev's directory is given (-1: as it is); what it raises, the chown answers."""


class Layout:
    """Subscribe `on_event` before the first parent is registered; the bus calls it from one thread at a time."""

    def __init__(
        self, bus: Bus, tree: Tree, drivers: Sequence[str] = ("vfio_mdev",), on_chown: OnChown | None = None
    ) -> None:
        """``drivers`` are the names of the bus's drivers; ``drivers_probe`` offers mdevs to the first."""
        self._bus = bus
        self._tree = tree
        self._on_chown = on_chown
        self._vendor: dict[MdevAttribute, Rule[Mdev]] = {}
        self._changes: dict[EventKind, Callable[[Event], None]] = {
            EventKind.PARENT_REGISTERED: self._add_parent,
            EventKind.MDEV_ADDED: self._add_mdev,
            EventKind.GROUP_ADDED: self._add_group,
            EventKind.VFIO_ADDED: self._add_vfio,
            EventKind.MDEV_BOUND: self._add_binding,
            EventKind.MDEV_LINKED: self._add_type_links,
            EventKind.MDEV_UNLINKED: self._remove_type_links,
            EventKind.MDEV_HIDDEN: self._hide_mdev,
            EventKind.VFIO_REMOVED: self._remove_vfio,
            EventKind.GROUP_REMOVED: self._remove_group,
            EventKind.MDEV_UNBOUND: self._remove_binding,
            EventKind.MDEV_REMOVED: self._remove_mdev,
            EventKind.PARENT_UNREGISTERING: self._remove_parent_link,
            EventKind.PARENT_UNREGISTERED: self._remove_parent,
        }
        for path in _SKELETON:
            tree.add_directory(path)
        self._add_bus(drivers[0])
        for name in drivers:
            self._add_driver(name)

    def on_event(self, event: Event) -> None:
        """The listener for `Bus.subscribe`."""
        self._changes[event.kind](event)

    # --- the bus ----------------------------------------------------------------------------------------------

    def _add_bus(self, driver: str) -> None:
        files = BusFiles(self._bus)
        self._tree.add_attribute(f"{_BUS}/drivers_autoprobe", attributes.AUTOPROBE, files)
        self._tree.add_attribute(f"{_BUS}/drivers_probe", attributes.drivers_probe(driver), files)
        self._tree.add_attribute(f"{_BUS}/uevent", attributes.UEVENT_WRITE_ONLY, None)

    def _add_driver(self, name: str) -> None:
        path = f"{_BUS}/drivers/{name}"
        self._tree.add_directory(path)
        self._tree.add_attribute(f"{path}/uevent", attributes.UEVENT_WRITE_ONLY, None)
        for file, rule in attributes.DRIVER_FILES.items():
            self._tree.add_attribute(f"{path}/{file}", rule, DriverOf(self._bus, name))

    # --- a parent ---------------------------------------------------------------------------------------------

    def _add_parent(self, event: Event) -> None:
        parent, path = event.parent, parent_path(event.parent)
        self._tree.add_directory(path)
        self._tree.add_attribute(f"{path}/uevent", attributes.UEVENT_OF_DEVICE, None)
        self._tree.add_directory(_class_path(parent))
        self._tree.add_link(f"{path}/subsystem", _class_path(parent))
        self._tree.add_link(f"{_class_path(parent)}/{parent.name}", path)
        for attribute in parent.ops.parent_attributes:
            self._add_vendor_file(path, attribute, attributes.parent_rule(attribute), parent)
        self._add_types(parent, path)
        self._tree.add_link(f"class/mdev_bus/{parent.name}", path)

    def _add_types(self, parent: MdevParent, path: str) -> None:
        for type_id, mdev_type in parent.types.items():
            directory = f"{path}/{_TYPES}/{type_id}"
            of = TypeOf(self._bus, parent, mdev_type)
            self._tree.add_directory(f"{directory}/devices")
            for name, rule in attributes.TYPE_FILES.items():
                self._tree.add_attribute(f"{directory}/{name}", rule, of)
            if mdev_type.description is not None:
                self._tree.add_attribute(f"{directory}/description", attributes.DESCRIPTION, of)

    def _remove_parent_link(self, event: Event) -> None:
        self._tree.remove(f"class/mdev_bus/{event.parent.name}")

    def _remove_parent(self, event: Event) -> None:
        path, of_class = parent_path(event.parent), _class_path(event.parent)
        self._tree.remove(f"{of_class}/{event.parent.name}")
        self._tree.remove(path)
        self._tree.remove_if_empty(path.rpartition("/")[0])
        if of_class not in _SKELETON:
            self._tree.remove_if_empty(of_class)

    # --- an mdev ----------------------------------------------------------------------------------------------

    def _add_mdev(self, event: Event) -> None:
        mdev = _mdev(event)
        path = device_path(mdev)
        directory = self._tree.add_directory(path)
        if self._on_chown is not None:
            directory.on_chown = partial(self._on_chown, mdev.uuid)
        device = Device(self._bus, mdev)
        for name, rule in attributes.DEVICE_FILES.items():
            self._tree.add_attribute(f"{path}/{name}", rule, device)
        self._tree.add_link(f"{path}/subsystem", _BUS)
        self._tree.add_link(_bus_link(path), path)

    def _add_type_links(self, event: Event) -> None:
        mdev = _mdev(event)
        device, of_type = device_path(mdev), _type_path(mdev)
        self._tree.add_link(_type_link(mdev, device), device)
        self._tree.add_link(f"{device}/mdev_type", of_type)

    def _remove_type_links(self, event: Event) -> None:
        mdev = _mdev(event)
        device = device_path(mdev)
        for path in (f"{device}/remove", f"{device}/mdev_type", _type_link(mdev, device)):
            self._tree.remove(path)

    def _hide_mdev(self, event: Event) -> None:
        """Linux takes the device from the bus, then its driver, and only then waits for the user."""
        device = device_path(_mdev(event))
        for path in (f"{device}/uevent", f"{device}/subsystem", _bus_link(device)):
            self._tree.remove(path)
        if event.binding is not None:
            self._remove_binding(event)
            self._remove_vfio(event)

    def _remove_mdev(self, event: Event) -> None:
        device = device_path(_mdev(event))
        self._tree.remove(_bus_link(device))
        self._tree.remove(device)

    # --- its driver -------------------------------------------------------------------------------------------

    def _add_binding(self, event: Event) -> None:
        mdev = _mdev(event)
        device = device_path(mdev)
        for attribute in mdev.parent.ops.attributes:
            self._add_vendor_file(device, attribute, self._vendor_rule(attribute), mdev)
        self._tree.add_link(f"{device}/driver", _driver_path(event))
        self._tree.add_link(_driver_link(event, device), device)

    def _remove_binding(self, event: Event) -> None:
        mdev = _mdev(event)
        device = device_path(mdev)
        for attribute in mdev.parent.ops.attributes:
            self._tree.remove(f"{device}/{attribute.group or attribute.name}")
        self._tree.remove(f"{device}/driver")
        self._tree.remove(_driver_link(event, device))

    def _add_vendor_file(self, directory: str, attribute: MdevAttribute, rule: Rule[S], subject: S) -> None:
        if attribute.group:
            self._tree.add_directory(f"{directory}/{attribute.group}")
        self._tree.add_attribute(f"{directory}/{_file(attribute)}", rule, subject)

    def _vendor_rule(self, attribute: MdevAttribute) -> Rule[Mdev]:
        if attribute not in self._vendor:
            self._vendor[attribute] = attributes.vendor_rule(attribute)
        return self._vendor[attribute]

    # --- its group and its vfio device ------------------------------------------------------------------------

    def _add_group(self, event: Event) -> None:
        number, device = _number(event), device_path(_mdev(event))
        group, vfio = f"{_GROUPS}/{number}", f"devices/virtual/vfio/{number}"
        self._tree.add_directory(f"{group}/devices")
        for name, rule in attributes.GROUP_FILES.items():
            self._tree.add_attribute(f"{group}/{name}", rule, None)
        self._tree.add_link(f"{group}/devices/{_basename(device)}", device)
        self._tree.add_link(f"{device}/iommu_group", group)
        self._tree.add_directory(vfio)
        self._tree.add_attribute(f"{vfio}/uevent", attributes.UEVENT_OF_GROUP, number)
        self._tree.add_link(f"{vfio}/subsystem", "class/vfio")
        self._tree.add_link(f"class/vfio/{number}", vfio)

    def _remove_group(self, event: Event) -> None:
        number = _number(event)
        self._tree.remove(f"class/vfio/{number}")
        self._tree.remove(f"devices/virtual/vfio/{number}")
        self._tree.remove_if_empty("devices/virtual/vfio")
        self._tree.remove(f"{device_path(_mdev(event))}/iommu_group")
        self._tree.remove(f"{_GROUPS}/{number}")

    def _add_vfio(self, event: Event) -> None:
        name, device = f"vfio{_number(event)}", device_path(_mdev(event))
        path = f"{device}/vfio-dev/{name}"
        self._tree.add_directory(path)
        self._tree.add_attribute(f"{path}/uevent", attributes.UEVENT_OF_DEVICE, None)
        self._tree.add_link(f"{path}/subsystem", "class/vfio-dev")
        self._tree.add_link(f"{path}/device", device)
        self._tree.add_link(f"class/vfio-dev/{name}", path)

    def _remove_vfio(self, event: Event) -> None:
        self._tree.remove(f"class/vfio-dev/vfio{_number(event)}")
        self._tree.remove(f"{device_path(_mdev(event))}/vfio-dev")


# --- where things are --------------------------------------------------------------------------------------------


def parent_path(parent: MdevParent) -> str:
    """The parent's directory: a device without a bus is under devices/virtual and its class, the driver's name."""
    return f"devices/virtual/{parent.ops.driver_name}/{parent.name}"


def device_path(mdev: Mdev) -> str:
    """The mdev's directory, in its parent's."""
    return f"{parent_path(mdev.parent)}/{mdev.uuid}"


def _type_path(mdev: Mdev) -> str:
    return f"{parent_path(mdev.parent)}/{_TYPES}/{mdev.type_id}"


def _basename(path: str) -> str:
    return path.rpartition("/")[2]


def _bus_link(device: str) -> str:
    return f"{_BUS}/devices/{_basename(device)}"


def _type_link(mdev: Mdev, device: str) -> str:
    return f"{_type_path(mdev)}/devices/{_basename(device)}"


def _driver_link(event: Event, device: str) -> str:
    return f"{_driver_path(event)}/{_basename(device)}"


def _class_path(parent: MdevParent) -> str:
    return f"class/{parent.ops.driver_name}"


def _file(attribute: MdevAttribute) -> str:
    return f"{attribute.group}/{attribute.name}" if attribute.group else attribute.name


def _mdev(event: Event) -> Mdev:
    if event.mdev is None:
        raise ValueError(f"{event.kind.name} without an mdev")
    return event.mdev


def _number(event: Event) -> int:
    """Of the iommu group, and of vfioN."""
    if event.binding is None:
        raise ValueError(f"{event.kind.name} without a binding")
    return event.binding.number


def _driver_path(event: Event) -> str:
    if event.binding is None:
        raise ValueError(f"{event.kind.name} without a binding")
    return f"{_BUS}/drivers/{event.binding.driver}"
