"""What an iommufd has by id: address spaces, and the devices that are bound to it. Used under the supervisor's tables.

Ids are the lowest free ones from 1 on, as the kernel gives them (``drivers/iommu/iommufd/main.c``).
"""

from collections.abc import Iterable
from errno import EBUSY, EINVAL, ENODEV, ENOENT, ENOMEM, ENOSPC
from itertools import count
from typing import TYPE_CHECKING

from mdev_user.uapi.files import refused
from mdev_user.uapi.memory import AddressSpace
from mdev_user.uapi.program_memory import Descriptors
from mdev_user.units import PAGE

if TYPE_CHECKING:
    from mdev_user.uapi.device import Device

MOST_OBJECTS = 4096
"""Of one iommufd: each costs memory of ours."""
LAST = (1 << 64) - 1

Range = tuple[int, int]
"""The first and the last address."""


class Ioas:
    """One address space, and the devices that are attached to it."""

    def __init__(self, descriptors: Descriptors) -> None:
        self.space = AddressSpace(descriptors)
        self.devices: list[Device] = []
        self.allowed: tuple[Range, ...] = ()
        """Where a mapping that has no address of its own is put; none: everywhere."""
        self.huge_pages = 1
        """IOMMU_OPTION_HUGE_PAGES, which says nothing about us."""

    def attach(self, device: "Device") -> None:
        self.space.attach(device.client, device.lock)
        self.devices.append(device)
        self.listen()

    def detach(self, device: "Device") -> None:
        self.devices.remove(device)
        device.listen(wanted=False)
        self.space.detach(device.client)

    def listen(self) -> None:
        """To the devices that have to ask for memory: they may at any time."""
        for device in self.devices:
            device.listen(wanted=self.space.serves(device.client))

    def free_address(self, memory: int, length: int) -> int:
        """An address for ``length`` bytes, aligned as the memory is; never 0. ENOSPC when there is no room.

        EINVAL unless ``memory`` is a page's first byte (iopt_alloc_iova).
        """
        alignment = 1 << (length - 1).bit_length()
        if memory:
            alignment = min(alignment, memory & -memory)
        if alignment < PAGE:
            raise refused(EINVAL)
        for first, last in self._holes(sorted(self.allowed) or [(PAGE, LAST - PAGE)]):
            start = -(-first // alignment) * alignment
            if start + length - 1 <= last:
                return start
        raise refused(ENOSPC)

    def _holes(self, ranges: Iterable[Range]) -> Iterable[Range]:
        mappings = self.space.mappings
        for first, last in ranges:
            at = max(first, PAGE)
            for iova, size in mappings:
                if iova + size <= at or iova > last:
                    continue
                if at < iova:
                    yield at, iova - 1
                at = iova + size
            if at <= last:
                yield at, last


class Bound:
    """A device that is bound: what its ATTACH and DETACH change."""

    def __init__(self, objects: "Objects", device: "Device") -> None:
        self._objects = objects
        self._device = device
        self.ioas: Ioas | None = None
        self.id = 0

    def attach(self, pt_id: int) -> None:
        """Move the device to this IOAS. ENOENT for what is none; when it fails the device stays where it was."""
        ioas, before = self._objects.ioas(pt_id), self.ioas
        if ioas is before:
            return
        self.detach()
        try:
            ioas.attach(self._device)
        except BaseException:
            if before is not None:
                before.attach(self._device)
                self.ioas = before
            raise
        self.ioas = ioas

    def detach(self) -> None:
        """Nothing happens when it is not attached."""
        ioas, self.ioas = self.ioas, None
        if ioas is not None:
            ioas.detach(self._device)

    def unbind(self) -> None:
        """The device is closed."""
        self.detach()
        self._objects.remove(self)


class Objects:
    """Everything that one iommufd has. It lives as long as the file is open, or a device or group uses it."""

    def __init__(self) -> None:
        self.vfio_ioas: Ioas | None = None
        """What the ioctls of VFIO's containers mean (IOMMU_VFIO_IOAS)."""
        self.groups: list[object] = []
        self.rlimit_mode = 0
        self._descriptors = Descriptors()
        self._objects: dict[int, Ioas | Bound] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._objects)

    def add_ioas(self) -> int:
        """The id of a new address space. ENOMEM for one too many."""
        return self._add(Ioas(self._descriptors))

    def bind(self, device: "Device") -> Bound:
        """ENOMEM for one too many."""
        bound = Bound(self, device)
        bound.id = self._add(bound)
        return bound

    def ioas(self, number: int) -> Ioas:
        """ENOENT unless it is an address space."""
        found = self._objects.get(number)
        if not isinstance(found, Ioas):
            raise refused(ENOENT)
        return found

    def compatible(self) -> tuple[int, Ioas]:
        """The address space that VFIO's containers mean, and its id; ENODEV when there is none."""
        for number, each in self._objects.items():
            if each is self.vfio_ioas and isinstance(each, Ioas):
                return number, each
        raise refused(ENODEV)

    def destroy(self, number: int) -> None:
        """ENOENT for no object, EBUSY for one that is used: a device, an IOAS with one, or that of a group."""
        found = self._objects.get(number)
        if found is None:
            raise refused(ENOENT)
        if isinstance(found, Bound) or found.devices:
            raise refused(EBUSY)
        found.space.unmap_all()
        del self._objects[number]
        if found is self.vfio_ioas:
            self.vfio_ioas = None

    def remove(self, bound: Bound) -> None:
        del self._objects[bound.id]
        self._end_when_unused()

    def detach(self, device: "Device") -> None:
        """Of a group's device, whichever IOAS was the compatible one when it was opened."""
        for each in self._objects.values():
            if isinstance(each, Ioas) and device in each.devices:
                each.detach(device)

    def leave(self, group: object) -> None:
        """A group uses it no more."""
        self.groups.remove(group)
        self._end_when_unused()

    def close(self) -> None:
        """The file is closed; who is bound still uses what is mapped."""
        self._closed = True
        self._end_when_unused()

    def _end_when_unused(self) -> None:
        if not self._closed or self.groups or any(isinstance(each, Bound) for each in self._objects.values()):
            return
        for each in self._objects.values():
            if isinstance(each, Ioas):
                each.space.unmap_all()
        self._objects.clear()

    def _add(self, new: Ioas | Bound) -> int:
        if len(self._objects) >= MOST_OBJECTS:
            raise refused(ENOMEM)
        number = next(each for each in count(1) if each not in self._objects)
        self._objects[number] = new
        return number
