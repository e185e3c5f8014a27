"""The mdev bus, its drivers and their modules: bus/mdev and module/<driver>."""

from dataclasses import dataclass
from uuid import UUID

from mdev_user.errors import NoDevice
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.device import Mdev, State
from mdev_user.mdev.events import Event
from mdev_user.sysfs.paths import MDEV_BUS, driver_path, module_path
from mdev_user.sysfs.tree import Rule, Tree
from mdev_user.sysfs.uevent_file import Announce, UeventFile, add_write_only_uevent

_SHOWN = 60


@dataclass(slots=True)
class _BusFiles:
    """The subject of the bus's own files."""

    bus: Bus
    autoprobe: bool = True


@dataclass(frozen=True, slots=True)
class _Driver:
    """The subject of a driver's files."""

    bus: Bus
    name: str


class Drivers:
    """The bus is there from the beginning; a driver comes with its first parent and goes with its last."""

    def __init__(self, bus: Bus, tree: Tree, announce: Announce) -> None:
        self._bus = bus
        self._tree = tree
        self._announce = announce
        files = _BusFiles(bus)
        for path in (f"{MDEV_BUS}/devices", f"{MDEV_BUS}/drivers"):
            tree.add_directory(path)
        tree.add_attribute(f"{MDEV_BUS}/drivers_autoprobe", _AUTOPROBE, files)
        tree.add_attribute(f"{MDEV_BUS}/drivers_probe", _PROBE, files)
        add_write_only_uevent(tree, UeventFile(announce, MDEV_BUS, "bus"))
        self._add_module("mdev")

    def add(self, event: Event) -> None:
        name = event.parent.ops.driver_name
        path, module = driver_path(name), self._add_module(name)
        self._tree.add_directory(path)
        add_write_only_uevent(self._tree, UeventFile(self._announce, path, "drivers"))
        self._tree.add_link(f"{path}/module", module)
        driver = _Driver(self._bus, name)
        self._tree.add_attribute(f"{path}/bind", _BIND, driver)
        self._tree.add_attribute(f"{path}/unbind", _UNBIND, driver)

    def remove(self, event: Event) -> None:
        name = event.parent.ops.driver_name
        self._tree.remove(driver_path(name))

    def _add_module(self, name: str) -> str:
        """Its directory."""
        path = module_path(name)
        self._tree.add_directory(path)
        add_write_only_uevent(self._tree, UeventFile(self._announce, path, "module"))
        return path

    def remove_module(self, event: Event) -> None:
        self._tree.remove(module_path(event.parent.ops.driver_name))


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


def _bind(driver: _Driver, data: bytes) -> None:
    driver.bus.bind(_named(driver.bus, data), driver.name)


def _unbind(driver: _Driver, data: bytes) -> None:
    """Blocks while the mdev is in use."""
    driver.bus.unbind(_named(driver.bus, data), driver.name)


def _show_autoprobe(files: _BusFiles) -> str:
    return f"{files.autoprobe:d}\n"


def _store_autoprobe(files: _BusFiles, data: bytes) -> None:
    """As in Linux the first byte counts; it has no effect on `create`, which attaches by itself."""
    files.autoprobe = data[:1] != b"0"


def _probe(files: _BusFiles, data: bytes) -> None:
    """Offer an mdev to the drivers, none of which takes any: since Linux 5.19 only `create` attaches. ENODEV."""
    _named(files.bus, data)


_AUTOPROBE: Rule[_BusFiles] = Rule(0o644, _show_autoprobe, _store_autoprobe)
_PROBE: Rule[_BusFiles] = Rule(0o200, None, _probe)
_BIND: Rule[_Driver] = Rule(0o200, None, _bind)
_UNBIND: Rule[_Driver] = Rule(0o200, None, _unbind)
