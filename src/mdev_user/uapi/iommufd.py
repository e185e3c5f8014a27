"""/dev/iommu: the ioctls of an iommufd.

Our devices are what Linux calls emulated: they have no IOMMU of their own, so there are no hardware page tables, and
what asks for one finds no such device (ENOENT), as in ``drivers/iommu/iommufd``. An IOAS takes whole pages from the
beginning, where Linux takes any bytes until the first device is attached. Which errno comes first is as there.
"""

import os
from collections.abc import Callable
from errno import E2BIG, EBUSY, EINVAL, EMSGSIZE, ENOENT, ENOMEM, EOPNOTSUPP, EOVERFLOW
from stat import S_IFCHR
from typing import TYPE_CHECKING, TypeVar

from typing_extensions import override

from mdev_user.errors import GuestError
from mdev_user.uapi import vfio_compatibility
from mdev_user.uapi.abi import iommufd as abi
from mdev_user.uapi.abi.iommufd import Command, Layout
from mdev_user.uapi.files import File, refused
from mdev_user.uapi.ioas import LAST, Ioas, Objects, Range
from mdev_user.units import PAGE
from mdev_user.vfio.device_numbers import IOMMU
from mdev_user.vfio.dma import DmaFlags
from mdev_user.vfio_user.transport import close_fds

if TYPE_CHECKING:
    from mdev_user.uapi.call import Call
    from mdev_user.uapi.container import Member
    from mdev_user.uapi.device import Device

LONGEST = 4096
"""Bytes of a structure; a longer one is not one that we understand."""
MOST_RANGES = 4096
_T = TypeVar("_T")
_DIRECTIONS = {
    abi.MAP_READABLE: DmaFlags.READ,
    abi.MAP_WRITEABLE: DmaFlags.WRITE,
    abi.MAP_READABLE | abi.MAP_WRITEABLE: DmaFlags.READ | DmaFlags.WRITE,
}


class IommuFile(File):
    """One open /dev/iommu. It answers for a container too: then groups use its compatible IOAS."""

    mode = S_IFCHR | 0o666

    def __init__(self) -> None:
        super().__init__("iommufd", os.makedev(*IOMMU))
        self.objects = Objects()

    @override
    def ioctl(self, call: "Call", command: int, argument: int) -> int:
        """ENOTTY for what is not known; EINVAL, E2BIG for a structure that is too short, or says too much."""
        known = _IOCTLS.get(command)
        if known is None:
            return vfio_compatibility.ioctl(self.objects, call, command, argument)
        layout, perform = known
        size, fields = _read(call, argument, layout)
        answer = perform(self.objects, call, fields)
        if answer is not None:
            call.write(argument, layout.fields.pack(size, *answer)[: min(size, layout.fields.size)])
        if command == Command.IOAS_IOVA_RANGES and answer is not None and fields[1] < answer[1]:
            raise refused(EMSGSIZE)
        return 0

    @override
    def released(self) -> None:
        self.objects.close()

    # --- as a container

    @property
    def has_iommu(self) -> bool:
        return True

    def attach_group(self, group: "Member") -> None:
        """Makes the compatible IOAS when there is none."""
        if self.objects.vfio_ioas is None:
            self.objects.vfio_ioas = self.objects.ioas(self.objects.add_ioas())
        self.objects.groups.append(group)

    def detach_group(self, group: "Member") -> None:
        self.objects.leave(group)

    def attach(self, device: "Device") -> None:
        """To what is the compatible IOAS now."""
        self.objects.compatible()[1].attach(device)

    def detach(self, device: "Device") -> None:
        self.objects.detach(device)


def _read(call: "Call", argument: int, layout: Layout) -> tuple[int, tuple[int, ...]]:
    """The structure's size as the program knows it, and the other fields; what an old one lacks is 0."""
    (size,) = abi.SIZE.unpack(call.read(argument, abi.SIZE.size))
    if size < layout.least:
        raise refused(EINVAL)
    known = layout.fields.size
    if size > known and (size > LONGEST or any(call.read(argument + known, size - known))):
        raise refused(E2BIG)
    data = call.read(argument, min(size, known))
    return size, layout.fields.unpack(data.ljust(known, b"\0"))[1:]


# --- objects


def _destroy(objects: Objects, _call: "Call", fields: tuple[int, ...]) -> None:
    objects.destroy(*fields)


def _ioas_alloc(objects: Objects, _call: "Call", fields: tuple[int, ...]) -> tuple[int, ...]:
    flags, _ = fields
    if flags:
        raise refused(EOPNOTSUPP)
    return flags, objects.add_ioas()


def _option(objects: Objects, _call: "Call", fields: tuple[int, ...]) -> tuple[int, ...]:
    option, operation, reserved, number, value = fields
    if reserved or option not in _OPTIONS or operation not in {abi.OPTION_SET, abi.OPTION_GET}:
        raise refused(EOPNOTSUPP)
    return option, operation, 0, number, _OPTIONS[option](objects, operation, number, value)


def _rlimit_mode(objects: Objects, operation: int, number: int, value: int) -> int:
    """Nothing is accounted; the mode is kept."""
    if number:
        raise refused(EOPNOTSUPP)
    if operation == abi.OPTION_SET:
        if len(objects):
            raise refused(EBUSY)
        objects.rlimit_mode = _zero_or_one(value)
    return objects.rlimit_mode


def _huge_pages(objects: Objects, operation: int, number: int, value: int) -> int:
    ioas = objects.ioas(number)
    if operation == abi.OPTION_SET:
        ioas.huge_pages = _zero_or_one(value)
    return ioas.huge_pages


def _zero_or_one(value: int) -> int:
    if value not in {0, 1}:
        raise refused(EINVAL)
    return value


_OPTIONS: dict[int, Callable[[Objects, int, int, int], int]] = {
    abi.OPTION_RLIMIT_MODE: _rlimit_mode,
    abi.OPTION_HUGE_PAGES: _huge_pages,
}


def _vfio_ioas(objects: Objects, _call: "Call", fields: tuple[int, ...]) -> tuple[int, ...] | None:
    number, operation, reserved = fields
    if reserved or operation not in {abi.VFIO_IOAS_GET, abi.VFIO_IOAS_SET, abi.VFIO_IOAS_CLEAR}:
        raise refused(EOPNOTSUPP)
    if operation == abi.VFIO_IOAS_GET:
        return objects.compatible()[0], operation, 0
    objects.vfio_ioas = objects.ioas(number) if operation == abi.VFIO_IOAS_SET else None
    return None


# --- ranges


def _iova_ranges(objects: Objects, call: "Call", fields: tuple[int, ...]) -> tuple[int, ...]:
    """All of the address space in one range: no device of ours has any of it for itself."""
    number, room, reserved, where, _ = fields
    if reserved:
        raise refused(EOPNOTSUPP)
    objects.ioas(number)
    if room:
        call.write(where, abi.RANGE.pack(0, LAST))
    return number, 1, 0, where, PAGE


def _allow_iovas(objects: Objects, call: "Call", fields: tuple[int, ...]) -> None:
    number, count, reserved, where = fields
    if reserved:
        raise refused(EOPNOTSUPP)
    ioas = objects.ioas(number)
    if count > MOST_RANGES:
        raise refused(ENOMEM)
    ranges: list[Range] = sorted(abi.RANGE.iter_unpack(call.read(where, count * abi.RANGE.size)) if count else ())
    last = -1
    for start, end in ranges:
        if start >= end or start <= last:
            raise refused(EINVAL)
        last = end
    ioas.allowed = tuple(ranges)


# --- mappings


def _map(objects: Objects, call: "Call", fields: tuple[int, ...]) -> tuple[int, ...]:
    flags, number, reserved, address, length, iova = fields
    if reserved:
        raise refused(EOPNOTSUPP)
    directions = _directions(flags, iova, length)
    ioas = objects.ioas(number)
    iova = _placed(ioas, flags, iova, address, length)
    _changed(call, ioas, lambda: ioas.space.map(call.program, address, iova, length, directions))
    return flags, number, reserved, address, length, iova


def _map_file(objects: Objects, call: "Call", fields: tuple[int, ...]) -> tuple[int, ...]:
    flags, number, file, start, length, iova = fields
    directions = _directions(flags, iova, length)
    ioas = objects.ioas(number)
    fd = call.take_fd(file)
    try:
        iova = _placed(ioas, flags, iova, start, length)
        _changed(call, ioas, lambda: ioas.space.map_fd(fd, start, iova, length, directions))
    finally:
        close_fds([fd])
    return flags, number, file, start, length, iova


def _copy(objects: Objects, call: "Call", fields: tuple[int, ...]) -> tuple[int, ...]:
    flags, target, source, length, iova, source_iova = fields
    directions = _directions(flags, iova, length, source_iova)
    origin = objects.ioas(source).space
    if not length:
        raise refused(EINVAL)
    ioas = objects.ioas(target)
    iova = _placed(ioas, flags, iova, source_iova, length)
    _changed(call, ioas, lambda: ioas.space.copy(origin, source_iova, iova, length, directions))
    return flags, target, source, length, iova, source_iova


def _unmap(objects: Objects, call: "Call", fields: tuple[int, ...]) -> tuple[int, ...]:
    """All for the whole address space; else ENOENT for nothing, and for what would split a mapping."""
    number, iova, length = fields
    ioas = objects.ioas(number)
    if (iova, length) == (0, LAST):
        return number, iova, _changed(call, ioas, ioas.space.unmap_all)
    if LAST in {iova, length} or iova + length > LAST + 1:
        raise refused(EOVERFLOW)
    if not length:
        raise refused(EINVAL)
    try:
        done = _changed(call, ioas, lambda: ioas.space.unmap(iova, length))
    except GuestError:
        done = 0
    if not done:
        raise refused(ENOENT)
    return number, iova, done


def _directions(flags: int, *numbers: int) -> DmaFlags:
    """What the flags let a device do. EOPNOTSUPP, EOVERFLOW, EINVAL in Linux's order."""
    if flags & ~abi.MAP_FLAGS:
        raise refused(EOPNOTSUPP)
    if LAST in numbers:
        raise refused(EOVERFLOW)
    found = _DIRECTIONS.get(flags & ~abi.MAP_FIXED_IOVA)
    if found is None:
        raise refused(EINVAL)
    return found


def _placed(ioas: Ioas, flags: int, iova: int, memory: int, length: int) -> int:
    """Where the mapping goes: where it is fixed, or where there is room."""
    if not length or length % PAGE:
        raise refused(EINVAL)
    if memory + length > LAST:
        raise refused(EOVERFLOW)
    if not flags & abi.MAP_FIXED_IOVA:
        return ioas.free_address(memory, length)
    if iova % PAGE:
        raise refused(EINVAL)
    if iova + length > LAST + 1:
        raise refused(EOVERFLOW)
    return iova


def _changed(call: "Call", ioas: Ioas, change: Callable[[], _T]) -> _T:
    if ioas.devices:
        call.may_wait()
    try:
        return change()
    finally:
        ioas.listen()


# --- what only real hardware has


def _hwpt_alloc(_objects: Objects, _call: "Call", fields: tuple[int, ...]) -> None:
    flags, _device, _table, _out, reserved, kind, length, where, _fault, reserved_too = fields
    if flags & ~abi.HWPT_FLAGS or reserved or reserved_too:
        raise refused(EOPNOTSUPP)
    if not kind and (length or where):
        raise refused(EINVAL)
    raise refused(ENOENT)


def _no_hardware(_objects: Objects, _call: "Call", _fields: tuple[int, ...]) -> None:
    """There is no such device, and no such page table."""
    raise refused(ENOENT)


def _get_hw_info(_objects: Objects, _call: "Call", fields: tuple[int, ...]) -> None:
    flags, *_, reserved, _capabilities = fields
    raise refused(EOPNOTSUPP if flags or reserved else ENOENT)


_Handler = Callable[[Objects, "Call", tuple[int, ...]], tuple[int, ...] | None]

_IOCTLS: dict[int, tuple[Layout, _Handler]] = {
    Command.DESTROY: (abi.DESTROY, _destroy),
    Command.IOAS_ALLOC: (abi.IOAS_ALLOC, _ioas_alloc),
    Command.IOAS_ALLOW_IOVAS: (abi.IOAS_ALLOW_IOVAS, _allow_iovas),
    Command.IOAS_COPY: (abi.IOAS_COPY, _copy),
    Command.IOAS_IOVA_RANGES: (abi.IOAS_IOVA_RANGES, _iova_ranges),
    Command.IOAS_MAP: (abi.IOAS_MAP, _map),
    Command.IOAS_MAP_FILE: (abi.IOAS_MAP_FILE, _map_file),
    Command.IOAS_UNMAP: (abi.IOAS_UNMAP, _unmap),
    Command.OPTION: (abi.OPTION, _option),
    Command.VFIO_IOAS: (abi.VFIO_IOAS, _vfio_ioas),
    Command.HWPT_ALLOC: (abi.HWPT_ALLOC, _hwpt_alloc),
    Command.GET_HW_INFO: (abi.GET_HW_INFO, _get_hw_info),
    Command.HWPT_SET_DIRTY_TRACKING: (abi.HWPT_SET_DIRTY_TRACKING, _no_hardware),
    Command.HWPT_GET_DIRTY_BITMAP: (abi.HWPT_GET_DIRTY_BITMAP, _no_hardware),
    Command.HWPT_INVALIDATE: (abi.HWPT_INVALIDATE, _no_hardware),
}
