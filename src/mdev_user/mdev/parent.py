"""A registered parent: a driver's operations under a name, and the lock that orders creates against its end."""

from collections.abc import Iterator
from contextlib import contextmanager

from mdev_user.errors import DriverError, NoDevice
from mdev_user.mdev.ops import LifecycleOps
from mdev_user.mdev.registration import Registration
from mdev_user.mdev.types import MdevType


class MdevParent:
    """``name`` is the device's name in class/mdev_bus; ``ops`` may live in another process."""

    def __init__(self, name: str, ops: LifecycleOps) -> None:
        _check(name, ops)
        self.name = name
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


def _check(name: str, ops: LifecycleOps) -> None:
    if not name or "/" in name or name in {".", ".."}:
        raise DriverError(f"a parent's name is a file name, given {name!r}")
    if not ops.driver_name or "/" in ops.driver_name:
        raise DriverError(f"parent {name}: driver_name begins the names of its types, given {ops.driver_name!r}")
    if not ops.mdev_types:
        raise DriverError(f"parent {name}: expected at least one mdev type, given none")
    names = [each.name for each in ops.mdev_types]
    for each in names:
        if not each or "/" in each or names.count(each) > 1:
            raise DriverError(f"parent {name}: mdev types are named by different file names, given {each!r}")
