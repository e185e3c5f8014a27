"""The life-cycle operations of a parent driver: the contract between it and the mdev framework."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdev_user.errors import NotSupported
from mdev_user.mdev.types import MdevAttribute, MdevType
from mdev_user.pci.identity import PciId

if TYPE_CHECKING:
    from mdev_user.mdev.device import Mdev


class LifecycleOps(ABC):
    """What a parent can be asked. Several creates and removes of one parent may run at the same time.

    ``driver_name`` is the first part of the type ids. With ``max_instances`` the framework counts instances over
    all types and answers EUSERS when they are used up; without it the driver counts: `get_available` and NoSpace
    (ENOSPC) from `create`. ``identity`` is that of the physical device, as sysfs shows it of a parent which is a PCI
    function by its name.
    """

    driver_name: str
    mdev_types: Sequence[MdevType]
    max_instances: int | None = None
    attributes: Sequence[MdevAttribute] = ()
    """Files in the directory of each of its mdevs."""
    parent_attributes: Sequence[MdevAttribute] = ()
    """Files in its own."""
    identity: PciId | None = None
    """Without one no parent of it can have the name of a PCI function."""

    @abstractmethod
    def create(self, mdev: "Mdev") -> object:
        """Allocate what the mdev needs and return its state, which becomes ``mdev.drvdata``.

        Whatever is raised ends the create; its errno reaches the writer of the UUID.
        """

    @abstractmethod
    def remove(self, mdev: "Mdev") -> None:
        """Give back what `create` took. Cannot be refused: an error is only logged."""

    def get_available(self, mdev_type: MdevType) -> int:
        """How many more mdevs of this type could be created now. Only asked where ``max_instances`` is None."""
        raise NotSupported(f"{self.driver_name} counts no instances of {mdev_type.name}: give max_instances or this")

    def show(self, mdev: "Mdev", attribute: MdevAttribute) -> str:
        """The text of one of ``attributes``, with its newline. A step of the mdev."""
        raise NotSupported(f"{self.driver_name} has no show for {attribute.name}")

    def store(self, mdev: "Mdev", attribute: MdevAttribute, data: bytes) -> None:
        """Take what was written to one of ``attributes`` (at most a page). A step of the mdev."""
        raise NotSupported(f"{self.driver_name} has no store for {attribute.name}")

    def show_parent(self, attribute: MdevAttribute) -> str:
        """The text of one of ``parent_attributes``, with its newline. Asked from any thread."""
        raise NotSupported(f"{self.driver_name} has no show_parent for {attribute.name}")

    def store_parent(self, attribute: MdevAttribute, data: bytes) -> None:
        """Take what was written to one of ``parent_attributes`` (at most a page)."""
        raise NotSupported(f"{self.driver_name} has no store_parent for {attribute.name}")
