"""A VFIO device: open and closed, its operations bound, its answers checked."""

from collections.abc import Callable, Coroutine
from inspect import CORO_CLOSED, getcoroutinestate
from uuid import UUID

import pytest
from typing_extensions import override

from mdev_user.errors import Busy, DriverError, NoDevice, NotSupported
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.dma import Backing, DmaFlags, Mapping
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.requests import (
    DeviceFlags,
    DeviceInfo,
    GetInfo,
    GetIrqInfo,
    GetRegionInfo,
    Irq,
    IrqFlags,
    IrqInfo,
    RegionFlags,
    RegionInfo,
    Reply,
    Request,
    Reset,
)
from mdev_user.vfio.work import Spent

INFO = DeviceInfo(DeviceFlags.PCI, 9, 5)


class Runner:
    """Job runner and region memory, which write down what happens."""

    fd = 77

    def __init__(self, log: list[str]) -> None:
        self.log = log

    now = 0.0

    def spent(self) -> Spent:
        return Spent(0.0, 0.0)

    def spawn(self, work: Coroutine[object, bytes, None], name: str) -> None:
        work.close()
        self.log.append(f"spawn {name}")

    def cancel(self, work: Coroutine[object, bytes, None]) -> None:
        self.log.append("cancel one")

    def cancel_all(self) -> None:
        self.log.append("cancel")

    def pause(self) -> None:
        self.log.append("pause")

    def resume(self) -> None:
        self.log.append("resume")

    def view(self, index: int, size: int) -> memoryview:
        return memoryview(bytearray(size))


class Driver(DeviceOps):
    """A driver that writes down what it is asked."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.failing = ""
        self.reply: Reply = INFO

    @override
    def open_device(self, device: VfioDevice) -> None:
        self._perhaps("open")

    @override
    def close_device(self) -> None:
        self._perhaps("close")

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        return bytes(count)

    @override
    def ioctl(self, request: Request) -> Reply:
        self._perhaps(type(request).__name__)
        return self.reply

    def _perhaps(self, what: str) -> None:
        self.log.append(what)
        if what == self.failing:
            raise ZeroDivisionError(what)


class Memory(Backing):
    """A backing that writes down its end."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    @override
    def read(self, offset: int, length: int) -> bytes:
        raise NotImplementedError

    @override
    def write(self, offset: int, data: bytes) -> None:
        raise NotImplementedError

    @override
    def close(self) -> None:
        self.log.append("unmap")


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def driver(log: list[str]) -> Driver:
    return Driver(log)


@pytest.fixture
def device(driver: Driver) -> VfioDevice:
    return VfioDevice(UUID(int=1), "test/type", driver)


@pytest.fixture
def opened(device: VfioDevice, log: list[str]) -> VfioDevice:
    runner = Runner(log)
    device.open(runner, runner)
    log.clear()
    return device


async def nothing() -> None:
    """A job without work."""


def test_a_closed_device_does_nothing(device: VfioDevice) -> None:
    work = nothing()
    attempts: list[Callable[[], object]] = [
        lambda: device.read(0, 0, 4),
        lambda: device.write(0, 0, b"abcd"),
        lambda: device.mmap(0, 0, 4096),
        lambda: device.ioctl(GetInfo()),
        device.info,
        device.reset,
        lambda: device.memory(0, 4096),
        lambda: device.memory_fd,
        lambda: device.spawn(work, "job"),
    ]
    for attempt in attempts:
        with pytest.raises(NoDevice, match="not open"):
            attempt()
    assert getcoroutinestate(work) == CORO_CLOSED
    device.close()


def test_an_open_device_is_its_driver(opened: VfioDevice, driver: Driver) -> None:
    assert opened.opened
    assert opened.read(0, 0, 4) == bytes(4)
    assert opened.read.__self__ is driver  # type: ignore[attr-defined]  # the driver's own bound method
    assert opened.counters.opens == 1
    assert opened.memory(0, 4096).nbytes == 4096
    assert opened.memory_fd == 77
    with pytest.raises(NotSupported):
        opened.write(0, 0, b"abcd")
    with pytest.raises(NotSupported):
        opened.mmap(0, 0, 4096)


def test_a_device_has_one_user(opened: VfioDevice, log: list[str]) -> None:
    with pytest.raises(Busy):
        opened.open(Runner(log), Runner(log))
    assert opened.opened
    assert not log


def test_a_driver_that_fails_to_open_leaves_the_device_closed(
    device: VfioDevice, driver: Driver, log: list[str]
) -> None:
    driver.failing = "open"
    with pytest.raises(ZeroDivisionError):
        device.open(Runner(log), Runner(log))
    assert log == ["open", "cancel"]  # the jobs that it had started
    assert not device.opened
    assert not device.counters.opens
    with pytest.raises(NoDevice):
        device.read(0, 0, 4)
    driver.failing = ""
    device.open(Runner(log), Runner(log))
    assert device.opened


def test_closing_ends_jobs_then_mappings_then_the_driver(opened: VfioDevice, log: list[str]) -> None:
    opened.dma.map(Mapping(0, 4096, DmaFlags.READ, Memory(log)))
    opened.close()
    opened.close()
    assert log == ["cancel", "unmap", "close"]
    assert not opened.opened
    assert not len(opened.dma)


def test_no_job_begins_while_the_device_is_closed(opened: VfioDevice, log: list[str]) -> None:
    driver, refused = opened.ops, []

    def close_device() -> None:
        work = nothing()
        with pytest.raises(NoDevice, match="not open"):
            opened.spawn(work, "late")
        refused.append(getcoroutinestate(work))
        opened.cancel_jobs()

    driver.close_device = close_device  # type: ignore[method-assign]  # the hook of one device
    opened.close()
    assert (refused, log) == ([CORO_CLOSED], ["cancel"])


def test_a_driver_that_fails_to_close_is_closed_all_the_same(
    opened: VfioDevice, driver: Driver, log: list[str]
) -> None:
    driver.failing = "close"
    with pytest.raises(ZeroDivisionError):
        opened.close()
    assert not opened.opened
    with pytest.raises(NoDevice):
        opened.read(0, 0, 4)


def test_the_next_user_begins_without_the_last_ones_mappings(opened: VfioDevice, log: list[str]) -> None:
    opened.dma.map(Mapping(0, 4096, DmaFlags.READ, None))
    opened.close()
    opened.open(Runner(log), Runner(log))
    assert not len(opened.dma)
    assert opened.counters.opens == 2


def test_a_reset_ends_jobs_first(opened: VfioDevice, log: list[str]) -> None:
    opened.reset()
    assert log == ["cancel", Reset.__name__]


def test_jobs_go_to_the_runner(opened: VfioDevice, log: list[str]) -> None:
    opened.spawn(nothing(), "compute")
    assert log == ["spawn compute"]


def test_information_is_the_drivers(opened: VfioDevice, driver: Driver, log: list[str]) -> None:
    assert opened.info() == INFO
    driver.reply = region = RegionInfo(3, RegionFlags.READ, 4096)
    assert opened.region_info(3) == region
    driver.reply = irq = IrqInfo(Irq.MSI, IrqFlags.EVENTFD, 1)
    assert opened.irq_info(Irq.MSI) == irq
    assert log == [GetInfo.__name__, GetRegionInfo.__name__, GetIrqInfo.__name__]


def test_an_answer_of_the_wrong_kind_names_the_driver(opened: VfioDevice) -> None:
    with pytest.raises(DriverError, match=r"Driver\.ioctl answered GetRegionInfo.*expected RegionInfo"):
        opened.region_info(0)


def test_the_operations_that_a_driver_need_not_have(log: list[str]) -> None:
    ops = DeviceOps()
    device = VfioDevice(UUID(int=2), "test/type", ops)
    device.open(Runner(log), Runner(log))
    ops.request(0)
    with pytest.raises(NotSupported, match="no read"):
        device.read(0, 0, 4)
    with pytest.raises(NotSupported, match="no ioctl: GetInfo"):
        device.info()
    device.close()
