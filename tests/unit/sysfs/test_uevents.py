"""Uevents as Linux 7.2 sent them with its samples (facts from a recorded transcript), and the message for libudev."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from mdev_user.errors import MdevUserError
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.events import Event, EventKind
from mdev_user.mdev.ops import LifecycleOps
from mdev_user.pci.identity import PciId
from mdev_user.sysfs.layout import Layout
from mdev_user.sysfs.present import Present
from mdev_user.sysfs.tree import Tree
from mdev_user.sysfs.uevents import (
    BUS_ADDED,
    BUS_REMOVED,
    Uevent,
    murmur_hash,
    pci_properties,
    udev_message,
    uevents_of,
)
from unit.sysfs.scene import UUID1, UUID2, Driver, Mtty

PARENT = "/devices/virtual/mtty/mtty"
MDEV = f"{PARENT}/{UUID1}"
Line = tuple[str, str, str, Mapping[str, str]]
"""Action, DEVPATH, SUBSYSTEM and the properties between that and SEQNUM."""

# steps load-mtty, create-good, bind-unbind, remove-1nl, exhaust-mtty-errno and rmmod-mtty of the transcript, with our
# numbers, and those of a kernel with CONFIG_IOMMUFD
GROUP = {"MAJOR": "242", "MINOR": "0", "DEVNAME": "vfio/0"}
CDEV = {"MAJOR": "243", "MINOR": "0", "DEVNAME": "vfio/devices/vfio0"}
LOADED: list[Line] = [
    ("add", "/bus/mdev/drivers/mtty", "drivers", {}),
    ("add", "/class/mtty", "class", {}),
    ("add", PARENT, "mtty", {}),
    ("change", PARENT, "mtty", {"MDEV_STATE": "registered"}),
    ("add", "/module/mtty", "module", {}),
]
CREATED: list[Line] = [
    ("add", MDEV, "mdev", {}),
    ("add", "/devices/virtual/vfio/0", "vfio", GROUP),
    ("add", f"{MDEV}/vfio-dev/vfio0", "vfio-dev", CDEV),
    ("bind", MDEV, "mdev", {"DRIVER": "mtty"}),
]
UNBOUND: list[Line] = [
    ("remove", f"{MDEV}/vfio-dev/vfio0", "vfio-dev", CDEV),
    ("remove", "/devices/virtual/vfio/0", "vfio", GROUP),
    ("unbind", MDEV, "mdev", {}),
]
REMOVED: list[Line] = [*UNBOUND, ("remove", MDEV, "mdev", {})]
REFUSED: list[Line] = [("add", MDEV, "mdev", {}), ("remove", MDEV, "mdev", {})]
UNLOADED: list[Line] = [
    ("change", PARENT, "mtty", {"MDEV_STATE": "unregistered"}),
    ("remove", PARENT, "mtty", {}),
    ("remove", "/bus/mdev/drivers/mtty", "drivers", {}),
    ("remove", "/class/mtty", "class", {}),
    ("remove", "/module/mtty", "module", {}),
]


class Heard:
    """A bus, and what its uevents were."""

    def __init__(self) -> None:
        self.bus = Bus()
        self.bus.register_driver(Driver())
        self.bus.subscribe(self._hear)
        self._lines: list[Line] = []

    def _hear(self, event: Event) -> None:
        self._lines += [(each.action, each.devpath, each.subsystem, each.properties) for each in uevents_of(event)]

    def take(self) -> list[Line]:
        lines, self._lines = self._lines, []
        return lines


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(MdevUserError):
        yield


def test_uevents_of_a_parent_and_an_mdev_are_those_of_the_kernel() -> None:
    heard = Heard()
    parent = heard.bus.register_parent("mtty", Mtty())
    assert heard.take() == LOADED
    heard.bus.create(parent, "mtty-1", UUID1)
    assert heard.take() == CREATED
    heard.bus.remove(UUID1)
    assert heard.take() == REMOVED
    heard.bus.create(parent, "mtty-1", UUID1)
    heard.take()
    heard.bus.unregister_parent(parent)
    assert heard.take() == [*REMOVED, *UNLOADED]


def test_an_unbound_mdev_is_removed_without_a_second_unbind() -> None:
    heard = Heard()
    mdev = heard.bus.create(heard.bus.register_parent("mtty", Mtty()), "mtty-1", UUID1)
    heard.take()
    heard.bus.unbind(mdev, "mtty")
    assert heard.take() == UNBOUND
    heard.bus.remove(UUID1)
    assert heard.take() == REMOVED[-1:]


def test_a_create_is_told_when_the_vendor_refuses_it_and_not_when_the_core_does() -> None:
    heard = Heard()
    parent = heard.bus.register_parent("mtty", Mtty(ports=0))
    heard.take()
    with refused():  # ENOSPC of the driver
        heard.bus.create(parent, "mtty-1", UUID1)
    assert heard.take() == REFUSED
    with refused():  # EINVAL of the core
        heard.bus.create(parent, "mtty-9", UUID1)
    assert heard.take() == []


def test_only_the_first_parent_of_a_driver_brings_it_and_only_the_last_takes_it() -> None:
    heard = Heard()
    first = heard.bus.register_parent("mtty", Mtty())
    heard.take()
    second = heard.bus.register_parent("mtty2", Mtty())
    added = heard.take()
    assert [line[:3] for line in added] == [(line[0], f"{PARENT}2", "mtty") for line in LOADED[2:4]]
    heard.bus.unregister_parent(second)
    assert [line[1] for line in heard.take()] == [f"{PARENT}2"] * 2
    heard.bus.unregister_parent(first)
    assert heard.take() == UNLOADED


def test_every_event_with_a_uevent_of_its_own_in_linux_has_one() -> None:
    silent = {EventKind.MDEV_LINKED, EventKind.MDEV_UNLINKED, EventKind.MDEV_HIDDEN, EventKind.PARENT_UNREGISTERING}
    heard: dict[EventKind, int] = {}
    bus = Bus()
    bus.register_driver(Driver())
    bus.subscribe(lambda event: heard.update({event.kind: len(uevents_of(event))}))
    parent = bus.register_parent("mtty", Mtty())
    bus.create(parent, "mtty-1", UUID1)
    bus.unregister_parent(parent)
    assert heard.keys() == set(EventKind)
    assert {kind for kind, count in heard.items() if not count} == silent


# --- a parent that is a PCI function ---------------------------------------------------------------------------

FUNCTION = "/devices/pci4d44:00/4d44:00:01.0"
IDS = {
    "PCI_CLASS": "70002",
    "PCI_ID": "4348:3253",
    "PCI_SUBSYS_ID": "1AF4:1100",
    "PCI_SLOT_NAME": "4d44:00:01.0",
    "MODALIAS": "pci:v00004348d00003253sv00001AF4sd00001100bc07sc00i02",
}


class PciMtty(Mtty):
    identity = PciId(0x4348, 0x3253, 0x070002, subsystem_vendor=0x1AF4, subsystem=0x1100)


def pci_parent() -> LifecycleOps:
    return PciMtty()


def test_what_uevents_have_told_is_what_the_tree_has() -> None:
    bus, tree, told = Bus(), Tree(), Present()
    bus.register_driver(Driver())
    bus.subscribe(Layout(bus, tree).on_event)
    for uevent in BUS_ADDED:
        told.apply(0, uevent)

    def hear(event: Event) -> None:
        for uevent in uevents_of(event):
            told.apply(event.number, uevent)

    bus.subscribe(hear)

    def check() -> None:
        files = {path.removesuffix("/uevent") for path, _node in tree.walk() if path.endswith("/uevent")}
        classes = {"class/mtty"} if tree.lookup("class/mtty") else set()
        assert {uevent.devpath[1:] for _number, uevent in told.entries()} == files | classes

    check()
    virtual = bus.register_parent("mtty", Mtty())
    function = bus.register_parent("4d44:00:01.0", pci_parent())
    check()
    bus.create(virtual, "mtty-1", UUID1)
    bus.unbind(bus.create(function, "mtty-1", UUID2), "mtty")
    check()
    bus.unregister_parent(virtual)
    check()
    bus.register_parent("again", Mtty())
    check()
    bus.unregister_parent(function)
    check()


def test_a_pci_parent_is_told_as_a_function_of_the_pci_bus() -> None:
    heard = Heard()
    parent = heard.bus.register_parent("4d44:00:01.0", pci_parent())
    driver = {"DRIVER": "mtty"}
    assert heard.take() == [
        ("add", "/bus/mdev/drivers/mtty", "drivers", {}),
        ("add", "/bus/pci/drivers/mtty", "drivers", {}),
        ("add", FUNCTION, "pci", IDS),
        ("change", FUNCTION, "pci", {"MDEV_STATE": "registered"} | driver | IDS),
        ("bind", FUNCTION, "pci", driver | IDS),
        ("add", "/module/mtty", "module", {}),
    ]
    heard.bus.create(parent, "mtty-1", UUID2)
    assert heard.take()[0][1] == f"{FUNCTION}/{UUID2}"
    heard.bus.remove(UUID2)
    heard.take()
    heard.bus.unregister_parent(parent)
    assert heard.take() == [
        ("change", FUNCTION, "pci", {"MDEV_STATE": "unregistered"} | driver | IDS),
        ("unbind", FUNCTION, "pci", IDS),
        ("remove", FUNCTION, "pci", IDS),
        ("remove", "/bus/mdev/drivers/mtty", "drivers", {}),
        ("remove", "/bus/pci/drivers/mtty", "drivers", {}),
        ("remove", "/module/mtty", "module", {}),
    ]


def test_the_properties_of_a_pci_function_have_the_kernels_order_and_defaults() -> None:
    assert list(pci_properties(PciId(0x10DE, 0x1EB8, 0x030200), "0042:00:01.0").items()) == [
        ("PCI_CLASS", "30200"),
        ("PCI_ID", "10DE:1EB8"),
        ("PCI_SUBSYS_ID", "10DE:1EB8"),
        ("PCI_SLOT_NAME", "0042:00:01.0"),
        ("MODALIAS", "pci:v000010DEd00001EB8sv000010DEsd00001EB8bc03sc02i00"),
    ]


# --- on the wire ----------------------------------------------------------------------------------------------

BOUND = Uevent("bind", MDEV, "mdev", {"DRIVER": "mtty"})


def test_a_message_has_its_properties_in_the_kernels_order_and_the_number_last() -> None:
    lines = udev_message(BOUND, 781)[40:].split(b"\0")
    assert [line.decode() for line in lines] == [
        "ACTION=bind", f"DEVPATH={MDEV}", "SUBSYSTEM=mdev", "DRIVER=mtty", "SEQNUM=781", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    # each length of the last word; with a seed, this code gave SMHasher's verification value for it, 0x27864C1E
    [
        ("", 0),
        ("a", 0x92685F5E),
        ("ab", 0x1AA14063),
        ("abc", 0x13577C9B),
        ("mdev", 0xBB5211C7),
        ("class", 0x71F5D476),
        ("vfio-dev", 0x573B34C1),
    ],
)
def test_the_hash_is_murmurhash2(text: str, expected: int) -> None:
    assert murmur_hash(text.encode()) == expected


def test_the_header_of_a_udev_message_says_what_filters_ask_for() -> None:
    tagged = Uevent("add", MDEV, "mdev", {"DEVTYPE": "card", "TAGS": ":systemd:"})
    for uevent, devtype, tags in ((BOUND, 0, 0), (tagged, murmur_hash(b"card"), 4)):
        message = udev_message(uevent, 7)
        assert message[:12] == b"libudev\0\xfe\xed\xca\xfe"
        sizes = [int.from_bytes(message[at : at + 4], "little") for at in (12, 16, 20)]
        assert sizes == [40, 40, len(message) - 40]
        assert int.from_bytes(message[24:28], "big") == murmur_hash(b"mdev")
        assert int.from_bytes(message[28:32], "big") == devtype
        assert 0 < int.from_bytes(message[32:40], "big").bit_count() <= 4 if tags else message[32:40] == bytes(8)


def test_vfio_is_there_before_mdev_and_goes_after_it() -> None:
    """Linux loads its modules in the order in which they need each other: iommufd, vfio, mdev."""
    vfio = ["/devices/virtual/misc/iommu", "/devices/virtual/misc/vfio"]
    mdev = ["/bus/mdev", "/module/mdev"]
    assert [uevent.devpath for uevent in BUS_ADDED] == vfio + mdev
    assert [(uevent.action, uevent.devpath) for uevent in BUS_REMOVED] == [
        ("remove", path) for path in mdev + vfio[::-1]
    ]
