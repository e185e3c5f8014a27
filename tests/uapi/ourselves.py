"""Calls of a program that is this process itself: its memory and descriptors are real, only nobody traps anything."""

import ctypes
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic

from typing_extensions import override

from mdev_user.uapi.call import Call, Descriptors, Given, Turn, Waiting
from mdev_user.uapi.device import Device
from mdev_user.uapi.files import File, Files
from mdev_user.uapi.program import Program
from mdev_user.uapi.seccomp import Notification
from mdev_user.vfio_user.client import Client
from protocol.served import Served


class Ourselves:
    """In the place of a supervisor."""

    def __init__(self) -> None:
        self.listener = 0
        """An open file that is no listener: servers refuse it, and reply to every access."""
        self.files = Files()
        self.descriptors = Descriptors(self.files, 1 << 30, 1 << 30, monotonic)
        self.tables = threading.RLock()
        self.watched: dict[int, Callable[[], None]] = {}
        self.waits = 0

    def open_node(self, call: Call, path: str) -> File | None:
        raise NotImplementedError(call, path)

    def hand_over(self) -> None:
        self.waits += 1

    def watch(self, fd: int, ready: Callable[[Waiting], None]) -> None:
        self.watched[fd] = partial(ready, Turn(self.hand_over))

    def unwatch(self, fd: int) -> None:
        del self.watched[fd]

    def watch_end(self, _fd: int, _ended: Callable[[], None]) -> None:
        raise NotImplementedError

    def unwatch_end(self, _fd: int) -> None:
        raise NotImplementedError

    def call(self) -> "OwnCall":
        tid = threading.get_native_id()
        return OwnCall(self, Notification(1, tid, 0, (0,) * 6), Program(tid))

    def ioctl(self, file: File, command: int, argument: "int | ctypes.Array[ctypes.c_char]" = 0) -> int:
        """As ioctl(2): a new descriptor is one of this process."""
        at = argument if isinstance(argument, int) else ctypes.addressof(argument)
        call = self.call()
        answer = file.ioctl(call, command, at)
        return call.give(answer.file, cloexec=answer.cloexec) if isinstance(answer, Given) else answer

    def close(self, *numbers: int) -> None:
        """As close(2) of a program, as far as a supervisor does something about it."""
        for number in numbers:
            os.close(number)
        self.files.settle()

    def device(self, served: Served, name: str = "device") -> tuple[Device, int]:
        """A device open behind ``served``, and the program's descriptor of it."""
        served.socket.settimeout(None)
        device = Device(name, Client.over(served.socket), self)
        self.files.add(device)
        return device, self.call().give(device)


class OwnCall(Call):
    """What it gives is a descriptor of this process."""

    __slots__ = ()

    @override
    def give(self, file: File, *, cloexec: bool = True) -> int:
        assert cloexec
        return self.serving.files.new_description(file)

    @override
    def still_valid(self) -> bool:
        return True


def packed(data: bytes, room: int = 0) -> "ctypes.Array[ctypes.c_char]":
    """Memory of the program that begins with ``data``, and has ``room`` bytes more."""
    return ctypes.create_string_buffer(data + bytes(room), len(data) + room)


def groups_tree(folder: Path, number: int, uuid: str) -> None:
    """What a daemon's sysfs tells of a group."""
    (folder / "kernel/iommu_groups" / str(number) / "devices" / uuid).mkdir(parents=True)
