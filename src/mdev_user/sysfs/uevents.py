"""Uevents: what Linux tells user space when something on the mdev bus happens, and the message for libudev.

Which come, in which order and with which properties is what Linux 7.2 was seen to send with its sample drivers (in
lib/kobject_uevent.c's order).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from struct import Struct

from mdev_user.mdev.events import Event, EventKind
from mdev_user.mdev.parent import MdevParent
from mdev_user.pci.identity import PciId
from mdev_user.sysfs.paths import (
    binding_of,
    class_path,
    device_path,
    driver_path,
    is_pci,
    mdev_of,
    misc_path,
    module_path,
    parent_path,
    pci_driver_path,
    vfio_device_path,
    vfio_group_path,
)
from mdev_user.vfio.device_numbers import CDEV_MAJOR, CONTAINER, GROUP_MAJOR, IOMMU, Number


@dataclass(frozen=True, slots=True)
class Uevent:
    """One uevent; ``properties`` are those beyond ACTION, DEVPATH, SUBSYSTEM and SEQNUM, in the kernel's order."""

    action: str
    devpath: str
    """With a leading slash, which is the root of sysfs."""
    subsystem: str
    properties: Mapping[str, str] = field(default_factory=dict)


def uevents_of(event: Event) -> tuple[Uevent, ...]:
    """What Linux sends at this moment; nothing for the events that only the tree is told."""
    if event.kind not in _UEVENTS:
        return ()
    return _UEVENTS[event.kind](event)


def pci_properties(identity: PciId, address: str) -> dict[str, str]:
    """Those of a PCI function, also in its ``uevent`` file (drivers/pci/pci-driver.c: pci_uevent)."""
    vendor, device, code = identity.vendor, identity.device, identity.class_code
    subsystem_vendor, subsystem = identity.subsystem_ids
    base, sub, interface = code.to_bytes(3, "big")
    return {
        "PCI_CLASS": f"{code:04X}",
        "PCI_ID": f"{vendor:04X}:{device:04X}",
        "PCI_SUBSYS_ID": f"{subsystem_vendor:04X}:{subsystem:04X}",
        "PCI_SLOT_NAME": address,
        "MODALIAS": f"pci:v{vendor:08X}d{device:08X}sv{subsystem_vendor:08X}sd{subsystem:08X}"
        f"bc{base:02X}sc{sub:02X}i{interface:02X}",
    }


def group_properties(number: int) -> dict[str, str]:
    """Those of a VFIO group, which has a node in /dev."""
    return node_properties(f"vfio/{number}", (GROUP_MAJOR, number))


def cdev_properties(number: int) -> dict[str, str]:
    """Those of a VFIO device, which has one, too."""
    return node_properties(f"vfio/devices/vfio{number}", (CDEV_MAJOR, number))


MISC: Mapping[str, tuple[str, Number]] = {"iommu": ("iommu", IOMMU), "vfio": ("vfio/vfio", CONTAINER)}
"""Devices of the class misc, each with its node in /dev: those through which an mdev is used.

In the order in which Linux has them: its module vfio needs iommufd.
"""
EVERYBODY = 0o666
"""Their mode. Linux says so of /dev/vfio/vfio, and leaves /dev/iommu (0660) to udev's rules; there is nothing in either
but what a program itself puts there."""


def misc_properties(name: str) -> dict[str, str]:
    """Of one of these."""
    return {**node_properties(*MISC[name]), "DEVMODE": f"{EVERYBODY:04o}"}


def node_properties(name: str, number: Number) -> dict[str, str]:
    """Those of whatever has a node in /dev, with its name there."""
    return {"MAJOR": str(number[0]), "MINOR": str(number[1]), "DEVNAME": name}


# --- on the wire -------------------------------------------------------------------------------------------------


def all_properties(uevent: Uevent, number: int) -> dict[str, str]:
    """Every property in the kernel's order; ``number`` is SEQNUM."""
    return {
        "ACTION": uevent.action,
        "DEVPATH": uevent.devpath,
        "SUBSYSTEM": uevent.subsystem,
        **uevent.properties,
        "SEQNUM": str(number),
    }


_UDEV_HEADER = Struct("=8s4s3I4s4s4s4s")
_UDEV_MAGIC = 0xFEEDCAFE


def udev_message(uevent: Uevent, number: int) -> bytes:
    """As systemd-udevd sends it to who listens with libudev (systemd: src/libsystemd/sd-device/device-monitor.c).

    A header of 40 bytes, then the KEY=VALUEs. Its magic, the hashes and the bloom filter are big-endian: listeners'
    socket filters (classic BPF) look at them before the listener is woken. The sizes are the machine's.
    """
    properties = _encoded(uevent, number)
    devtype = uevent.properties.get("DEVTYPE", "")
    bloom = _tag_bloom(uevent.properties.get("TAGS", ""))
    header = _UDEV_HEADER.pack(
        b"libudev",
        _big(_UDEV_MAGIC),
        _UDEV_HEADER.size,
        _UDEV_HEADER.size,
        len(properties),
        _big(murmur_hash(uevent.subsystem.encode())),
        _big(murmur_hash(devtype.encode()) if devtype else 0),
        _big(bloom >> 32),
        _big(bloom & _WORD),
    )
    return header + properties


_WORD = 0xFFFFFFFF
_MULTIPLIER = 0x5BD1E995


def murmur_hash(data: bytes) -> int:
    """MurmurHash2 by Austin Appleby: 32 bits, seed 0, little-endian words."""
    value = len(data)
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * _MULTIPLIER & _WORD
        word = (word ^ word >> 24) * _MULTIPLIER & _WORD
        value = value * _MULTIPLIER & _WORD ^ word
    if whole < len(data):
        value = (value ^ int.from_bytes(data[whole:], "little")) * _MULTIPLIER & _WORD
    value = (value ^ value >> 13) * _MULTIPLIER & _WORD
    return value ^ value >> 15


def _tag_bloom(tags: str) -> int:
    """Four bits of 64 for each of ``:tag:tag:``, chosen by six bits each of its hash."""
    bits = 0
    for tag in filter(None, tags.split(":")):
        value = murmur_hash(tag.encode())
        for shift in (0, 6, 12, 18):
            bits |= 1 << (value >> shift & 63)
    return bits


def _big(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _encoded(uevent: Uevent, number: int) -> bytes:
    return "".join(f"{key}={value}\0" for key, value in all_properties(uevent, number).items()).encode()


_VFIO_ADDED = tuple(Uevent("add", f"/{misc_path(name)}", "misc", misc_properties(name)) for name in MISC)
_MDEV_ADDED = (Uevent("add", "/bus/mdev", "bus"), Uevent("add", "/module/mdev", "module"))
BUS_ADDED = (*_VFIO_ADDED, *_MDEV_ADDED)
"""When the framework is there: Linux loads modules for it, here the daemon starts."""
BUS_REMOVED = tuple(replace(each, action="remove") for each in (*_MDEV_ADDED, *reversed(_VFIO_ADDED)))


# --- what each event is in Linux -----------------------------------------------------------------------------------


def _driver_of_bus(action: str) -> Callable[[Event], tuple[Uevent, ...]]:
    def uevents(event: Event) -> tuple[Uevent, ...]:
        return (Uevent(action, f"/{driver_path(event.parent.ops.driver_name)}", "drivers"),)

    return uevents


def _home(action: str) -> Callable[[Event], tuple[Uevent, ...]]:
    def uevents(event: Event) -> tuple[Uevent, ...]:
        name = event.parent.ops.driver_name
        if is_pci(event.parent):
            return (Uevent(action, f"/{pci_driver_path(name)}", "drivers"),)
        return (Uevent(action, f"/{class_path(name)}", "class"),)

    return uevents


def _module(action: str) -> Callable[[Event], tuple[Uevent, ...]]:
    def uevents(event: Event) -> tuple[Uevent, ...]:
        return (Uevent(action, f"/{module_path(event.parent.ops.driver_name)}", "module"),)

    return uevents


def _parent_registered(event: Event) -> tuple[Uevent, ...]:
    """A PCI function is there before its driver has it, and is bound when it has become a parent."""
    parent = event.parent
    bound = (_parent(parent, "bind", _driver(parent)),) if is_pci(parent) else ()
    return (_parent(parent, "add"), _parent(parent, "change", _state(parent, "registered")), *bound)


def _parent_unregistered(event: Event) -> tuple[Uevent, ...]:
    parent = event.parent
    unbound = (_parent(parent, "unbind"),) if is_pci(parent) else ()
    return (_parent(parent, "change", _state(parent, "unregistered")), *unbound, _parent(parent, "remove"))


def _parent(parent: MdevParent, action: str, properties: Mapping[str, str] | None = None) -> Uevent:
    """``properties`` come before those of the PCI function, as the kernel has it."""
    identity = parent.ops.identity
    own = pci_properties(identity, parent.name) if is_pci(parent) and identity is not None else {}
    subsystem = "pci" if is_pci(parent) else parent.ops.driver_name
    return Uevent(action, f"/{parent_path(parent)}", subsystem, {**(properties or {}), **own})


def _state(parent: MdevParent, state: str) -> dict[str, str]:
    return {"MDEV_STATE": state, **(_driver(parent) if is_pci(parent) else {})}


def _driver(parent: MdevParent) -> dict[str, str]:
    return {"DRIVER": parent.ops.driver_name}


def _mdev(action: str) -> Callable[[Event], tuple[Uevent, ...]]:
    def uevents(event: Event) -> tuple[Uevent, ...]:
        return (Uevent(action, f"/{device_path(mdev_of(event))}", "mdev"),)

    return uevents


def _mdev_bound(event: Event) -> tuple[Uevent, ...]:
    path = device_path(mdev_of(event))
    return (Uevent("bind", f"/{path}", "mdev", {"DRIVER": binding_of(event).driver}),)


def _group(action: str) -> Callable[[Event], tuple[Uevent, ...]]:
    def uevents(event: Event) -> tuple[Uevent, ...]:
        number = binding_of(event).number
        return (Uevent(action, f"/{vfio_group_path(number)}", "vfio", group_properties(number)),)

    return uevents


def _vfio(action: str) -> Callable[[Event], tuple[Uevent, ...]]:
    def uevents(event: Event) -> tuple[Uevent, ...]:
        number = binding_of(event).number
        path = vfio_device_path(mdev_of(event), number)
        return (Uevent(action, f"/{path}", "vfio-dev", cdev_properties(number)),)

    return uevents


_UEVENTS: dict[EventKind, Callable[[Event], tuple[Uevent, ...]]] = {
    EventKind.DRIVER_ADDED: _driver_of_bus("add"),
    EventKind.HOME_ADDED: _home("add"),
    EventKind.PARENT_REGISTERED: _parent_registered,
    EventKind.DRIVER_LOADED: _module("add"),
    EventKind.MDEV_ADDED: _mdev("add"),
    EventKind.GROUP_ADDED: _group("add"),
    EventKind.VFIO_ADDED: _vfio("add"),
    EventKind.MDEV_BOUND: _mdev_bound,
    EventKind.VFIO_REMOVED: _vfio("remove"),
    EventKind.GROUP_REMOVED: _group("remove"),
    EventKind.MDEV_UNBOUND: _mdev("unbind"),
    EventKind.MDEV_REMOVED: _mdev("remove"),
    EventKind.PARENT_UNREGISTERED: _parent_unregistered,
    EventKind.DRIVER_REMOVED: _driver_of_bus("remove"),
    EventKind.HOME_REMOVED: _home("remove"),
    EventKind.DRIVER_UNLOADED: _module("remove"),
}
