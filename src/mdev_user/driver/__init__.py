"""The authoring API: all that a parent driver imports.

A driver declares a `Function`, what a guest sees, and a `Parent`, what it is a slice of. Below that lies the low-level
contract, for drivers that do everything by hand: a parent is an `MdevParentOps`, each of its mdevs a `DeviceOps`, most
of which a `PciFunction` answers.
"""

from mdev_user.driver.attributes import Attribute, AttributeGroup, attribute
from mdev_user.driver.device import Device
from mdev_user.driver.dma import Dma, sleep
from mdev_user.driver.edid import edid_of
from mdev_user.driver.engine import Claim, Engine, Turn
from mdev_user.driver.function import Function, ResetKind
from mdev_user.driver.hooks import on_read, on_read_each, on_write, on_write_each
from mdev_user.driver.interrupts import INTX, MSI, MSIX, Interrupt, Message, pending
from mdev_user.driver.jobs import job, worker
from mdev_user.driver.members import declarations
from mdev_user.driver.memory import Memory
from mdev_user.driver.offload import offload
from mdev_user.driver.parent import Parent
from mdev_user.driver.parts import Part, Parts
from mdev_user.driver.policy import Policy
from mdev_user.driver.pools import Instances, Pool, Profile
from mdev_user.driver.process import Calls, Process
from mdev_user.driver.program import MappedMemory, Pending, Piece, Program
from mdev_user.driver.regions import Alias, DeviceRegion
from mdev_user.driver.saving.snapshot import SavedJob, Snapshot
from mdev_user.driver.shares import Share
from mdev_user.driver.state import Saved, Session, Table
from mdev_user.driver.virtio.chain import Chain, KeptChain
from mdev_user.driver.virtio.function import VirtioFunction
from mdev_user.driver.virtio.keeping import KeptChains
from mdev_user.driver.virtio.queue import Virtqueue
from mdev_user.driver.virtio.transport import VirtioConfig
from mdev_user.errors import (
    DmaFault,
    DriverError,
    GuestError,
    InvalidValue,
    NoSpace,
    NotSupported,
    OutOfRange,
    ProcessEnded,
    StateError,
    UnknownRequest,
)
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.types import MdevAttribute, MdevType
from mdev_user.pci.bars import IoBar, MemoryBar
from mdev_user.pci.capabilities import Msi, Msix, PciExpress, PowerManagement, VendorSpecific
from mdev_user.pci.config import ConfigSpace
from mdev_user.pci.identity import PciId
from mdev_user.pci.interrupts import Interrupts
from mdev_user.regs.arrays import Each, RegisterFile
from mdev_user.regs.bar import Bar
from mdev_user.regs.fields import Field, Flag
from mdev_user.regs.kinds import RC, RO, RSVD, RW, RW1C, RW1S, UNIMPL, WO, Access
from mdev_user.regs.refs import Ref
from mdev_user.regs.registers import U8, U16, U32, U64, Register
from mdev_user.units import PAGE, GiB, KiB, MiB
from mdev_user.vfio.damage import Rect
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.pci_function import BarRegion, PciFunction
from mdev_user.vfio.planes import XR24, Plane, PlaneType
from mdev_user.vfio.programs import Timed
from mdev_user.vfio.requests import (
    GFX_EDID,
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
    RegionType,
    Reply,
    Request,
    Reset,
    SetIrqs,
)
from mdev_user.vfio.scatter_list import ScatterList
from mdev_user.vfio.screens import AB24, AR24, BA24, BX24, RA24, RX24, XB24, Picture, Pointer
from mdev_user.vfio.work import Sleep
from mdev_user.vfio_mdev.ops import MdevParentOps

__all__ = [
    "AB24",
    "AR24",
    "BA24",
    "BX24",
    "GFX_EDID",
    "INTX",
    "MSI",
    "MSIX",
    "PAGE",
    "RA24",
    "RC",
    "RO",
    "RSVD",
    "RW",
    "RW1C",
    "RW1S",
    "RX24",
    "U8",
    "U16",
    "U32",
    "U64",
    "UNIMPL",
    "WO",
    "XB24",
    "XR24",
    "Access",
    "Alias",
    "Area",
    "Attribute",
    "AttributeGroup",
    "Bar",
    "BarRegion",
    "Calls",
    "Chain",
    "Claim",
    "ConfigSpace",
    "Device",
    "DeviceInfo",
    "DeviceOps",
    "DeviceRegion",
    "Dma",
    "DmaFault",
    "DriverError",
    "Each",
    "Engine",
    "Field",
    "Flag",
    "Function",
    "GetInfo",
    "GetIrqInfo",
    "GetRegionInfo",
    "GiB",
    "GuestError",
    "Instances",
    "Interrupt",
    "Interrupts",
    "InvalidValue",
    "IoBar",
    "Irq",
    "IrqInfo",
    "KeptChain",
    "KeptChains",
    "KiB",
    "MappedMemory",
    "Mdev",
    "MdevAttribute",
    "MdevParentOps",
    "MdevType",
    "Memory",
    "MemoryBar",
    "Message",
    "MiB",
    "Msi",
    "Msix",
    "NoSpace",
    "NotSupported",
    "OutOfRange",
    "Parent",
    "Part",
    "Parts",
    "PciExpress",
    "PciFunction",
    "PciId",
    "Pending",
    "Picture",
    "Piece",
    "Plane",
    "PlaneType",
    "Pointer",
    "Policy",
    "Pool",
    "PowerManagement",
    "Process",
    "ProcessEnded",
    "Profile",
    "Program",
    "Rect",
    "Ref",
    "Region",
    "RegionFlags",
    "RegionInfo",
    "RegionType",
    "Register",
    "RegisterFile",
    "Reply",
    "Request",
    "Reset",
    "ResetKind",
    "Saved",
    "SavedJob",
    "ScatterList",
    "Session",
    "SetIrqs",
    "Share",
    "Sleep",
    "Snapshot",
    "StateError",
    "Table",
    "Timed",
    "Turn",
    "UnknownRequest",
    "VendorSpecific",
    "VfioDevice",
    "VirtioConfig",
    "VirtioFunction",
    "Virtqueue",
    "attribute",
    "declarations",
    "edid_of",
    "job",
    "offload",
    "on_read",
    "on_read_each",
    "on_write",
    "on_write_each",
    "pending",
    "sleep",
    "worker",
]
