"""A VFIO device: the state of one open device, and the driver's operations bound to it.

The counterpart of Linux's ``struct vfio_device``. It is made by the driver of the mdev bus, opened by whoever serves
a user (a vfio-user socket, the ioctl interface), and given to the driver's `open_device`.
"""

from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Protocol, TypeVar
from uuid import UUID

from mdev_user.errors import Busy, DriverError, NoDevice
from mdev_user.vfio.counters import Counters
from mdev_user.vfio.dma import DmaMappings
from mdev_user.vfio.ops import DeviceOps, JobRunner, RegionMemory
from mdev_user.vfio.requests import (
    DeviceInfo,
    GetInfo,
    GetIrqInfo,
    GetRegionInfo,
    IrqInfo,
    RegionInfo,
    Reply,
    Request,
    Reset,
)

_T = TypeVar("_T", DeviceInfo, RegionInfo, IrqInfo)


def _closed(*_arguments: object) -> bytes:
    raise NoDevice("the device is not open")


class Watcher(Protocol):
    """Stands between a user and the driver's operations, which it calls. Everything here is part of a step."""

    def read(self, region: int, offset: int, count: int) -> bytes: ...

    def write(self, region: int, offset: int, data: bytes) -> object: ...

    def ioctl(self, request: Request) -> Reply: ...

    def opened(self) -> None: ...

    def closed(self) -> None: ...

    def replaced(self) -> None:
        """The device has other operations from now on."""
        ...

    def spawned(self, name: str) -> None:
        """A job of this name is started."""
        ...


class VfioDevice:
    """One device, open or not; everything but the identity is used under the device's step lock.

    ``read``, ``write`` and ``ioctl`` are the driver's own methods, bound when the device is opened: an access looks
    nothing up. A watcher's are there instead while it watches.
    """

    __slots__ = (
        "_jobs",
        "_memory",
        "_watcher",
        "counters",
        "dma",
        "ioctl",
        "mmap",
        "name",
        "opened",
        "ops",
        "read",
        "uuid",
        "write",
    )

    read: Callable[[int, int, int], bytes]
    write: Callable[[int, int, bytes], object]
    ioctl: Callable[[Request], Reply | bytes]
    mmap: Callable[[int, int, int], object]

    def __init__(self, uuid: UUID, name: str, ops: DeviceOps) -> None:
        """``name`` is "parent/type", for people."""
        self.uuid = uuid
        self.name = name
        self.ops = ops
        self.counters = Counters()
        self.opened = False
        self._jobs: JobRunner | None = None
        self._memory: RegionMemory | None = None
        self._watcher: Watcher | None = None
        self._forget()

    def open(self, jobs: JobRunner, memory: RegionMemory) -> None:
        """Begin one user's use. EBUSY while another uses it; whatever the driver's `open_device` raises undoes it."""
        if self.opened:
            raise Busy(f"{self.uuid} is in use")
        self.dma, self._jobs, self._memory = DmaMappings(), jobs, memory
        with ExitStack() as undo:
            undo.callback(self._forget)
            undo.callback(self._end_jobs)
            self.ops.open_device(self)
            undo.pop_all()
        self.mmap = self.ops.mmap
        self.counters.opens += 1
        self.opened = True
        self._bind()
        if self._watcher is not None:
            self._watcher.opened()

    def watch(self, watcher: Watcher | None) -> None:
        """Have every access go through ``watcher`` from now on, whoever opens the device; None: through nobody."""
        self._watcher = watcher
        if self.opened:
            self._bind()

    def replace(self, ops: DeviceOps) -> None:
        """Let other operations perform what is asked for from now on; those of the open device know its user."""
        self.ops = ops
        if self.opened:
            self.mmap = ops.mmap
            self._bind()
        if self._watcher is not None:
            self._watcher.replaced()

    def close(self) -> None:
        """End the user's use: jobs first, then mappings, then the driver; nothing of the user is left."""
        if not self.opened:
            return
        with ExitStack() as steps:
            steps.callback(self._forget)
            steps.callback(self.ops.close_device)
            steps.callback(self.dma.unmap_all)
            steps.callback(self._end_jobs)
            self.opened = False
            if self._watcher is not None:
                self._watcher.closed()

    def spawn(self, work: Coroutine[object, bytes, None], name: str) -> None:
        """Run a coroutine as steps of this device; it may await `dma.read`, `dma.write` and `sleep`.

        ENODEV before `open_device` and in `close_device`, where the user's jobs have ended.
        """
        if self._jobs is None:
            work.close()
        self._runner().spawn(work, name)
        if self._watcher is not None:
            self._watcher.spawned(name)

    @property
    def now(self) -> float:
        """The clock of the jobs, in seconds."""
        return self._runner().now

    def cancel_job(self, work: Coroutine[object, bytes, None]) -> None:
        """One that was spawned ends at its await; at its next, if it calls this itself."""
        if self._jobs is not None:
            self._jobs.cancel(work)

    def cancel_jobs(self) -> None:
        """Jobs end at their await; one that calls this, at its next."""
        if self._jobs is not None:
            self._jobs.cancel_all()

    def memory(self, index: int, size: int) -> memoryview:
        """The bytes of a mappable region; zero when the device is opened, shared with a guest that maps it."""
        if self._memory is None:
            raise NoDevice("the device is not open")
        return self._memory.view(index, size)

    @property
    def memory_fd(self) -> int:
        """The file to map regions from. Owned by whoever opened the device."""
        if self._memory is None:
            raise NoDevice("the device is not open")
        return self._memory.fd

    def info(self) -> DeviceInfo:
        return self._expect(GetInfo(), DeviceInfo)

    def region_info(self, index: int) -> RegionInfo:
        return self._expect(GetRegionInfo(index), RegionInfo)

    def irq_info(self, index: int) -> IrqInfo:
        return self._expect(GetIrqInfo(index), IrqInfo)

    def reset(self) -> None:
        """VFIO_DEVICE_RESET; jobs end at their await before the driver resets."""
        self.cancel_jobs()
        self.ioctl(Reset())

    def _expect(self, request: Request, kind: type[_T]) -> _T:
        reply = self.ioctl(request)
        if not isinstance(reply, kind):
            raise DriverError(
                f"{type(self.ops).__name__}.ioctl answered {request} with {reply!r}: expected {kind.__name__}"
            )
        return reply

    def _bind(self) -> None:
        performs = self._watcher or self.ops
        self.read, self.write, self.ioctl = performs.read, performs.write, performs.ioctl

    def _runner(self) -> JobRunner:
        if self._jobs is None:
            raise NoDevice("the device is not open: jobs run between open_device and close_device")
        return self._jobs

    def _end_jobs(self) -> None:
        """Also those that are started in the meantime; there are no others until the next user opens the device."""
        try:
            self._runner().cancel_all()
        finally:
            self._jobs = None

    def _forget(self) -> None:
        self.dma = DmaMappings()
        self._jobs = None
        self._memory = None
        self.read = self.write = self.ioctl = self.mmap = _closed
