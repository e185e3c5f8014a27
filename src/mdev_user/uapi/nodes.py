"""Which of VFIO's device nodes a path is, and which mdev a number stands for.

Told from the daemon's own tree and folder of sockets, never from the program's /sys, which it can change.
"""

import os
from collections.abc import Callable, Mapping
from enum import Enum
from errno import EACCES, ENODEV
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from mdev_user.uapi.program import Program
from mdev_user.vfio import device_numbers

_SOCKET = "vfio-user.sock"
_DEVICES = ".dev"
_CAP_DAC_OVERRIDE = 1 << 1  # <linux/capability.h>
_GROUPS = "kernel/iommu_groups"
_CDEVS = "class/vfio-dev"


class Kind(Enum):
    """What is behind a node; the value is its name below /dev, or the part of it before a number."""

    CONTAINER = "vfio/vfio"
    IOMMU = "iommu"
    GROUP = "vfio/"
    CDEV = "vfio/devices/vfio"


class Node(NamedTuple):
    """One node. ``number`` is the group's or the VFIO device's, 0 for the others."""

    kind: Kind
    number: int = 0

    @property
    def name(self) -> str:
        """Below /dev."""
        return self.kind.value + (str(self.number) if self.kind in _NUMBERED else "")

    @property
    def rdev(self) -> int:
        """st_rdev of the node."""
        return os.makedev(*_NUMBERS[self.kind](self.number))


_NUMBERS: dict[Kind, Callable[[int], device_numbers.Number]] = {
    Kind.CONTAINER: lambda _number: device_numbers.CONTAINER,
    Kind.IOMMU: lambda _number: device_numbers.IOMMU,
    Kind.GROUP: lambda number: (device_numbers.GROUP_MAJOR, number),
    Kind.CDEV: lambda number: (device_numbers.CDEV_MAJOR, number),
}


_NUMBERED = (Kind.CDEV, Kind.GROUP)


def node_at(path: str) -> Node | None:
    """The node at an absolute path without links; None for what is none of ours.

    ```python
    assert node_at("/dev/vfio/7") == Node(Kind.GROUP, 7)
    ```
    """
    name = path.removeprefix("/dev/")
    if name == path:
        return None
    for kind in (Kind.CONTAINER, Kind.IOMMU):
        if name == kind.value:
            return Node(kind)
    for kind in _NUMBERED:
        digits = name.removeprefix(kind.value)
        if digits != name and digits.isascii() and digits.isdigit() and str(int(digits)) == digits:
            return Node(kind, int(digits))
    return None


class Nodes:
    """The mdevs behind the numbers. ENODEV for a number that has none, or not any more."""

    def __init__(self, tree: Path, devices: Path) -> None:
        """``tree`` is the daemon's sysfs (RUN/root/sys), ``devices`` its folder of mdevs (RUN/devices)."""
        self._tree = tree
        self._devices = devices

    def check_access(self, node: Node, tid: int) -> None:
        """Whether this thread may open the node for reading and writing: EACCES, ENOENT for a node that is not there.

        The supervisor may more than a program that has given its rights up since.
        """
        status = (self._tree / _DEVICES / node.name).stat()
        if not may_open(Program(tid).status, status, own=_in_our_namespace(tid)):
            raise OSError(EACCES, f"/dev/{node.name}: {os.strerror(EACCES)}")

    def of_group(self, number: int) -> tuple[UUID, ...]:
        """The mdevs in an iommu group: one."""
        try:
            found = [each.name for each in (self._tree / _GROUPS / str(number) / "devices").iterdir()]
        except OSError as error:
            raise OSError(ENODEV, f"iommu group {number}: {error.strerror}") from error
        return tuple(UUID(name) for name in found)

    def of_cdev(self, number: int) -> UUID:
        """The mdev whose VFIO device this is."""
        try:
            link = (self._tree / _CDEVS / f"vfio{number}").readlink()
        except OSError as error:
            raise OSError(ENODEV, f"VFIO device vfio{number}: {error.strerror}") from error
        return UUID(link.parts[-3])  # .../UUID/vfio-dev/vfioN

    def socket(self, uuid: UUID) -> Path:
        """Where the mdev's vfio-user server listens."""
        return self._devices / str(uuid) / _SOCKET


def may_open(process: Mapping[str, str], node: os.stat_result, *, own: bool) -> bool:
    """Whether a process with these fields of /proc/PID/status may read and write a file (path_resolution(7)).

    Its capabilities count where it is in our ``own`` user namespace: in another one it may have been given all.
    """
    if own and int(process["CapEff"], 16) & _CAP_DAC_OVERRIDE:
        return True
    if int(process["Uid"].split()[3]) == node.st_uid:
        return node.st_mode & 0o600 == 0o600
    if node.st_gid in {int(each) for each in [process["Gid"].split()[3], *process["Groups"].split()]}:
        return node.st_mode & 0o060 == 0o060
    return node.st_mode & 0o006 == 0o006


def _in_our_namespace(tid: int) -> bool:
    return os.path.samefile(f"/proc/{tid}/ns/user", "/proc/self/ns/user")  # noqa: PTH121 - of links that lead nowhere
