"""What happens on the mdev bus, as numbered values in the order in which Linux tells it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from mdev_user.mdev.device import Binding, Mdev
from mdev_user.mdev.parent import MdevParent


class EventKind(Enum):
    """Those of a parent and a create in their order, then those of a remove and a parent's end."""

    DRIVER_ADDED = auto()
    """The event's parent is the first of its driver's name; the driver is on the mdev bus from now on."""
    HOME_ADDED = auto()
    """It is the first of them where it is: among PCI functions, whose bus has the driver, too, or in its class."""
    PARENT_REGISTERED = auto()
    DRIVER_LOADED = auto()
    """Comes right after the driver's first parent, where Linux tells that the driver's module is loaded."""
    MDEV_ADDED = auto()
    GROUP_ADDED = auto()
    VFIO_ADDED = auto()
    MDEV_BOUND = auto()
    MDEV_LINKED = auto()
    """The type's link and mdev_type are there: the mdev is about to be active. Linux has no uevent for it."""
    MDEV_UNLINKED = auto()
    """The remove has begun; ``remove``, mdev_type and the type's link are gone. No uevent."""
    MDEV_HIDDEN = auto()
    """The rest of the directory is gone but for iommu_group; what follows waits for the user. No uevent."""
    VFIO_REMOVED = auto()
    GROUP_REMOVED = auto()
    MDEV_UNBOUND = auto()
    MDEV_REMOVED = auto()
    PARENT_UNREGISTERING = auto()
    """No create or remove is running and none can begin; its mdevs go next. No uevent."""
    PARENT_UNREGISTERED = auto()
    DRIVER_REMOVED = auto()
    """The event's parent was the last of its driver's name."""
    HOME_REMOVED = auto()
    """It was the last of them where it was."""
    DRIVER_UNLOADED = auto()
    """Comes last, with the driver's last parent: its module is gone."""


@dataclass(frozen=True, slots=True)
class Event:
    """``number`` counts up by one over all events of a bus; ``binding`` is that of the moment."""

    number: int
    kind: EventKind
    parent: MdevParent
    mdev: Mdev | None = None
    binding: Binding | None = None


Listener = Callable[[Event], None]
"""Called in the order of the numbers, by whoever caused the event; must be quick and must not call the bus to act."""
