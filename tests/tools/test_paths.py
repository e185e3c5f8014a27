"""Paths checked: what nova, KubeVirt, NVIDIA's device plugin, Cyborg's NVIDIA driver and libvirt read of sysfs.

Their code is not run here; each row is one thing that it reads or relies on, in the /sys that ``run`` composes.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from mdev_user.testing.daemon import RunningDaemon
from tools.conftest import PCI_NAME
from tools.dirents import kinds
from tools.inside import Inside

pytestmark = pytest.mark.fuse

GPU_MDEV, SERIAL_MDEV = UUID("c0ffee00-0000-4000-8000-000000000001"), UUID("c0ffee00-0000-4000-8000-000000000002")
PLACES = {
    "MDEVS": "bus/mdev/devices",
    "MDEV": f"bus/mdev/devices/{GPU_MDEV}",
    "SERIAL": f"bus/mdev/devices/{SERIAL_MDEV}",
    "PCI": f"bus/pci/devices/{PCI_NAME}",
    "CLASS": f"class/mdev_bus/{PCI_NAME}",
    "TYPE": "mdev_supported_types/nvidia-223",
}
"""The words in capitals of a row's path."""

Check = Callable[[Path], bool]


@dataclass(frozen=True)
class Row:
    """That ``check`` holds of a path, and who relies on it."""

    who: str
    path: str
    check: Check
    what: str


def text(pattern: str) -> Check:
    """The file's text, whole, matches."""
    return lambda path: re.fullmatch(pattern, path.read_text()) is not None


def link(pattern: str) -> Check:
    """It is a link, its text matches, and it leads somewhere."""
    return lambda path: re.fullmatch(pattern, str(path.readlink())) is not None and path.exists()


def listed(kind: str, *names: str) -> Check:
    """Of these entries of a directory, or of all, the kernel says that they are there and a ``kind`` (d_type)."""

    def check(path: Path) -> bool:
        found = kinds(path)
        return all(found.get(name) == kind for name in names or found)

    return check


def opens_for_writing(path: Path) -> bool:
    """Without O_CREAT and O_TRUNC."""
    os.close(os.open(path, os.O_WRONLY))
    return True


def absent(path: Path) -> bool:
    return not os.path.lexists(path)


def has_word(number: int) -> Check:
    """The text has so many words, separated by one space, at least."""
    return lambda path: len(path.read_text().strip().split(" ")) > number


TYPE_FILES = "available_instances", "create", "description", "device_api", "name"
MOST_DEPTH = 5

ROWS = (
    # nova/virt/libvirt: through libvirt's node devices, and these itself
    Row("nova", "devices/virtual/mtty/mtty", Path.is_dir, "what it asks for where a device address is mtty_mtty"),
    Row("nova", "MDEV", Path.exists, "whether an mdev is there"),
    Row("nova", "PCI", link(r"\.\./\.\./\.\./devices/pci4d44:00/4d44:00:01\.0"), "a device address is a PCI address"),
    # libvirt's QEMU driver, before it starts a domain
    Row("libvirt", "MDEV/mdev_type/device_api", text("vfio-pci\n"), "what kind of device a domain gets"),
    Row("libvirt", "MDEV/iommu_group", link(r"\.\./\.\./\.\./\.\./kernel/iommu_groups/\d+"), "else it is discarded"),
    # kubevirt/pkg/virt-handler/device-manager
    Row("KubeVirt", "class/mdev_bus", listed("link", "mtty", PCI_NAME), "the glob mdev_bus/*/mdev_supported_types/*"),
    Row("KubeVirt", "CLASS/TYPE", listed("file", *TYPE_FILES), "files of a type"),
    Row("KubeVirt", "CLASS/TYPE/name", text("GRID T4-2B\n"), "its name; spaces become underscores"),
    Row("KubeVirt", "CLASS/TYPE/available_instances", text(r"\d+\n"), "a number"),
    Row("KubeVirt", "CLASS/TYPE/create", opens_for_writing, "it opens without creating and truncating"),
    Row("KubeVirt", "MDEV/remove", opens_for_writing, "as create"),
    Row("KubeVirt", "MDEVS", listed("link"), "it skips what readdir does not call a link"),
    Row("KubeVirt", "MDEVS", lambda path: len(kinds(path)) == 2, "one entry for each mdev"),
    Row(
        "KubeVirt",
        "MDEV",
        lambda path: path.readlink().parts[-2:] == (PCI_NAME, str(GPU_MDEV)),
        "the last but one part of the link is the parent",
    ),
    Row("KubeVirt", "MDEV", lambda path: len(path.readlink().parts) >= MOST_DEPTH, "five parts of a link at least"),
    Row("KubeVirt", "SERIAL", lambda path: len(path.readlink().parts) >= MOST_DEPTH, "also below a virtual parent"),
    Row("KubeVirt", "MDEV/mdev_type/name", text("GRID T4-2B\n"), "the type's name"),
    Row("KubeVirt", "SERIAL/mdev_type", link(r"\.\./mdev_supported_types/mtty-1"), "the last part names the type"),
    Row("KubeVirt", "MDEV/iommu_group", lambda path: path.readlink().name.isdigit(), "the group, for /dev/vfio/N"),
    Row("KubeVirt", "PCI/numa_node", text(r"-?\d+\n"), "a number"),
    # kubevirt-gpu-device-plugin of NVIDIA
    Row("NVIDIA's plugin", "MDEVS", lambda path: all((path / each).is_symlink() for each in kinds(path)), "lstat"),
    Row("NVIDIA's plugin", "MDEV/mdev_type/name", text("[^\n]+\n"), "trims the newline, spaces become underscores"),
    Row("NVIDIA's plugin", "MDEV", lambda path: path.readlink().parts[-2] == PCI_NAME, "the GPU of an mdev"),
    Row("NVIDIA's plugin", "PCI/vendor", text("0x10de\n"), "skips other vendors"),
    Row("NVIDIA's plugin", "PCI/device", text("0x1eb8\n"), "looked up in pci.ids"),
    Row("NVIDIA's plugin", "PCI/driver", link(r"\.\./\.\./\.\./bus/pci/drivers/nvidia"), "not vfio-pci"),
    # cyborg/accelerator/drivers/gpu/nvidia
    Row("Cyborg's NVIDIA driver", "PCI/physfn", absent, "the link of a virtual function, which a parent is not"),
    Row("Cyborg's NVIDIA driver", "PCI/mdev_supported_types", listed("directory"), "lists it"),
    Row("Cyborg's NVIDIA driver", "PCI/TYPE/available_instances", text(r"3\n"), "a number"),
    Row("Cyborg's NVIDIA driver", "PCI/TYPE/devices", lambda path: len(kinds(path)) == 1, "one entry for each mdev"),
    Row("Cyborg's NVIDIA driver", "PCI/TYPE/devices", listed("link", str(GPU_MDEV)), "and it is a link"),
    Row("Cyborg's NVIDIA driver", "PCI/TYPE/name", has_word(1), "it takes the word behind the first space"),
    Row("Cyborg's NVIDIA driver", "CLASS/TYPE/create", opens_for_writing, "creates by the class's path"),
    Row(
        "Cyborg's NVIDIA driver",
        f"CLASS/TYPE/devices/{GPU_MDEV}/remove",
        opens_for_writing,
        "removes by the type's path",
    ),
    # cyborg's MdevBusManager is run in test_openstack.py; lspci in test_lspci.py, and these it reads
    Row("lspci", "PCI/config", lambda path: len(path.read_bytes()) == path.stat().st_size == 256, "256 bytes"),
    Row("lspci", "PCI/resource", text(r"(?:0x[0-9a-f]{16}[ \n]){21,}"), "three numbers a line"),
    Row("lspci", "PCI/irq", text(r"\d+\n"), "a number"),
    Row("lspci", "PCI/class", text("0x030200\n"), "six digits"),
    Row("lspci", "PCI/revision", text("0x[0-9a-f]{2}\n"), "two digits"),
    Row("libvirt", "PCI/subsystem", link(r"\.\./\.\./\.\./bus/pci"), "a PCI function for libudev"),
    Row(
        "libvirt",
        "PCI/uevent",
        text(
            "DRIVER=nvidia\nPCI_CLASS=30200\nPCI_ID=10DE:1EB8\nPCI_SUBSYS_ID=[0-9A-F]{4}:[0-9A-F]{4}\n"
            "PCI_SLOT_NAME=4d44:00:01.0\nMODALIAS=pci:v000010DEd00001EB8sv[0-9A-F]{8}sd[0-9A-F]{8}bc03sc02i00\n"
        ),
        "all that it tells of a PCI function",
    ),
)


@pytest.fixture(scope="module")
def sys_folder(both_parents: RunningDaemon, inside: Inside) -> Iterator[Path]:
    """The /sys of ``run``, with an mdev below each parent."""
    both_parents.create("nvidia-223", GPU_MDEV)
    both_parents.create("mtty-1", SERIAL_MDEV)
    yield inside.path("/sys")
    for uuid in (GPU_MDEV, SERIAL_MDEV):
        both_parents.control.remove(uuid, wait=0, force=True)


def place(path: str) -> str:
    return "/".join(PLACES.get(part, part) for part in path.split("/"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.who}: {row.path}: {row.what}")
def test_what_they_rely_on_holds(sys_folder: Path, row: Row) -> None:
    assert row.check(sys_folder / place(row.path)), row.what


def test_kubevirt_can_create_all_that_are_available(both_parents: RunningDaemon, sys_folder: Path) -> None:
    folder = sys_folder / place("CLASS/TYPE")
    created = []
    for number in range(int((folder / "available_instances").read_text())):
        uuid = UUID(f"c0ffee00-0000-4000-8000-0000000001{number:02}")
        fd = os.open(folder / "create", os.O_WRONLY)
        assert os.write(fd, str(uuid).encode()) == 36
        os.close(fd)
        created.append(uuid)
    assert len(created) == 3
    assert (folder / "available_instances").read_text() == "0\n"
    for uuid in created:
        (folder / f"devices/{uuid}/remove").write_text("1")  # as Cyborg's NVIDIA driver does
    assert (folder / "available_instances").read_text() == "3\n"


def test_a_check_fails_of_what_is_not_so(sys_folder: Path) -> None:
    gpu = sys_folder / place("MDEV")
    assert not text("vfio-ap\n")(gpu / "mdev_type/device_api")
    assert not link(r"\.\./kernel/iommu_groups/\d+")(gpu / "iommu_group")
    assert not listed("directory")(sys_folder / place("MDEVS"))
    assert not absent(gpu)
    with pytest.raises(PermissionError):
        opens_for_writing(gpu / "mdev_type/name")
