"""Which nodes are in the tree: each event on the bus adds and takes away what Linux does at that moment."""

from collections.abc import Callable

from mdev_user.mdev.bus import Bus
from mdev_user.mdev.events import Event, EventKind
from mdev_user.sysfs.drivers import Drivers
from mdev_user.sysfs.groups import Groups
from mdev_user.sysfs.mdevs import Mdevs, OnChown
from mdev_user.sysfs.parents import Parents
from mdev_user.sysfs.tree import Tree
from mdev_user.sysfs.uevent_file import Announce, nobody


class Layout:
    """Subscribe `on_event` before the first parent is registered; the bus calls it from one thread at a time."""

    def __init__(
        self,
        bus: Bus,
        tree: Tree,
        on_chown: OnChown | None = None,
        announce: Announce = nobody,
        cpus: int = 1,
        created: Callable[[], None] = lambda: None,
    ) -> None:
        """``announce`` gets what is written to uevent files; ``cpus`` is how many the machine has, from 1.

        ``created`` is called after a create through the tree, before the write returns.
        """
        drivers = Drivers(bus, tree, announce)
        groups = Groups(tree, announce)
        parents = Parents(bus, tree, announce, cpus, created)
        mdevs = Mdevs(bus, tree, announce, on_chown)
        self._changes: dict[EventKind, tuple[Callable[[Event], None], ...]] = {
            EventKind.DRIVER_ADDED: (drivers.add,),
            EventKind.HOME_ADDED: (parents.add_home,),
            EventKind.PARENT_REGISTERED: (parents.add,),
            EventKind.DRIVER_LOADED: (),
            EventKind.MDEV_ADDED: (mdevs.add,),
            EventKind.GROUP_ADDED: (groups.add,),
            EventKind.VFIO_ADDED: (groups.add_vfio_device,),
            EventKind.MDEV_BOUND: (mdevs.add_driver,),
            EventKind.MDEV_LINKED: (mdevs.add_type_links,),
            EventKind.MDEV_UNLINKED: (mdevs.remove_type_links,),
            EventKind.MDEV_HIDDEN: (mdevs.hide, _bound(mdevs.remove_driver), _bound(groups.remove_vfio_device)),
            EventKind.VFIO_REMOVED: (groups.remove_vfio_device,),
            EventKind.GROUP_REMOVED: (groups.remove,),
            EventKind.MDEV_UNBOUND: (mdevs.remove_driver,),
            EventKind.MDEV_REMOVED: (mdevs.remove,),
            EventKind.PARENT_UNREGISTERING: (parents.remove_link,),
            EventKind.PARENT_UNREGISTERED: (parents.remove,),
            EventKind.DRIVER_REMOVED: (drivers.remove,),
            EventKind.HOME_REMOVED: (parents.remove_home,),
            EventKind.DRIVER_UNLOADED: (drivers.remove_module,),
        }

    def on_event(self, event: Event) -> None:
        """The listener for `Bus.subscribe`."""
        for change in self._changes[event.kind]:
            change(event)


def _bound(change: Callable[[Event], None]) -> Callable[[Event], None]:
    """The change of an mdev that has a driver."""

    def of_bound(event: Event) -> None:
        if event.binding is not None:
            change(event)

    return of_bound
