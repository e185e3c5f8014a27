"""The device under test: config space, scratch registers, a mappable BAR, and interrupts."""

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

from mdev_user.errors import GuestError, OutOfRange, UnknownRequest
from mdev_user.units import KiB
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.dma import DmaFlags, DmaRead, DmaWrite
from mdev_user.vfio.irqs import IrqTable
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.requests import (
    REGION_SHIFT,
    Area,
    DeviceFlags,
    DeviceInfo,
    GetInfo,
    GetIrqInfo,
    GetRegionInfo,
    Irq,
    Region,
    RegionFlags,
    RegionInfo,
    Reply,
    Request,
    Reset,
    SetIrqs,
)
from mdev_user.vfio_user.guest_memory import GuestMemory
from mdev_user.vfio_user.server import Session

ACCESS = RegionFlags.READ | RegionFlags.WRITE
CONFIG_SIZE, SCRATCH_SIZE, MEMORY_SIZE = 256, 4 * KiB, 16 * KiB
TRAPPED = 4 * KiB
"""The first page of the mappable BAR is trapped, the rest may be mapped."""


class TestDevice(DeviceOps):
    """BAR0 is scratch, BAR2 is mappable behind its first page, BAR4 is mappable whole."""

    __test__ = False

    def __init__(self) -> None:
        self.config = bytearray(range(CONFIG_SIZE))
        self.scratch = bytearray(SCRATCH_SIZE)
        self.regions = {Region.CONFIG: self.config, Region.BAR0: self.scratch}
        self.sizes = {Region.CONFIG: CONFIG_SIZE, Region.BAR0: SCRATCH_SIZE}
        self.sizes |= {Region.BAR2: MEMORY_SIZE, Region.BAR4: MEMORY_SIZE}
        self.resets = 0

    def open_device(self, device: VfioDevice) -> None:
        self.device = device
        self.irqs = IrqTable({Irq.INTX: 1, Irq.MSI: 4, Irq.MSIX: 8, Irq.ERR: 1}, device.counters)
        self.scratch[:] = bytes(SCRATCH_SIZE)

    def close_device(self) -> None:
        self.irqs.disarm_all()

    def read(self, region: int, offset: int, count: int) -> bytes:
        return bytes(self._bytes(region, offset, count)[offset : offset + count])

    def write(self, region: int, offset: int, data: bytes) -> None:
        self._bytes(region, offset, len(data))[offset : offset + len(data)] = data

    def ioctl(self, request: Request) -> Reply:
        match request:
            case GetInfo():
                return DeviceInfo(DeviceFlags.PCI | DeviceFlags.RESET, Region.COUNT, Irq.COUNT)
            case GetRegionInfo(index):
                return self._region_info(index)
            case GetIrqInfo(index):
                return self.irqs.info(index)
            case SetIrqs():
                self.irqs.set(request)
                return None
            case Reset():
                self.resets += 1
                self.scratch[:] = bytes(SCRATCH_SIZE)
                return None
        raise UnknownRequest(str(request))

    def mmap(self, region: int, offset: int, length: int) -> None:
        if region not in {Region.BAR2, Region.BAR4}:
            raise GuestError(f"region {region} cannot be mapped")

    def _region_info(self, index: int) -> RegionInfo:
        if index >= Region.COUNT:
            raise GuestError(f"region {index}")
        size = self.sizes.get(Region(index), 0)
        if index == Region.BAR2:
            return RegionInfo(index, ACCESS | RegionFlags.MMAP, size, (Area(TRAPPED, size - TRAPPED),))
        if index == Region.BAR4:
            return RegionInfo(index, ACCESS | RegionFlags.MMAP, size)
        return RegionInfo(index, ACCESS if size else RegionFlags(0), size)

    def _bytes(self, region: int, offset: int, count: int) -> bytearray | memoryview:
        size = self.sizes.get(Region(region), 0) if region < Region.COUNT else 0
        if offset + count > size:
            raise OutOfRange(f"region {region} +{offset:#x} {count}")
        if region in {Region.BAR2, Region.BAR4}:
            return self.device.memory(region, size)
        return self.regions[Region(region)]


class RegionFile:
    """The sealed file of the mappable regions, as a host makes it."""

    def __init__(self) -> None:
        import mmap

        self.fd = os.memfd_create("regions", os.MFD_CLOEXEC)
        self._mmap = mmap
        self._maps: list[Any] = []

    def view(self, index: int, size: int) -> memoryview:
        end = (index << REGION_SHIFT) + size
        if os.fstat(self.fd).st_size < end:
            os.ftruncate(self.fd, end)
        mapped = self._mmap.mmap(self.fd, size, offset=index << REGION_SHIFT)
        self._maps.append(mapped)
        return memoryview(mapped)

    def close(self) -> None:
        os.close(self.fd)
        self._maps.clear()


class Jobs:
    """Runs a coroutine's DMA by the session's messages, all in the session's thread: enough for one device."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.running: deque[Coroutine[object, bytes, None]] = deque()
        self.outcomes: deque[object] = deque()

    def spawn(self, work: Coroutine[object, bytes, None], name: str) -> None:
        self._advance(work, None)

    def cancel_all(self) -> None:
        while self.running:
            self.running.pop().close()

    def _advance(self, work: Coroutine[object, bytes, None], outcome: bytes | Exception | None) -> None:
        assert self.session is not None
        try:
            request = work.throw(outcome) if isinstance(outcome, Exception) else work.send(outcome)  # type: ignore[arg-type]  # None starts it
        except StopIteration:
            return
        match request:
            case DmaRead(iova, length):
                self.session.send_dma_read(iova, length, lambda result: self._advance(work, result))
            case DmaWrite(iova, data):
                self.session.send_dma_write(iova, data, lambda result: self._advance(work, result))


class Watcher:
    """Calls back when the test says so."""

    def __init__(self) -> None:
        self.callbacks: dict[int, Callable[[], None]] = {}

    def add(self, fd: int, signalled: Callable[[], None]) -> None:
        self.callbacks[fd] = signalled

    def remove(self, fd: int) -> None:
        del self.callbacks[fd]


class Served:
    """A device open behind one end of a socketpair, with a session in a thread; ``socket`` is the client's end."""

    def __init__(self, ops: DeviceOps | None = None) -> None:
        self.ops = ops or TestDevice()
        self.device = VfioDevice(UUID(int=1), "test/type", self.ops)
        self.step_lock = threading.Lock()
        self.memory = GuestMemory()
        self.watcher = Watcher()
        self.jobs = Jobs()
        self.region_file = RegionFile()
        self.socket, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.session = Session(server_end, self.device, self.step_lock, self.memory, self.watcher)
        self.jobs.session = self.session
        self.device.open(self.jobs, self.region_file)
        self.thread = threading.Thread(target=self._run, name="session")
        self.thread.start()

    def _run(self) -> None:
        try:
            self.session.run()
        finally:
            with self.step_lock:
                self.device.close()

    def ended(self) -> str:
        """Why the session ended; it must end by itself."""
        self.thread.join(20)
        assert not self.thread.is_alive(), "the session is still running"
        return self.session.reason

    def close(self) -> None:
        self.socket.close()
        self.session.close()
        self.thread.join(20)
        assert not self.thread.is_alive(), "the session did not end"
        self.region_file.close()

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


READ_WRITE = DmaFlags.READ | DmaFlags.WRITE
