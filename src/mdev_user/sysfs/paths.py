"""Where things are in the tree: paths below its root, without a leading slash."""

from mdev_user.mdev.device import Binding, Mdev
from mdev_user.mdev.events import Event
from mdev_user.mdev.parent import MdevParent

MDEV_BUS = "bus/mdev"
MDEV_BUS_CLASS = "class/mdev_bus"
PCI_BUS = "bus/pci"
VFIO_CLASS = "class/vfio"
VFIO_DEV_CLASS = "class/vfio-dev"
IOMMU_GROUPS = "kernel/iommu_groups"


def is_pci(parent: MdevParent) -> bool:
    """A parent with the name of a PCI function is one in sysfs."""
    return parent.address is not None


def parent_path(parent: MdevParent) -> str:
    """The parent's directory; a device without a bus is under devices/virtual and its class, the driver's name."""
    if parent.address is not None:
        return f"devices/pci{parent.address.bus_name}/{parent.name}"
    return f"{devices_path(parent.ops.driver_name)}/{parent.name}"


def devices_path(driver: str) -> str:
    """Where those of its parents are that are on no bus."""
    return f"devices/virtual/{driver}"


def class_path(driver: str) -> str:
    """Their class."""
    return f"class/{driver}"


def type_path(parent: MdevParent, type_id: str) -> str:
    """The directory of one of its types."""
    return f"{parent_path(parent)}/mdev_supported_types/{type_id}"


def driver_path(name: str) -> str:
    """The driver's directory on the mdev bus."""
    return f"{MDEV_BUS}/drivers/{name}"


def pci_driver_path(name: str) -> str:
    """The same driver's on the PCI bus, where it has a parent there."""
    return f"{PCI_BUS}/drivers/{name}"


def module_path(driver: str) -> str:
    """Of the module that the driver would be in."""
    return f"module/{driver}"


def device_path(mdev: Mdev) -> str:
    """The mdev's directory, in its parent's."""
    return f"{parent_path(mdev.parent)}/{mdev.name}"


def vfio_device_path(mdev: Mdev, number: int) -> str:
    """The directory of the mdev's VFIO device, in the mdev's."""
    return f"{device_path(mdev)}/vfio-dev/vfio{number}"


def vfio_group_path(number: int) -> str:
    """The directory of the VFIO group's device; the iommu group itself is elsewhere."""
    return f"devices/virtual/vfio/{number}"


def misc_path(name: str) -> str:
    """Of a device of the class misc."""
    return f"devices/virtual/misc/{name}"


def mdev_of(event: Event) -> Mdev:
    """The mdev that an event is about."""
    if event.mdev is None:
        raise ValueError(f"{event.kind.name} without an mdev")
    return event.mdev


def binding_of(event: Event) -> Binding:
    """The binding of that mdev at the time."""
    if event.binding is None:
        raise ValueError(f"{event.kind.name} without a binding")
    return event.binding
