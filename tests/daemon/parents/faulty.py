"""A parent with bugs: it fails, sticks or answers nonsense where it is told to by options or registers.

Any access to BAR0 behaves by its offset.
"""

import os
import sys
import time
from pathlib import Path

from typing_extensions import override

from mdev_user.driver import (
    BarRegion,
    ConfigSpace,
    DeviceOps,
    Mdev,
    MdevAttribute,
    MdevParentOps,
    MdevType,
    MemoryBar,
    NoSpace,
    PciFunction,
    PciId,
    Region,
    Reply,
    Request,
    VfioDevice,
)

GOOD, BUG, SHORT, SLEEP, SPIN, DIE = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50
OPEN_BUG = "openbug"


class Device(DeviceOps):
    """One mdev; of the type ``openbug`` it cannot be opened."""

    def __init__(self, kind: str) -> None:
        bars = {0: BarRegion(MemoryBar(4096))}
        identity = PciId(vendor=0x1DE5, device=2, class_code=0xFF0000)
        self._function = PciFunction(ConfigSpace(identity, {0: bars[0].bar}), bars)
        self._kind = kind
        self._value = b"\0"

    @override
    def open_device(self, device: VfioDevice) -> None:
        if self._kind == OPEN_BUG:
            raise ValueError("open is broken")
        self._function.open(device)

    @override
    def close_device(self) -> None:
        self._function.close()

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        if region == Region.CONFIG:
            return self._function.read_config(offset, count)
        self._misbehave(offset, "read")
        return b"" if offset == SHORT else self._value.ljust(count, b"\0")[:count]

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        self._misbehave(offset, "write")
        self._value = data

    @override
    def ioctl(self, request: Request) -> Reply:
        return self._function.ioctl(request)

    def _misbehave(self, offset: int, operation: str) -> None:
        if offset == BUG:
            raise ValueError(f"{operation} is broken")
        if offset == SLEEP:
            time.sleep(3600)
        while offset == SPIN:
            pass
        if offset == DIE:
            os._exit(3)


class Faulty(MdevParentOps):
    """The parent. Each option is a text, so that a test says what goes wrong on the command line."""

    driver_name = "faulty"
    mdev_types = (
        MdevType("device"),
        MdevType(OPEN_BUG),
        MdevType("createbug"),
        MdevType("exit"),
        MdevType("full"),
    )
    attributes = tuple(
        MdevAttribute("vendor", each, writable=True) for each in ("bug", "bytes", "large", "exit", "good")
    )

    def __init__(self, *, count: int = 10, dies_after: Path | None = None, available: str = "") -> None:
        """``dies_after`` is a file: where it is there already, loading the driver ends the process."""
        if count < 1:
            raise ValueError("expected a count of at least 1")
        if dies_after is not None and dies_after.exists():
            with dies_after.open("a") as file:
                file.write("again\n")
            os._exit(4)
        if dies_after is not None:
            dies_after.touch()
        self._count = count
        self._available = available

    @override
    def create(self, mdev: Mdev) -> Device:
        if mdev.type.name == "createbug":
            raise ValueError("create is broken")
        if mdev.type.name == "exit":
            sys.exit("create leaves")
        if mdev.type.name == "full":
            raise NoSpace("there is never room")
        return Device(mdev.type.name)

    @override
    def remove(self, mdev: Mdev) -> None:
        """Nothing is held."""

    @override
    def get_available(self, mdev_type: MdevType) -> int:
        return self._available if self._available else self._count  # type: ignore[return-value]  # a driver's bug

    @override
    def show(self, mdev: Mdev, attribute: MdevAttribute) -> str:
        match attribute.name:
            case "bug":
                raise ValueError("show is broken")
            case "bytes":
                return b"bytes\n"  # type: ignore[return-value]  # a driver's bug
            case "large":
                return "x" * 1_000_000
            case "exit":
                sys.exit("show leaves")
            case _:
                return "good\n"

    @override
    def store(self, mdev: Mdev, attribute: MdevAttribute, data: bytes) -> None:
        raise ValueError("store is broken")
