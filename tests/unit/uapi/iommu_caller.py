"""A program's calls to an iommufd and a cdev, made by the test's own process."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EBADF
from threading import RLock
from typing import cast

import pytest

from mdev_user.errors import MdevUserError, errno_of
from mdev_user.uapi.abi import iommufd as abi
from mdev_user.uapi.abi import vfio
from mdev_user.uapi.abi.iommufd import Command, Layout
from mdev_user.uapi.call import Call, Waiting
from mdev_user.uapi.device import Device
from mdev_user.uapi.files import File
from mdev_user.uapi.program import Program
from mdev_user.units import PAGE

IOMMU_FD, CDEV_FD, OTHER_FD = 4000, 4001, 4002
RW = abi.MAP_READABLE | abi.MAP_WRITEABLE
FIXED = RW | abi.MAP_FIXED_IOVA


class Serving:
    """The supervisor, as far as files and devices need it."""

    def __init__(self) -> None:
        self.listener = 0
        """An open file that is no listener: servers refuse it, and reply to every access."""
        self.tables = RLock()
        self.files = self
        self.watched: set[int] = set()
        self.removed: list[File] = []

    def watch(self, fd: int, _ready: Callable[[Waiting], None]) -> None:
        self.watched.add(fd)

    def unwatch(self, fd: int) -> None:
        self.watched.remove(fd)

    def watch_end(self, _fd: int, _ended: Callable[[], None]) -> None:
        raise NotImplementedError

    def unwatch_end(self, _fd: int) -> None:
        raise NotImplementedError

    def remove(self, file: File) -> None:
        file.released()
        os.close(file.fd)
        self.removed.append(file)


class Caller:
    """A program's calls: this process is the program, with files of ours at numbers that it does not have."""

    def __init__(self) -> None:
        self.program = Program(os.getpid())
        self.serving = Serving()
        self.ours: dict[int, File] = {}
        self.args: tuple[int, ...] = ()
        self.fails_to_replace = False

    def read(self, address: int, count: int) -> bytes:
        return self.program.read(address, count)

    def write(self, address: int, data: bytes) -> None:
        self.program.write(address, data)

    def take_fd(self, number: int) -> int:
        return self.program.take_fd(number)

    def file(self, number: int) -> File | None:
        return self.ours.get(number)

    def may_wait(self) -> None: ...

    def add(self, file: File) -> File:
        return file

    def replace(self, number: int, file: File) -> None:
        if self.fails_to_replace:
            raise OSError(EBADF, "the program closed it")
        self.ours[number] = file

    def ioctl(self, number: int, command: int, data: bytes) -> bytes:
        """The structure afterwards."""
        self.args = (number, command, 0)
        buffer = ctypes.create_string_buffer(data, len(data))
        try:
            result = self.ours[number].ioctl(cast("Call", self), command, ctypes.addressof(buffer))
            assert result == 0
        finally:
            self.after = buffer.raw
        return buffer.raw

    def iommu(self, command: int, layout: Layout, *fields: int) -> tuple[int, ...]:
        """An ioctl of the iommufd; the fields without the size."""
        data = layout.fields.pack(layout.fields.size, *fields)
        return layout.fields.unpack(self.ioctl(IOMMU_FD, command, data))[1:]

    def ioas(self) -> int:
        return self.iommu(Command.IOAS_ALLOC, abi.IOAS_ALLOC, 0, 0)[1]

    def map(self, ioas: int, address: int, iova: int, length: int = PAGE, flags: int = FIXED) -> int:
        return self.iommu(Command.IOAS_MAP, abi.IOAS_MAP, flags, ioas, 0, address, length, iova)[-1]

    def unmap(self, ioas: int, iova: int, length: int) -> int:
        return self.iommu(Command.IOAS_UNMAP, abi.IOAS_UNMAP, ioas, iova, length)[-1]

    def bind(self, iommufd: int = IOMMU_FD, flags: int = 0, argsz: int = abi.BIND.size, at: int = CDEV_FD) -> int:
        data = self.ioctl(at, vfio.Command.DEVICE_BIND_IOMMUFD, abi.BIND.pack(argsz, flags, iommufd, 0))
        return int(abi.BIND.unpack(data)[3])

    def attach(self, pt_id: int, flags: int = 0, argsz: int = abi.ATTACH_PT.size) -> None:
        data = abi.ATTACH_PT.pack(argsz, flags, pt_id)
        self.ioctl(CDEV_FD, vfio.Command.DEVICE_ATTACH_IOMMUFD_PT, data)

    def detach(self, flags: int = 0, argsz: int = abi.DETACH_PT.size) -> None:
        self.ioctl(CDEV_FD, vfio.Command.DEVICE_DETACH_IOMMUFD_PT, abi.DETACH_PT.pack(argsz, flags))

    @property
    def device(self) -> Device:
        device = self.ours[CDEV_FD]
        assert isinstance(device, Device)
        return device


@contextmanager
def refused(errno: int) -> Iterator[None]:
    with pytest.raises((OSError, MdevUserError)) as found:
        yield
    assert errno_of(found.value) == errno
