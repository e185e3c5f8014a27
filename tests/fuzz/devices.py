"""The devices behind a fuzzed session: every shipped driver, and one with a piece of everything."""

from functools import cache
from typing import Any
from uuid import UUID

from drivers.everything import Card as Everything
from fuzz.grown import GrownParent, SetsParent, StatefulParent
from fuzz.peer import Known, Slot
from mdev_user.driver import Device, Parent
from mdev_user.drivers.crc import Card as Crc
from mdev_user.drivers.edu import Card as Edu
from mdev_user.drivers.mbochs import Mbochs
from mdev_user.drivers.mdpy import Mdpy
from mdev_user.drivers.mtty import Mtty
from mdev_user.drivers.virtio_rng import Card as VirtioRng
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.requests import MOST_REGIONS, Region

AnyParent = type[Parent[Any]]  # Any: of whatever profile
PARENTS: tuple[AnyParent, ...] = (Edu, Crc, Mtty, Mbochs, Mdpy, Everything)
LOADED: tuple[AnyParent, ...] = (*PARENTS, GrownParent, StatefulParent, SetsParent, VirtioRng)
"""Into which states are loaded; of the stateful one the jobs' arguments are its guest's own fault."""
GROWN, STATEFUL, SETS = (LOADED.index(each) for each in (GrownParent, StatefulParent, SetsParent))
UUID1 = UUID(int=1)
_CONFIG = ((4, 2), (6, 2), (0x10, 4), (0x14, 4), (0x3C, 1), (0x34, 1), (0x42, 2), (0x44, 4), (0x50, 4), (0, 4))
"""Offset and size in the config space."""


_MASTER = (7, 4, 0x0007)
WORK: dict[AnyParent, list[Slot]] = {
    Edu: [
        _MASTER, (0, 0x80, 0), (0, 0x88, 0x40000), (0, 0x90, 64), (0, 0x98, 5),  # guest memory to the buffer
        (0, 0x80, 0x40000), (0, 0x88, 0x1000), (0, 0x98, 7), (0, 0x20, 0x80), (0, 0x08, 5), (0, 0x60, 1), (0, 0x64, 1),
    ],
    Crc: [_MASTER, (0, 0x10, 0), (0, 0x18, 8192), (0, 0x08, 3), (0, 0x20, 1), (0, 0x04, 3)],
    Everything: [_MASTER, (0, 0x10, 0xFF0), (0, 0x18, 63), (0, 0x04, 3), (0, 0x1C, 1), (0, 0x1C, 2), (0, 0x20, 3)],
    Mtty: [_MASTER, (0, 1, 0x0F), (0, 2, 0xC7), (0, 0, 0x41), (0, 4, 0x1B)],
}  # fmt: skip
"""Region, offset and value: what a driver writes to make the device do something."""
_WIDE = {Edu: frozenset({0x80, 0x88, 0x90, 0x98}), Crc: frozenset({0x10}), Everything: frozenset({0x10})}


def device_of(parent: AnyParent) -> Device:
    return Device(parent.function, next(iter(parent.types.values())), UUID1)


@cache
def vfio_device(index: int) -> VfioDevice:
    """Made once: whoever opens it finds it as after power-on."""
    return VfioDevice(UUID1, LOADED[index].__name__, device_of(LOADED[index]))


def known_of(vfio: VfioDevice) -> Known:
    """What a peer learns of a device by asking, and by its data sheet. It is open."""
    device = vfio.ops
    assert isinstance(device, Device)
    slots: list[Slot] = [(Region.CONFIG, offset, size) for offset, size in _CONFIG]
    for region, space in device._spaces.items():
        slots += [(region, slot.offset, slot.size) for slot in space._layout.slots[:64]]
    for window in device._pci._windows:
        slots += [(window.bar, window.offset + at, 4) for at in (0, 4, 8, 12, 16) if at < window.size]
    sizes = {}
    for index in range(MOST_REGIONS):
        try:
            sizes[index] = vfio.region_info(index).size
        except Exception:  # noqa: BLE001 - it has none of this index
            continue
    slots += [(index, size - 8, 8) for index, size in sizes.items() if size >= 8]
    kind = next(each for each in PARENTS if each.function is type(device.function))
    return Known(slots, sizes, WORK.get(kind, [_MASTER]), _WIDE.get(kind, frozenset()))
