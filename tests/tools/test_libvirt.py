"""libvirt 11.3, unmodified: virsh manages our mdevs, below a parent named mtty and below a PCI function."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from uuid import UUID, uuid4
from xml.etree import ElementTree

import pytest

from daemon.support import eventually
from mdev_user.guests.management import ManagementRoot
from mdev_user.testing.daemon import RunningDaemon
from tools.conftest import PCI_NAME, VGPU
from tools.inside import Inside
from tools.libvirt import Libvirt, libvirtd

pytestmark = [pytest.mark.fuse, pytest.mark.usefixtures("no_mdevs_left")]


@dataclass(frozen=True)
class Kind:
    """A kind of parent: its name, what libvirt calls it, and one of its types."""

    parent: str
    node: str
    type: str

    def xml(self, uuid: UUID) -> str:
        """What is given to virsh to make an mdev of this kind."""
        mdev = f"<capability type='mdev'><type id='{self.type}'/><uuid>{uuid}</uuid></capability>"
        return f"<device><parent>{self.node}</parent>{mdev}</device>"

    def name(self, uuid: UUID) -> str:
        """What libvirt calls an mdev of this kind."""
        return "_".join(("mdev", str(uuid).replace("-", "_"), self.parent.translate({ord(c): "_" for c in ":."})))


KINDS = (Kind("mtty", "mtty_mtty", "mtty-2"), Kind(PCI_NAME, "pci_4d44_00_01_0", "nvidia-223"))
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.parent)


@pytest.fixture(scope="module")
def libvirt(
    both_parents: RunningDaemon, management_root: ManagementRoot, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Libvirt]:
    folder = tmp_path_factory.mktemp("libvirt")
    with Inside(both_parents, events="private") as inside, libvirtd(inside, management_root, folder) as libvirt:
        yield libvirt


def capability(libvirt: Libvirt, device: str) -> ElementTree.Element:
    """The last capability that dumpxml tells of a device, which is the one with mdevs."""
    return list(ElementTree.fromstring(libvirt.text("nodedev-dumpxml", device)).iter("capability"))[-1]


def create(libvirt: Libvirt, kind: Kind, uuid: UUID) -> float:
    """nodedev-create; the seconds that it took."""
    began = monotonic()
    said = libvirt.text("nodedev-create", "/dev/stdin", stdin=kind.xml(uuid))
    assert said in {"", f"Node device {kind.name(uuid)} created from /dev/stdin"}
    return monotonic() - began


def create_quickly(libvirt: Libvirt, kind: Kind) -> UUID:
    """nodedev-create in less than 2 s: where libvirt has not yet been told when mdevctl ends, it sleeps for 5 s.

    That is a race, which a create that waits for its listeners wins unless the machine is very busy; hence twice.
    """
    for _attempt in range(2):
        uuid = uuid4()
        if create(libvirt, kind, uuid) < 2:
            return uuid
        libvirt.text("nodedev-destroy", kind.name(uuid))
    raise AssertionError("libvirt was not told in time of any of two")


def test_parents_and_their_types_are_listed(both_parents: RunningDaemon, libvirt: Libvirt) -> None:
    assert libvirt.devices("--cap", "mdev_types") == [kind.node for kind in KINDS]
    assert libvirt.devices("--cap", "mdev") == []
    for kind in KINDS:
        told = {
            (each.get("id"), each.findtext("name"), each.findtext("deviceAPI"), each.findtext("availableInstances"))
            for each in capability(libvirt, kind.node).iter("type")
        }
        assert told == {
            (each.type, each.name, each.device_api, str(each.available_instances))
            for each in both_parents.control.types()
            if each.parent == kind.parent
        }


def test_the_pci_function_is_told_as_one(libvirt: Libvirt) -> None:
    told = ElementTree.fromstring(libvirt.text("nodedev-dumpxml", KINDS[1].node))
    function = told.find("capability[@type='pci']")
    assert function is not None
    assert function.findtext("class") == "0x030200"
    assert [function.findtext(name) for name in ("domain", "bus", "slot", "function")] == ["19780", "0", "1", "0"]
    assert [each.get("id") for each in (*function.iter("vendor"), *function.iter("product"))] == ["0x10de", "0x1eb8"]
    assert told.findtext("driver/name") == "nvidia"


@each_kind
def test_an_mdev_is_created_described_and_destroyed(both_parents: RunningDaemon, libvirt: Libvirt, kind: Kind) -> None:
    uuid = create_quickly(libvirt, kind)
    name = kind.name(uuid)
    eventually(lambda: libvirt.devices("--cap", "mdev") == [name], "it is the only one")
    told = ElementTree.fromstring(libvirt.text("nodedev-dumpxml", name))
    assert told.findtext("parent") == kind.node
    group = (both_parents.sys / f"bus/mdev/devices/{uuid}/iommu_group").readlink().name
    mdev = capability(libvirt, name)
    assert mdev.get("type") == "mdev"
    assert mdev.findtext("uuid") == str(uuid)
    assert mdev.findtext("parent_addr") == kind.parent
    assert [each.get("id") for each in mdev.iter("type")] == [kind.type]
    assert [each.get("number") for each in mdev.iter("iommuGroup")] == [group]
    assert "Active:         yes" in libvirt.text("nodedev-info", name)
    libvirt.text("nodedev-destroy", name)
    assert both_parents.control.mdevs() == []
    eventually(lambda: libvirt.devices("--cap", "mdev") == [], "libvirt knows that it is gone")


@each_kind
def test_an_mdev_is_defined_started_and_undefined(both_parents: RunningDaemon, libvirt: Libvirt, kind: Kind) -> None:
    uuid = uuid4()
    name = kind.name(uuid)
    libvirt.text("nodedev-define", "/dev/stdin", stdin=kind.xml(uuid))
    assert libvirt.devices("--cap", "mdev", "--inactive") == [name]
    assert both_parents.control.mdevs() == []
    libvirt.text("nodedev-start", name)
    assert [each.uuid for each in both_parents.control.mdevs()] == [str(uuid)]
    libvirt.text("nodedev-autostart", name)
    info = " ".join(libvirt.text("nodedev-info", name).split())
    assert all(each in info for each in (f"Parent: {kind.node}", "Active: yes", "Persistent: yes", "Autostart: yes"))
    libvirt.text("nodedev-destroy", name)
    eventually(lambda: libvirt.devices("--cap", "mdev", "--inactive") == [name], "it is known to be inactive")
    libvirt.text("nodedev-undefine", name)
    eventually(lambda: libvirt.devices("--cap", "mdev", "--all") == [], "it is not known any more")


@each_kind
def test_what_others_create_and_remove_is_noticed(both_parents: RunningDaemon, libvirt: Libvirt, kind: Kind) -> None:
    uuid = uuid4()
    folder = both_parents.sys / f"class/mdev_bus/{kind.parent}"
    (folder / f"mdev_supported_types/{kind.type}/create").write_text(str(uuid))
    eventually(lambda: libvirt.devices("--cap", "mdev") == [kind.name(uuid)], "it is noticed")
    (folder / str(uuid) / "remove").write_text("1")
    eventually(lambda: libvirt.devices("--cap", "mdev") == [], "its end is noticed")


def test_parents_that_come_and_go_are_noticed(both_parents: RunningDaemon, libvirt: Libvirt) -> None:
    nodes = {kind.node for kind in KINDS}
    both_parents.control.register_parent(f"{VGPU},name=4d44:00:02.0")
    eventually(lambda: set(libvirt.devices("--cap", "mdev_types")) == {*nodes, "pci_4d44_00_02_0"}, "it is noticed")
    both_parents.control.unregister_parent("4d44:00:02.0")
    eventually(lambda: set(libvirt.devices("--cap", "mdev_types")) == nodes, "its end is noticed")


def test_without_events_it_would_not_be_noticed(
    both_parents: RunningDaemon, management_root: ManagementRoot, tmp_path: Path
) -> None:
    with Inside(both_parents) as inside, libvirtd(inside, management_root, tmp_path) as libvirt:
        assert libvirt.devices("--cap", "mdev_types") == [kind.node for kind in KINDS]
        both_parents.create("mtty-1")
        with pytest.raises(AssertionError, match="not within"):
            eventually(lambda: libvirt.devices("--cap", "mdev"), "it is noticed", seconds=1)
