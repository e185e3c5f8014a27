"""What a driver's attributes may be called: other than what the framework has in the same directory."""

from collections.abc import Iterable

from mdev_user.errors import DriverError
from mdev_user.mdev.names import is_file_name
from mdev_user.mdev.types import MdevAttribute

OF_MDEVS = frozenset(
    {"driver", "iommu_group", "mdev_type", "power", "remove", "subsystem", "uevent", "vfio-dev"}
)  # fmt: skip
OF_PARENTS = frozenset({"driver", "mdev_supported_types", "power", "subsystem", "uevent"})
OF_PCI_FUNCTIONS = OF_PARENTS | {
    "ari_enabled", "broken_parity_status", "class", "config", "consistent_dma_mask_bits", "d3cold_allowed", "device",
    "dma_mask_bits", "driver_override", "enable", "firmware_node", "iommu_group", "irq", "link", "local_cpulist",
    "local_cpus", "modalias", "msi_bus", "msi_irqs", "numa_node", "physfn", "power_state", "remove", "rescan", "reset",
    "resource", "revision", "rom", "subsystem_device", "subsystem_vendor", "vendor",
}  # fmt: skip
"""What Linux 7.2 has in the directory of a PCI function, whether or not ours has it."""


def check_names(owner: str, attributes: Iterable[MdevAttribute], reserved: frozenset[str]) -> None:
    """DriverError for a name that is no file name, is ``reserved``, or is given twice; ``owner`` is for the message."""
    groups: set[str] = set()
    names: set[str] = set()
    for each in attributes:
        path = f"{each.group}/{each.name}" if each.group else each.name
        top = each.group or each.name
        if not (is_file_name(each.name) and is_file_name(top)):
            raise DriverError(f"{owner}: an attribute is named by file names, given {path!r}")
        if top in reserved:
            raise DriverError(f"{owner}: attribute {path}: sysfs has {top} there itself; give it another name or group")
        if path in names or top in (names if each.group else groups):
            raise DriverError(f"{owner}: attribute {path}: {top} is there already")
        names.add(path)
        groups |= {each.group} if each.group else set()
