"""What each file of the tree shows and takes: modes, texts and errno are Linux 7.2's.

Subjects are shared by the files of one directory, so that a file costs a node and nothing else.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from mdev_user.errors import InvalidValue, NoDevice, NotReady
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.device import Mdev, State
from mdev_user.mdev.parent import MdevParent
from mdev_user.mdev.parsing import parse_unsigned, parse_uuid
from mdev_user.mdev.types import MdevAttribute, MdevType
from mdev_user.sysfs.tree import Rule

_UEVENT = re.compile(
    rb"(add|remove|change|move|online|offline|bind|unbind)"
    rb"( [0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}( [0-9A-Za-z]+=[0-9A-Za-z]+)*)?"
)
_SHOWN = 60


S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class TypeOf:
    """The subject of a type's files."""

    bus: Bus
    parent: MdevParent
    type: MdevType


@dataclass(frozen=True, slots=True)
class Device:
    """The subject of an mdev's own files."""

    bus: Bus
    mdev: Mdev


@dataclass(frozen=True, slots=True)
class DriverOf:
    """The subject of a bus driver's files."""

    bus: Bus
    name: str


@dataclass(slots=True)
class BusFiles:
    """The subject of the bus's own files."""

    bus: Bus
    autoprobe: bool = True


# --- uevent: the same for all --------------------------------------------------------------------------------


def check_uevent(data: bytes) -> None:
    """An action as Linux takes it: a word, then perhaps a UUID and KEY=VALUE pairs. EINVAL.

    Nothing is sent: an unprivileged process has no uevent socket of the kernel's; the daemon's own events are its
    listeners'.
    """
    text = data[:-1] if data[-1:] in {b"\n", b"\0"} else data
    if not _UEVENT.fullmatch(text):
        raise InvalidValue(
            f"expected an action (add, change ...), perhaps a UUID and KEY=VALUE, given {data[:_SHOWN]!r}"
        )


def _store_uevent(_subject: object, data: bytes) -> None:
    check_uevent(data)


def _nothing(_subject: object) -> str:
    return ""


UEVENT_OF_DEVICE: Rule[object] = Rule(0o644, _nothing, _store_uevent)
UEVENT_WRITE_ONLY: Rule[object] = Rule(0o200, None, _store_uevent)
"""Of a bus or a driver."""


# --- a type --------------------------------------------------------------------------------------------------


def _name(of: TypeOf) -> str:
    return f"{of.type.pretty_name or of.type.name}\n"


def _description(of: TypeOf) -> str:
    return f"{of.type.description}\n"


def _device_api(of: TypeOf) -> str:
    return f"{of.type.device_api}\n"


def _available_instances(of: TypeOf) -> str:
    return f"{of.bus.available(of.parent, of.type)}\n"


def _create(of: TypeOf, data: bytes) -> None:
    """EINVAL unless a UUID (see `parse_uuid`); otherwise what `Bus.create` says."""
    of.bus.create(of.parent, of.parent.type_id(of.type), parse_uuid(data))


TYPE_FILES: dict[str, Rule[TypeOf]] = {
    "available_instances": Rule(0o444, _available_instances),
    "create": Rule(0o200, None, _create),
    "device_api": Rule(0o444, _device_api),
    "name": Rule(0o444, _name),
}
DESCRIPTION: Rule[TypeOf] = Rule(0o444, _description)
"""Absent where the driver describes nothing."""


# --- an mdev -------------------------------------------------------------------------------------------------


def _driver_of(device: Device) -> str:
    binding = device.mdev.binding
    return f"DRIVER={binding.driver}\n" if binding is not None else ""


def _remove(device: Device, data: bytes) -> None:
    """Any number but 0 removes; blocks while the mdev is in use. ENODEV for who comes second, as in Linux."""
    if not parse_unsigned(data):
        return
    bus, mdev = device.bus, device.mdev
    if bus.mdev(mdev.uuid) is not mdev:
        raise NoDevice(f"{mdev.uuid} is gone; one that came later has its UUID")
    try:
        bus.remove(mdev.uuid)
    except NotReady:
        if mdev.state is State.REMOVING:
            raise NoDevice(f"{mdev.uuid} is being removed") from None
        raise


DEVICE_FILES: dict[str, Rule[Device]] = {
    "remove": Rule(0o200, None, _remove),
    "uevent": Rule(0o644, _driver_of, _store_uevent),
}


def vendor_rule(attribute: MdevAttribute) -> Rule[Mdev]:
    """The rule of one of the parent driver's attributes; its errors are the driver's."""

    def show(mdev: Mdev) -> str:
        return mdev.parent.ops.show(mdev, attribute)

    def store(mdev: Mdev, data: bytes) -> None:
        mdev.parent.ops.store(mdev, attribute, data)

    return _vendor(attribute, show, store)


def parent_rule(attribute: MdevAttribute) -> Rule[MdevParent]:
    """The same of a file in the parent's own directory."""

    def show(parent: MdevParent) -> str:
        return parent.ops.show_parent(attribute)

    def store(parent: MdevParent, data: bytes) -> None:
        parent.ops.store_parent(attribute, data)

    return _vendor(attribute, show, store)


def _vendor(attribute: MdevAttribute, show: Callable[[S], str], store: Callable[[S, bytes], None]) -> Rule[S]:
    mode = 0o444 * attribute.readable | 0o200 * attribute.writable
    return Rule(mode, show if attribute.readable else None, store if attribute.writable else None)


# --- the bus and its drivers -----------------------------------------------------------------------------------


def _named(bus: Bus, data: bytes) -> Mdev:
    """The mdev with the name that was written (one newline allowed). ENODEV, also for what is no name at all."""
    text = data[:-1] if data.endswith(b"\n") else data
    try:
        mdev = bus.mdev(UUID(text.decode()))
    except ValueError:
        raise NoDevice(f"expected the UUID of an mdev, given {data[:_SHOWN]!r}") from None
    if str(mdev.uuid).encode() != text or mdev.state is State.REMOVING:
        raise NoDevice(f"no mdev of the name {data[:_SHOWN]!r} is on the bus")
    return mdev


def _bind(driver: DriverOf, data: bytes) -> None:
    driver.bus.bind(_named(driver.bus, data), driver.name)


def _unbind(driver: DriverOf, data: bytes) -> None:
    """Blocks while the mdev is in use."""
    driver.bus.unbind(_named(driver.bus, data), driver.name)


DRIVER_FILES: dict[str, Rule[DriverOf]] = {
    "bind": Rule(0o200, None, _bind),
    "unbind": Rule(0o200, None, _unbind),
}


def _autoprobe(files: BusFiles) -> str:
    return f"{files.autoprobe:d}\n"


def _store_autoprobe(files: BusFiles, data: bytes) -> None:
    """As in Linux the first byte counts; it has no effect on `create`, which attaches by itself."""
    files.autoprobe = data[:1] != b"0"


def drivers_probe(driver: str) -> Rule[BusFiles]:
    """Offer an mdev to the bus's driver; nothing happens to one that is bound. ENODEV for an unknown name."""

    def store(files: BusFiles, data: bytes) -> None:
        mdev = _named(files.bus, data)
        if mdev.binding is None:
            files.bus.bind(mdev, driver)

    return Rule(0o200, None, store)


AUTOPROBE: Rule[BusFiles] = Rule(0o644, _autoprobe, _store_autoprobe)


# --- groups --------------------------------------------------------------------------------------------------


def _store_group_type(_subject: object, data: bytes) -> None:
    raise InvalidValue(f"a mediated device's group has no domain to change, given {data[:_SHOWN]!r}")


GROUP_FILES: dict[str, Rule[object]] = {
    "name": Rule(0o444, lambda _subject: "vfio-noiommu\n"),
    "reserved_regions": Rule(0o444, _nothing),
    "type": Rule(0o644, lambda _subject: "unknown\n", _store_group_type),
}


def _devname(number: int) -> str:
    return f"DEVNAME=vfio/{number}\n"


UEVENT_OF_GROUP: Rule[int] = Rule(0o644, _devname, _store_uevent)
"""Linux adds MAJOR and MINOR, and a file ``dev``; our groups have no character device."""
