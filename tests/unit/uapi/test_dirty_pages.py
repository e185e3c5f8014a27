"""DIRTY_PAGES of a container: what its devices wrote, by the logs that they keep."""

import struct
from collections.abc import Iterator
from errno import EINVAL

import pytest

from mdev_user.errors import MdevUserError, errno_of
from mdev_user.uapi.abi.vfio import Command
from mdev_user.uapi.container import Container
from mdev_user.uapi.device import Device
from mdev_user.units import PAGE
from mdev_user.vfio_user.connection import RemoteError
from protocol.served import Served
from uapi.ourselves import Ourselves, packed

START, STOP, GET = 1, 2, 4
PAGES = 128
SIZE = PAGES * PAGE


class OneGroup:
    """In the place of a group."""

    def __init__(self, device: Device) -> None:
        self.devices = [device]


class Program:
    """This process, with a container in which a device is, and memory mapped at 0."""

    def __init__(self, served: Served) -> None:
        self.ourselves = Ourselves()
        self.served = served
        self.container = Container()
        self.ourselves.files.add(self.container)
        self.device, _ = self.ourselves.device(served)
        self.container.attach_group(OneGroup(self.device))
        self.container.ioctl(self.ourselves.call(), Command.SET_IOMMU, 3)
        self.container.attach(self.device)
        self.memory = packed(b"", SIZE + PAGE)
        address = -(-int(_address(self.memory)) // PAGE) * PAGE
        self.ioctl(Command.IOMMU_MAP_DMA, struct.pack("=IIQQQ", 32, 3, address, 0, SIZE))
        self.bitmap = packed(b"", PAGES // 8)

    def ioctl(self, command: int, data: bytes) -> int:
        """0, or the errno."""
        try:
            return self.ourselves.ioctl(self.container, command, packed(data))
        except (OSError, MdevUserError) as error:
            return errno_of(error)

    def pages(self, flags: int, size: int = SIZE, page_size: int = PAGE, room: int = PAGES // 8, iova: int = 0) -> int:
        data = struct.pack("=QQQQQ", iova, size, page_size, room, _address(self.bitmap))
        return self.ioctl(Command.IOMMU_DIRTY_PAGES, struct.pack("=II", 48, flags) + data)

    def write_by_device(self, iova: int) -> None:
        done: list[object] = []
        with self.served.step_lock:
            self.served.device.dma.log.mark(iova, 1)
            done.append(iova)

    @property
    def dirty(self) -> list[int]:
        bits = int.from_bytes(self.bitmap.raw, "little")
        return [page for page in range(PAGES) if bits >> page & 1]


def _address(memory: object) -> int:
    import ctypes

    assert isinstance(memory, ctypes.Array)
    return ctypes.addressof(memory)


@pytest.fixture
def program() -> Iterator[Program]:
    with Served() as served:
        program = Program(served)
        yield program
        program.ourselves.files.close()


def test_pages_that_the_device_wrote_are_told_once(program: Program) -> None:
    assert program.pages(START) == 0
    program.write_by_device(3 * PAGE + 5)
    program.write_by_device(100 * PAGE)
    assert program.pages(GET) == 0
    assert program.dirty == [3, 100]
    assert program.pages(GET) == 0
    assert program.dirty == []
    assert program.pages(STOP) == 0


def test_unmapping_tells_what_was_written(program: Program) -> None:
    program.pages(START)
    program.write_by_device(7 * PAGE)
    tail = struct.pack("=QQQ", PAGE, PAGES // 8, _address(program.bitmap))
    assert program.ioctl(Command.IOMMU_UNMAP_DMA, struct.pack("=IIQQ", 48, 1, 0, SIZE) + tail) == 0
    assert program.dirty == [7]
    assert len(program.container.space) == 0


def test_only_what_is_logged_is_told(program: Program) -> None:
    assert program.pages(GET) == EINVAL
    program.pages(START)
    assert program.pages(GET, room=8) == EINVAL
    assert program.pages(GET, page_size=2 * PAGE) == EINVAL
    assert program.pages(GET, size=SIZE + 1) == EINVAL
    assert program.pages(START | STOP) == EINVAL
    assert program.ioctl(Command.IOMMU_DIRTY_PAGES, struct.pack("=II", 7, START)) == EINVAL


def test_a_device_without_a_log_may_have_written_everything(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> bytes:
        raise RemoteError(EINVAL, "no log")

    monkeypatch.setattr(program.device.client, "report_dma_logging", refuse)
    program.pages(START)
    assert program.pages(GET) == 0
    assert program.dirty == list(range(PAGES))


def test_ranges_take_mappings_as_wholes_and_have_an_end(program: Program) -> None:
    program.pages(START)
    assert program.pages(GET, size=SIZE - PAGE) == EINVAL
    assert program.pages(GET, iova=PAGE) == EINVAL
    assert program.pages(GET, iova=SIZE, size=PAGE) == 0, "of no mapping"
    assert program.pages(GET, iova=2**64 - PAGE, size=PAGE) == EINVAL
    assert program.pages(GET, iova=2**64 - PAGE, size=2 * PAGE) == EINVAL
    assert program.pages(GET, room=256 << 20) == 0
    assert program.pages(GET, room=(256 << 20) + 8) == EINVAL


def test_a_device_that_is_gone_may_have_written_everything(program: Program) -> None:
    program.pages(START)
    program.served.session.close()
    program.served.ended()
    assert program.pages(GET) == 0
    assert program.dirty == list(range(PAGES))
