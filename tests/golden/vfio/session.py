"""One device of the replay: the program that has it open, and what the steps so far have left."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from golden.transcript import Answer, Step
from golden.vfio import ioctls
from uapi.calls import Calls, Result

CONFIG = 7


class Region(NamedTuple):
    """As REGION_INFO told it."""

    offset: int
    size: int


@dataclass
class Session:
    """What a device's steps share. ``recorded`` is the kernel's layout, by which its absolute offsets are read."""

    program: Calls
    uuid: str
    group_path: str
    recorded: Mapping[int, Region]
    container: int = -1
    group: int = -1
    device: int = -1
    eventfd: int = -1
    bar0: int = -1
    """Where all of BAR 0 is mapped."""
    data_fd: int = -1
    stream: bytes = b""
    dma: bytes = b""
    """The struct of the first MAP_DMA."""
    dmabuf: int = 0
    regions: dict[int, Region] = field(default_factory=dict)
    failed_return: str | None = None
    """The errno with which the device could not go back to RUNNING after a step, until it is reset."""

    def ioctl(self, number: int, argument: bytes | int = 0) -> Result:
        """Of the device."""
        return self.program.ioctl(self.device, number, argument)

    def let_go(self) -> None:
        """Of the device: a mapping has it open, as a descriptor has."""
        if self.bar0 >= 0:
            _unmapped = self.program.munmap(self.bar0, self.regions[0].size).ok
        _closed = self.program.close(self.device).ok

    def region(self, index: int, offset: int = 0) -> int:
        """Where it is in our device file."""
        return self.regions[index].offset + offset

    def read(self, index: int, offset: int, count: int) -> Result:
        return self.program.pread(self.device, count, self.region(index, offset), fill=0xEE)

    def value(self, index: int, offset: int, count: int) -> int:
        return int.from_bytes(self.read(index, offset, count).data, "little")

    def write(self, index: int, offset: int, data: bytes) -> Result:
        return self.program.pwrite(self.device, data, self.region(index, offset))

    def translated(self, offset: int) -> int:
        """An offset of the recording: the same place of the same region; the number itself where no region was."""
        for index, each in self.recorded.items():
            if each.offset <= offset < each.offset + each.size:
                return self.region(index, offset - each.offset)
        shifted = offset >> 40  # mtty's, which has a place for regions of no size
        if shifted in self.recorded and self.recorded[shifted].offset == offset:
            return self.region(shifted)
        return offset


def recorded_layout(steps: Sequence[Step]) -> Mapping[int, Region]:
    """Of one device's steps."""
    found = {}
    for step in steps:
        told = re.search(r"index=(\d+) size=(0x\w+) offset=(0x\w+)", step.answer.out)
        if step.answer.errno is None and told is not None:
            found[int(told[1])] = Region(int(told[3], 16), int(told[2], 16))
    return found


def answer(result: Result, out: str = "", rc: int | None = None) -> Answer:
    """``rc`` is what the recorder wrote for a call that did not fail; None: what the call returned."""
    return Answer(result.rc if result.errno is not None or rc is None else rc, result.errno, out)


def fields(names: str, values: Sequence[int], *, decimal: str = "") -> str:
    """``a=0x1 b=0x2``; those in ``decimal`` not in hexadecimal."""
    return " ".join(
        f"{name}={value}" if name in decimal.split() else f"{name}={value:#x}"
        for name, value in zip(names.split(), values, strict=True)
    )


def feature(session: Session, flags: int, data: bytes = b"", argsz: int | None = None) -> Result:
    """VFIO_DEVICE_FEATURE; the result's data is what follows its header."""
    size = ioctls.FEATURE.size + len(data) if argsz is None else argsz
    done = session.ioctl(ioctls.DEVICE_FEATURE, ioctls.FEATURE.pack(size, flags) + data)
    return Result(done.rc, done.errno, done.data[ioctls.FEATURE.size :])
