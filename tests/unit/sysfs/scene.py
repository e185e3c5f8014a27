"""What the tests of the tree stand on: two parents like the kernel's samples, a bus driver that can block, a bus."""

from collections.abc import Callable
from threading import Event as Flag
from time import monotonic, sleep
from uuid import UUID

from typing_extensions import override

from mdev_user.errors import NoSpace
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.ops import LifecycleOps
from mdev_user.mdev.types import MdevAttribute, MdevType
from mdev_user.sysfs.layout import Layout
from mdev_user.sysfs.mdevs import OnChown
from mdev_user.sysfs.paths import device_path
from mdev_user.sysfs.tree import Directory, Link, Tree
from mdev_user.sysfs.uevents import Uevent

PATIENCE = 20.0
"""Seconds after which a test that waits for a thread gives up."""

UUID1 = UUID("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001")
UUID2 = UUID("83b8f4f2-509f-382f-3c1e-e6bfe0fa1002")

MTTY_TYPES = "devices/virtual/mtty/mtty/mdev_supported_types"
MTTY = f"{MTTY_TYPES}/mtty-1"
MDPY = "devices/virtual/mdpy/mdpy/mdev_supported_types/mdpy-vga"


def uuid_of(number: int) -> UUID:
    return UUID(int=number)


class Mtty(LifecycleOps):
    """Counts its 24 ports itself; one attribute to read and one to read and write."""

    driver_name = "mtty"
    mdev_types = (MdevType("1", "Single port serial"), MdevType("2", "Dual port serial"))
    attributes = (
        MdevAttribute("vendor", "sample_mdev_dev"),
        MdevAttribute("vendor", "speed", writable=True),
        MdevAttribute("", "secret", readable=False, writable=True),
    )
    parent_attributes = (
        MdevAttribute("mtty_dev", "sample_mtty_dev"),
        MdevAttribute("", "clock", writable=True),
    )

    def __init__(self, ports: int = 24) -> None:
        self.free = ports
        self.stored: list[bytes] = []
        self.on_show: Callable[[], str] = lambda: "115200\n"
        self.on_create: Callable[[], None] = lambda: None

    @override
    def create(self, mdev: Mdev) -> int:
        self.on_create()
        ports = int(mdev.type.name)
        if self.free < ports:
            raise NoSpace(f"{self.free} ports are free, {ports} wanted")
        self.free -= ports
        return ports

    @override
    def remove(self, mdev: Mdev) -> None:
        self.free += int(mdev.type.name)

    @override
    def get_available(self, mdev_type: MdevType) -> int:
        return self.free // int(mdev_type.name)

    @override
    def show(self, mdev: Mdev, attribute: MdevAttribute) -> str:
        return f"This is MDEV {mdev.uuid}\n" if attribute.name == "sample_mdev_dev" else self.on_show()

    @override
    def store(self, mdev: Mdev, attribute: MdevAttribute, data: bytes) -> None:
        self.stored.append(data)

    @override
    def show_parent(self, attribute: MdevAttribute) -> str:
        return "This is phy device\n" if attribute.name == "sample_mtty_dev" else "100\n"

    @override
    def store_parent(self, attribute: MdevAttribute, data: bytes) -> None:
        self.stored.append(data)


class Mdpy(LifecycleOps):
    """The framework counts its four instances."""

    driver_name = "mdpy"
    mdev_types = (MdevType("vga", "", "virtual display, 640x480 framebuffer"), MdevType("hd", "", "virtual display"))
    max_instances = 4

    @override
    def create(self, mdev: Mdev) -> None:
        return None

    @override
    def remove(self, mdev: Mdev) -> None:
        return None


class Driver:
    """A driver of the bus whose `remove` waits while the mdev is held, as if a guest had it open."""

    name = "vfio_mdev"

    def __init__(self) -> None:
        self.on_probe: Callable[[Mdev], None] = lambda _mdev: None
        self._held: dict[UUID, Flag] = {}
        self.waiting: set[UUID] = set()

    def hold(self, uuid: UUID) -> None:
        self._held[uuid] = Flag()

    def release(self, uuid: UUID) -> None:
        self._held.pop(uuid, Flag()).set()

    def release_all(self) -> None:
        for uuid in list(self._held):
            self.release(uuid)

    def probe(self, mdev: Mdev) -> None:
        self.on_probe(mdev)

    def remove(self, mdev: Mdev) -> None:
        held = self._held.get(mdev.uuid)
        if held is not None:
            self.waiting.add(mdev.uuid)
            held.wait(PATIENCE)
            self.waiting.discard(mdev.uuid)


class Scene:
    """A bus with its tree and both parents."""

    def __init__(self, on_chown: OnChown | None = None) -> None:
        self.bus = Bus()
        self.tree = Tree()
        self.driver = Driver()
        self.bus.register_driver(self.driver)
        self.announced: list[Uevent] = []
        layout = Layout(self.bus, self.tree, on_chown=on_chown, announce=self.announced.append, cpus=2)
        self.bus.subscribe(layout.on_event)
        self.empty = self.listing()
        self.mtty = Mtty()
        self.parent = self.bus.register_parent("mtty", self.mtty)
        self.mdpy = self.bus.register_parent("mdpy", Mdpy())

    def create(self, uuid: UUID = UUID1) -> Mdev:
        return self.bus.create(self.parent, "mtty-1", uuid)

    def listing(self) -> dict[str, str]:
        """Every path, and the target of those that are links."""
        return {path: node.target if isinstance(node, Link) else "" for path, node in self.tree.walk()}

    def names(self, path: str) -> set[str]:
        directory = self.tree.lookup(path)
        assert isinstance(directory, Directory), path
        return set(directory.entries())

    def device(self, mdev: Mdev) -> set[str]:
        return self.names(device_path(mdev))


def until(condition: Callable[[], object]) -> None:
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline, "waited too long"
        sleep(0.002)
