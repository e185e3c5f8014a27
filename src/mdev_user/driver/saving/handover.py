# ruff: noqa: SLF001 - a device and its units are the framework's own
"""Handover: a user of one device goes on with another, made of a newer class of the driver.

What the user has in hand stays: its mappings, its eventfds, the memory that it maps, the config space. The state is
saved and loaded; where it cannot be loaded the user finds a device that was reset (VFIO_DEVICE_RESET).
"""

from dataclasses import replace

from mdev_user.driver.attributes import carry_settings
from mdev_user.driver.device import Device
from mdev_user.driver.function import ResetKind
from mdev_user.errors import DriverError, GuestError, StateError
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.requests import MOST_REGIONS, GetIrqInfo, GetRegionInfo, Irq, Region, Reply


def check_shapes(old: Device, new: Device) -> None:
    """DriverError when a user of the one could not go on with the other: it was told of BARs and vectors long ago.

    Otherwise ``new`` has the config space and the settings of ``old``.
    """
    for index in range(MOST_REGIONS):
        if _region(old, index) != _region(new, index):
            what = "BAR" if index < Region.COUNT else "region"
            raise DriverError(f"{what} {index} is another one: its users would have to open the device again")
    for irq in Irq:
        if irq is not Irq.COUNT and old.ioctl(GetIrqInfo(irq)) != new.ioctl(GetIrqInfo(irq)):
            raise DriverError(f"{irq.name} has other vectors: its users would have to open the device again")
    try:
        new._pci.config.load(old._pci.config.save())
    except GuestError as error:
        raise DriverError(
            f"the config space is another one ({error}): its users would have to open it again"
        ) from error
    carry_settings(new.function._plan.attributes, old.function._settings, new.function._settings)


def hand_over(device: VfioDevice, old: Device, new: Device) -> str:
    """Let ``device``'s user, if it has one, go on with ``new``: a step, after `check_shapes`.

    Returns why the state could not be loaded, nothing when it was. What the new driver raises otherwise leaves the old
    device in use, its jobs started again.
    """
    if not device.opened:
        device.replace(new)
        return ""
    state, lost = old.save(), old.unmigratable()
    old.cancel_jobs()
    try:
        reason = _go_on(device, old, new, state, lost)
    except BaseException:  # SystemExit too: driver code
        take_back(device, old, new, state)
        raise
    old.leave_user()
    return reason


def take_back(device: VfioDevice, old: Device, new: Device, state: bytes) -> None:
    """Undo a `hand_over` within its step: ``old`` is as it was when it saved ``state``, and so are its jobs."""
    device.replace(old)
    if not device.opened:
        return
    device.cancel_jobs()
    old.adopt_user(device, new._pci)
    old.load(state)
    _release_pin(old)
    new.leave_user()


def _go_on(device: VfioDevice, old: Device, new: Device, state: bytes, lost: str | None) -> str:
    """``lost``: why the state is not all that there is to the old device."""
    new._pci.config.load(old._pci.config.save())  # the guest may have written to it since `check_shapes`
    new.adopt_user(device, old._pci)
    device.replace(new)
    reason = ""
    try:
        if lost is not None:
            raise StateError(lost)
        new.load(state)
    except StateError as error:
        reason = str(error)
        _reset(old, new)
    _release_pin(new)
    return reason


def _release_pin(device: Device) -> None:
    """Where the other device's pin was up, this one, whose pin is down, never knew."""
    if not device._pci.interrupts.pin:
        device._pci.irqs.set_level(False)


def _reset(old: Device, new: Device) -> None:
    """As VFIO_DEVICE_RESET leaves a device: config space and the MSI-X table as they were, and nothing pending."""
    new._pci.interrupts.load(replace(old._pci.interrupts.save(), levels=0, pending=0))
    new._reset(ResetKind.FUNCTION)


def _region(device: Device, index: int) -> Reply:
    """None for one that is not there."""
    try:
        return device.ioctl(GetRegionInfo(index))
    except GuestError:
        return None
