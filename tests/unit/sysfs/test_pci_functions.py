"""Parents that are PCI functions by their names: what lspci, libvirt, nova, Cyborg and KubeVirt read of them."""

import errno
import re
from posixpath import dirname, join, normpath

import pytest

from mdev_user.errors import DriverError
from mdev_user.mdev.attribute_names import OF_MDEVS, OF_PARENTS, OF_PCI_FUNCTIONS
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.parent import MdevParent
from mdev_user.pci.identity import PciId
from mdev_user.sysfs.layout import Layout
from mdev_user.sysfs.paths import parent_path
from mdev_user.sysfs.tree import Attribute, Binary, Directory, Link, OpenFile, Tree
from mdev_user.sysfs.uevents import Uevent
from unit.sysfs.scene import UUID1, Mdpy, Mtty, Scene

NAME = "4d44:00:01.0"
PATH = f"devices/pci4d44:00/{NAME}"
DRIVER = "bus/pci/drivers/mtty"
IDENTITY = PciId(0x4348, 0x3253, 0x070002, 0x10, subsystem=0xABCD)


class Card(Mtty):
    identity = IDENTITY


class Machine:
    """A bus with its tree, and one PCI function on it."""

    def __init__(self, cpus: int = 2) -> None:
        self.announced: list[Uevent] = []
        self.bus, self.tree = Bus(), Tree((1000, 1000))
        self.bus.subscribe(Layout(self.bus, self.tree, announce=self.announced.append, cpus=cpus).on_event)
        self.empty = self.listing()
        self.parent = self.bus.register_parent(NAME, Card())

    def listing(self) -> dict[str, str]:
        return {path: node.target if isinstance(node, Link) else "" for path, node in self.tree.walk()}

    def show(self, file: str) -> str:
        node = self.tree.lookup(f"{PATH}/{file}")
        assert isinstance(node, Attribute), file
        return node.show().decode()

    def store(self, file: str, data: bytes) -> int:
        node = self.tree.lookup(f"{PATH}/{file}")
        assert isinstance(node, Attribute), file
        return node.store(data)

    def config(self, uid: int = 0) -> OpenFile:
        node = self.tree.lookup(f"{PATH}/config")
        assert isinstance(node, Binary)
        return node.open(lambda: uid)


_OF_ALL = re.compile("bus/mdev|misc|dev/char")


def test_its_links_are_those_of_a_pci_device() -> None:
    machine = Machine()
    links = {path: text for path, text in machine.listing().items() if text and not _OF_ALL.search(path)}
    assert links == {
        f"bus/pci/devices/{NAME}": f"../../../{PATH}",
        f"{DRIVER}/{NAME}": f"../../../../{PATH}",
        f"{DRIVER}/module": "../../../../module/mtty",
        f"{PATH}/driver": "../../../bus/pci/drivers/mtty",
        f"{PATH}/subsystem": "../../../bus/pci",
        f"class/mdev_bus/{NAME}": f"../../{PATH}",
    }


def test_every_link_of_it_and_of_its_mdevs_leads_somewhere() -> None:
    machine = Machine()
    machine.bus.create(machine.parent, "mtty-1", UUID1)
    for path, text in machine.listing().items():
        if text:
            assert isinstance(machine.tree.lookup(normpath(join(dirname(path), text))), Directory), path


def test_it_has_no_class_and_is_no_virtual_device() -> None:
    names = set(Machine().listing())
    assert "class/mtty" not in names
    assert not any(each.startswith("devices/virtual/mtty") for each in names)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("vendor", "0x4348\n"),
        ("device", "0x3253\n"),
        ("subsystem_vendor", "0x4348\n"),
        ("subsystem_device", "0xabcd\n"),
        ("class", "0x070002\n"),
        ("revision", "0x10\n"),
        ("irq", "0\n"),
        ("enable", "1\n"),
        ("numa_node", "-1\n"),
        ("local_cpus", "3\n"),
        ("local_cpulist", "0-1\n"),
        ("modalias", "pci:v00004348d00003253sv00004348sd0000ABCDbc07sc00i02\n"),
        ("resource", "0x0000000000000000 0x0000000000000000 0x0000000000000000\n" * 13),
        (
            "uevent",
            "DRIVER=mtty\nPCI_CLASS=70002\nPCI_ID=4348:3253\nPCI_SUBSYS_ID=4348:ABCD\nPCI_SLOT_NAME=4d44:00:01.0\n"
            "MODALIAS=pci:v00004348d00003253sv00004348sd0000ABCDbc07sc00i02\n",
        ),
    ],
)
def test_it_shows_what_linux_shows_of_a_function(file: str, text: str) -> None:
    assert Machine().show(file) == text


@pytest.mark.parametrize(
    ("cpus", "mask", "listed"),
    [
        (1, "1", "0"),
        (6, "3f", "0-5"),
        (32, "ffffffff", "0-31"),
        (33, "1,ffffffff", "0-32"),
        (72, "ff,ffffffff,ffffffff", "0-71"),
    ],
)
def test_all_cpus_are_local(cpus: int, mask: str, listed: str) -> None:
    machine = Machine(cpus)
    assert (machine.show("local_cpus"), machine.show("local_cpulist")) == (f"{mask}\n", f"{listed}\n")


@pytest.mark.parametrize(("text", "node"), [(b"1\n", "1\n"), (b"0", "0\n"), (b"-1\n", "-1\n"), (b"1023", "1023\n")])
def test_its_node_can_be_set(text: bytes, node: str) -> None:
    machine = Machine()
    machine.store("numa_node", b"7")
    assert machine.store("numa_node", text) == len(text)
    assert machine.show("numa_node") == node


@pytest.mark.parametrize("text", [b"-2", b"1024", b"x", b"", b"-1\n\n"])
def test_no_other_node_is_taken(text: bytes) -> None:
    machine = Machine()
    with pytest.raises(Exception, match="expected") as caught:
        machine.store("numa_node", text)
    assert getattr(caught.value, "errno", None) == errno.EINVAL
    assert machine.show("numa_node") == "-1\n"


def test_who_enables_it_finds_it_in_use() -> None:
    machine = Machine()
    for text, expected in ((b"0", errno.EBUSY), (b"1\n", errno.EBUSY), (b"on", errno.EINVAL)):
        with pytest.raises(Exception, match=r"in use|expected") as caught:
            machine.store("enable", text)
        assert getattr(caught.value, "errno", None) == expected


def test_its_uevent_file_announces_a_pci_device() -> None:
    machine = Machine()
    machine.store("uevent", b"change")
    (announced,) = machine.announced
    assert (announced.action, announced.devpath, announced.subsystem) == ("change", f"/{PATH}", "pci")
    assert list(announced.properties) == [
        "SYNTH_UUID", "DRIVER", "PCI_CLASS", "PCI_ID", "PCI_SUBSYS_ID", "PCI_SLOT_NAME", "MODALIAS",
    ]  # fmt: skip


def test_its_config_space_is_that_of_a_function_without_bars() -> None:
    data = Machine().config().read(4096, 0)
    assert len(data) == 256
    assert data[:16] == bytes.fromhex("48435332 00000000 10020007 00000000")
    assert data[16:44] == bytes(28)
    assert data[44:48] == bytes.fromhex("4843cdab")
    assert data[48:] == bytes(208)


@pytest.mark.parametrize(("uid", "seen"), [(0, 256), (1000, 256), (1001, 64)])
def test_who_is_not_privileged_sees_the_header_only(uid: int, seen: int) -> None:
    config = Machine().config(uid)
    assert len(config.read(4096, 0)) == seen
    assert config.read(1, seen - 1) == b"\0"
    assert config.read(1, seen) == config.read(4, 300) == b""
    assert config.read(100, seen - 4) == bytes(4)


def test_config_space_is_written_as_far_as_it_can_be() -> None:
    config = Machine().config()
    assert config.write(b"\xff\xff\xff\xff", 0) == 4
    assert config.write(b"\x04\x00", 4) == 2
    assert config.read(6, 0) == bytes.fromhex("484353320400")
    assert config.write(b"12345", 254) == 2
    assert config.write(b"1", 256) == config.write(b"1", 4096) == 0


def test_an_open_config_space_of_one_that_is_gone_is_enodev() -> None:
    machine = Machine()
    config = machine.config()
    machine.bus.unregister_parent(machine.parent)
    for use in (lambda: config.read(4, 0), lambda: config.write(b"1", 0)):
        with pytest.raises(Exception, match="gone") as caught:
            use()
        assert getattr(caught.value, "errno", None) == errno.ENODEV


def test_the_last_of_a_bus_and_a_driver_takes_both_along() -> None:
    machine = Machine()
    alone = machine.listing()
    second = machine.bus.register_parent("4d44:01:00.0", Card())
    virtual = machine.bus.register_parent("mtty", Mtty())
    assert {"devices/pci4d44:01", "class/mtty", f"{DRIVER}/4d44:01:00.0"} < set(machine.listing())
    machine.bus.unregister_parent(second)
    machine.bus.unregister_parent(virtual)
    assert machine.listing() == alone
    machine.bus.unregister_parent(machine.parent)
    assert machine.listing() == machine.empty


def test_an_address_without_an_identity_is_refused() -> None:
    machine = Machine()
    before = machine.listing()
    with pytest.raises(DriverError, match=r"4d44:00:02.0 would be a PCI function .*mdpy has no identity"):
        machine.bus.register_parent("4d44:00:02.0", Mdpy())
    assert machine.listing() == before


@pytest.mark.parametrize("name", ["4d44:00:20.0", "4d44:00:00.8", "4D44:00:00.0"])
def test_what_is_no_address_of_linux_is_refused(name: str) -> None:
    with pytest.raises(DriverError, match="PCI address"):
        MdevParent(name, Card())


def test_what_is_no_identity_is_refused() -> None:
    class Odd(Mtty):
        identity = "4348:3253"  # type: ignore[assignment]  # that is the mistake

    with pytest.raises(DriverError, match="expected a PciId, given '4348:3253'"):
        MdevParent("mtty", Odd())


def test_no_attribute_of_a_driver_can_have_the_name_of_a_file_that_is_there() -> None:
    class PciMdpy(Mdpy):
        identity = IDENTITY

    scene = Scene()
    function = scene.bus.register_parent(NAME, PciMdpy())
    assert scene.names(parent_path(scene.mdpy)) <= OF_PARENTS
    assert scene.names(parent_path(function)) <= OF_PCI_FUNCTIONS
    assert scene.device(scene.bus.create(function, "mdpy-vga", UUID1)) == OF_MDEVS - {"power"}
