# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Transport: the BAR of a virtio device, and the capabilities by which a guest finds its structures (section 4.1.4)."""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from struct import Struct
from types import new_class
from typing import Any, NamedTuple

from mdev_user.driver.virtio.queue import Virtqueue
from mdev_user.errors import DriverError
from mdev_user.pci.capabilities import VendorSpecific
from mdev_user.pci.identity import PciId
from mdev_user.regs.bar import Bar
from mdev_user.regs.fields import Flag
from mdev_user.regs.kinds import RC, RO, RW1S, WO
from mdev_user.regs.registers import U8, U16, U32, U64, Register
from mdev_user.regs.slots import Values

NO_VECTOR = 0xFFFF
QUEUE_INTERRUPT, CONFIG_INTERRUPT = 1, 2
"""Bits of the ISR status."""
_COMMON, _NOTIFY, _ISR, _DEVICE = 1, 2, 3, 4
"""Kinds of structures."""
_COMMON_SIZE, _ISR_AT, _NOTIFY_AT = 0x38, 0x40, 0x80
_STRUCTURE = Struct("<BBB2xII")
_LOW = (1 << 32) - 1

_CLASSES: Mapping[int, int] = {1: 0x020000, 2: 0x010000, 3: 0x078000, 8: 0x010000, 16: 0x038000, 18: 0x098000}
"""The class codes of network, block, console, SCSI, GPU and input devices."""
_OTHER = 0x00FF00

_device_feature_select, _driver_feature_select, _queue_select = U32(0x00), U32(0x08), U16(0x16)


DRIVER_OK, NEEDS_RESET = 1 << 2, 1 << 6


class Status(Register, size=1):
    """Section 2.1."""

    acknowledge, driver, driver_ok, features_ok = Flag(0), Flag(1), Flag(2), Flag(3)
    needs_reset, failed = Flag(6, RO), Flag(7)


class Transport(Bar, index=0, size=4096):
    """The registers that all devices have; a device's own class has those of its queues, behind ``queue_select``."""

    device_feature_select, driver_feature_select = _device_feature_select, _driver_feature_select
    driver_features_low = U32(0x0C, bank=_driver_feature_select.equals(0))
    driver_features_high = U32(0x0C, bank=_driver_feature_select.equals(1))
    config_vector = U16(0x10, reset=NO_VECTOR)
    status, config_generation, queue_select = Status.at(0x14), U8(0x15, RO), _queue_select
    isr, notify = U8(_ISR_AT, RC), U16(_NOTIFY_AT, WO)


class VirtioConfig(Bar, index=2, size=4096):
    """The device configuration: ``class Settings(VirtioConfig)`` with registers, and ``settings = Settings()``.

    A bar as any other. Call `VirtioFunction.config_changed` when what a guest reads there has changed.
    """


def transport_of(offered: int, queues: Sequence[Virtqueue]) -> type[Transport]:
    """The BAR of devices that offer these features, or some of them, and have these queues."""

    def declare(members: dict[str, Any]) -> None:  # Any: what stands in a class body
        for half, shift in (("low", 0), ("high", 32)):
            bank = _device_feature_select.equals(shift // 32)
            members[f"device_features_{half}"] = U32(0x04, RO, reset=offered >> shift & _LOW, bank=bank)
        members["queue_count"] = U16(0x12, RO, reset=len(queues))
        for number, each in enumerate(queues):
            members.update(_queue_registers(number, each._size))

    made: type[Transport] = new_class("Transport", (Transport,), {}, declare)
    return made


def _queue_registers(number: int, size: int) -> dict[str, object]:
    bank, name = _queue_select.equals(number), f"queue{number}"
    return {
        f"{name}_size": U16(0x18, reset=size, bank=bank),
        f"{name}_vector": U16(0x1A, reset=NO_VECTOR, bank=bank),
        f"{name}_enable": U16(0x1C, RW1S, bank=bank),  # only a reset disables a queue
        f"{name}_notify_offset": U16(0x1E, RO, bank=bank),
        f"{name}_descriptors": U64(0x20, bank=bank),
        f"{name}_available": U64(0x28, bank=bank),
        f"{name}_used": U64(0x30, bank=bank),
    }


class QueueRegisters(NamedTuple):
    """Where the registers of a queue are among the values of the bar: it is asked for with every chain."""

    ring: Callable[[Values], tuple[int, ...]]
    """Status, enable, size, and the addresses of descriptors, available and used ring."""
    vector: int


def queue_registers(bar: type[Transport], number: int) -> QueueRegisters:
    """Of a bar that `transport_of` made."""
    places = {slot.name: slot.index for slot in bar._layout.slots}
    names = (f"queue{number}_{part}" for part in ("enable", "size", "descriptors", "available", "used"))
    return QueueRegisters(
        itemgetter(places["status"], *(places[name] for name in names)), places[f"queue{number}_vector"]
    )


def structures(config: type[VirtioConfig] | None) -> tuple[VendorSpecific, ...]:
    """The capabilities of a device."""
    found = [
        _capability(_COMMON, 0, 0, _COMMON_SIZE),
        _capability(_NOTIFY, 0, _NOTIFY_AT, 2, bytes(4)),  # one register for all queues: a multiplier of 0
        _capability(_ISR, 0, _ISR_AT, 1),
    ]
    if config is not None:
        length = max((slot.end for slot in config._layout.slots), default=0)
        found.append(_capability(_DEVICE, config._number, 0, length))
    return tuple(found)


def _capability(kind: int, bar: int, offset: int, length: int, more: bytes = b"") -> VendorSpecific:
    return VendorSpecific(_STRUCTURE.pack(kind, bar, 0, offset, length) + more)


def identity_of(owner: str, virtio_id: object) -> PciId:
    """The PCI identity of a kind of device (section 4.1.2)."""
    if type(virtio_id) is not int or not 1 <= virtio_id <= 63:
        raise DriverError(
            f"{owner}.virtio_id: expected the kind of device, 1 to 63 (4 is entropy), given {virtio_id!r}"
        )
    code = _CLASSES.get(virtio_id, _OTHER)
    return PciId(vendor=0x1AF4, device=0x1040 + virtio_id, class_code=code, revision=1, subsystem=0x40 + virtio_id)
