"""A registered parent: a driver's operations under a name, and the lock that orders creates against its end."""

from collections.abc import Iterator
from contextlib import contextmanager

from mdev_user.errors import DriverError, NoDevice
from mdev_user.mdev.attribute_names import OF_MDEVS, OF_PARENTS, OF_PCI_FUNCTIONS, check_names
from mdev_user.mdev.names import check_driver_name, is_file_name
from mdev_user.mdev.ops import LifecycleOps
from mdev_user.mdev.registration import Registration
from mdev_user.mdev.types import MdevType
from mdev_user.pci.address import PciAddress, parse_address
from mdev_user.pci.identity import PciId


class MdevParent:
    """``name`` is the device's name in class/mdev_bus; ``ops`` may live in another process.

    A parent whose name is a PCI address is a PCI function to whoever looks at sysfs, and needs an identity.
    """

    def __init__(self, name: str, ops: LifecycleOps) -> None:
        _check(name, ops)
        self.name = name
        self.address = _address(name, ops)
        """None for a device that is on no bus."""
        check_names(f"parent {name}", ops.parent_attributes, OF_PCI_FUNCTIONS if self.address else OF_PARENTS)
        check_names(f"the mdevs of parent {name}", ops.attributes, OF_MDEVS)
        self.ops = ops
        self.types = {f"{ops.driver_name}-{each.name}": each for each in ops.mdev_types}
        self.instances = 0
        """Core-counted instances in use; under the bus's lock."""
        self._registration = Registration()

    def type_id(self, mdev_type: MdevType) -> str:
        return f"{self.ops.driver_name}-{mdev_type.name}"

    @contextmanager
    def registered(self) -> Iterator[None]:
        """Stay registered for as long as this is held. ENODEV when the parent is being unregistered."""
        if not self._registration.try_enter():
            raise NoDevice(f"parent {self.name} is being unregistered")
        try:
            yield
        finally:
            self._registration.leave()

    def unregister(self) -> bool:
        """Refuse creates and removes from now on, and wait for those that run. False when somebody else did."""
        return self._registration.end()


def _address(name: str, ops: LifecycleOps) -> PciAddress | None:
    if not isinstance(ops.identity, PciId | None):
        raise DriverError(f"parent {name}: identity: expected a PciId, given {ops.identity!r}")
    address = parse_address(name)
    if address is not None and ops.identity is None:
        raise DriverError(
            f"parent {name} would be a PCI function by its name, and {ops.driver_name} has no identity to show of it: "
            "give the driver's class one, identity = PciId(vendor=..., device=..., class_code=...), or the parent a "
            "name that is no PCI address"
        )
    return address


def _check(name: str, ops: LifecycleOps) -> None:
    if not is_file_name(name):
        raise DriverError(f"a parent's name is a file name, given {name!r}")
    check_driver_name(f"parent {name}", ops.driver_name)
    if not ops.mdev_types:
        raise DriverError(f"parent {name}: expected at least one mdev type, given none")
    names = [each.name for each in ops.mdev_types]
    for each in names:
        if not each or not is_file_name(f"{ops.driver_name}-{each}") or names.count(each) > 1:
            raise DriverError(f"parent {name}: mdev types are named by different file names, given {each!r}")
