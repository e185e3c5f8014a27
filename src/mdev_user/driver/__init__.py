"""The authoring API: all that a parent driver imports.

Today the low-level contract: a parent is an `MdevParentOps`, each of its mdevs a `DeviceOps`, most of which a
`PciFunction` answers. The declarative API is built on this.
"""

from mdev_user.errors import (
    DmaFault,
    DriverError,
    GuestError,
    NoSpace,
    NotSupported,
    OutOfRange,
    UnknownRequest,
)
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.types import MdevAttribute, MdevType
from mdev_user.pci.bars import IoBar, MemoryBar
from mdev_user.pci.capabilities import Msi, Msix, PciExpress, PowerManagement, VendorSpecific
from mdev_user.pci.config import ConfigSpace
from mdev_user.pci.identity import PciId
from mdev_user.pci.interrupts import Interrupts
from mdev_user.units import PAGE, GiB, KiB, MiB
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.pci_function import BarRegion, PciFunction
from mdev_user.vfio.requests import (
    Area,
    DeviceInfo,
    GetInfo,
    GetIrqInfo,
    GetRegionInfo,
    Irq,
    IrqInfo,
    Region,
    RegionFlags,
    RegionInfo,
    Reply,
    Request,
    Reset,
    SetIrqs,
)
from mdev_user.vfio.work import Sleep
from mdev_user.vfio_mdev.ops import MdevParentOps

__all__ = [
    "PAGE",
    "Area",
    "BarRegion",
    "ConfigSpace",
    "DeviceInfo",
    "DeviceOps",
    "DmaFault",
    "DriverError",
    "GetInfo",
    "GetIrqInfo",
    "GetRegionInfo",
    "GiB",
    "GuestError",
    "Interrupts",
    "IoBar",
    "Irq",
    "IrqInfo",
    "KiB",
    "Mdev",
    "MdevAttribute",
    "MdevParentOps",
    "MdevType",
    "MemoryBar",
    "MiB",
    "Msi",
    "Msix",
    "NoSpace",
    "NotSupported",
    "OutOfRange",
    "PciExpress",
    "PciFunction",
    "PciId",
    "PowerManagement",
    "Region",
    "RegionFlags",
    "RegionInfo",
    "Reply",
    "Request",
    "Reset",
    "SetIrqs",
    "Sleep",
    "UnknownRequest",
    "VendorSpecific",
    "VfioDevice",
]
