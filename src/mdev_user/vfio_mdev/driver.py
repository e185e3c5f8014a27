"""probe() makes a VFIO device of an mdev, remove() takes it away; every operation is the parent's own."""

from typing import Protocol
from uuid import UUID

from mdev_user.errors import DriverError
from mdev_user.mdev.device import Mdev
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.ops import DeviceOps


class Registrar(Protocol):
    """Where VFIO devices are offered to users: the counterpart of Linux's VFIO core and its device nodes."""

    def register(self, device: VfioDevice) -> None:
        """Users can open the device when this returns. Raises when it cannot be offered."""
        ...

    def unregister(self, device: VfioDevice) -> None:
        """No new user from now on; returns when the last one is gone."""
        ...


class VfioMdev:
    """The driver ``vfio_mdev`` of the mdev bus."""

    name = "vfio_mdev"

    def __init__(self, registrar: Registrar) -> None:
        self._registrar = registrar
        self._devices: dict[UUID, VfioDevice] = {}

    def probe(self, mdev: Mdev) -> None:
        """Register a VFIO device whose operations are those that the parent's `create` returned."""
        ops = mdev.drvdata
        if not isinstance(ops, DeviceOps):
            raise DriverError(f"{mdev.parent.name}: create returned {ops!r}: expected the mdev's DeviceOps")
        device = VfioDevice(mdev.uuid, f"{mdev.parent.name}/{mdev.type_id}", ops)
        self._registrar.register(device)
        self._devices[mdev.uuid] = device

    def remove(self, mdev: Mdev) -> None:
        """Unregister the VFIO device; blocks while it is open, asking the parent's `request` now and then."""
        self._registrar.unregister(self._devices.pop(mdev.uuid))
