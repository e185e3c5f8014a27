"""What the host's unit tests share: a clock that is set by hand, a job thread on it, and mdevs without a guest."""

import time
from collections.abc import Callable, Coroutine
from uuid import uuid4

from typing_extensions import override

from mdev_user.host.job_thread import JobThread
from mdev_user.host.jobs import Jobs
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.dma import Backing
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio_user.token_lock import TokenLock

SECONDS = 60.0
Done = Callable[[bytes | Exception], None]


def eventually(look: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.001)


class Clock:
    """Stands still until it is moved; moving it wakes the job thread."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.thread = JobThread(self)

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
        with self.thread._changed:
            self.thread._changed.notify()


class Wire:
    """A transport whose messages are answered by the test."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, object, Done]] = []
        self.refuse: Exception | None = None

    def send_dma_read(self, iova: int, length: int, done: Done, _wanted: Callable[[], bool]) -> None:
        self._ask("read", iova, length, done)

    def send_dma_write(self, iova: int, data: bytes, done: Done, _wanted: Callable[[], bool]) -> None:
        self._ask("write", iova, data, done)

    def _ask(self, kind: str, iova: int, what: object, done: Done) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.asked.append((kind, iova, what, done))


class Memory(Backing):
    """Guest memory that is there at once."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)

    @override
    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.bytes[offset : offset + length])

    @override
    def write(self, offset: int, data: bytes) -> None:
        self.bytes[offset : offset + len(data)] = data

    @override
    def close(self) -> None:
        """There is nothing to close."""


class RegionMemory:
    """No regions."""

    fd = -1

    def view(self, index: int, size: int) -> memoryview:
        return memoryview(bytearray(size))


class OpenMdev:
    """An open device with its jobs; what a driver raised is in ``failures``."""

    def __init__(self, thread: JobThread, ops: DeviceOps | None = None) -> None:
        self.lock: StepLock = TokenLock()
        self.wire = Wire()
        self.device = VfioDevice(uuid4(), "test/type", ops or DeviceOps())
        self.failures: list[tuple[Exception, str]] = []
        self.jobs = Jobs(
            thread, self.lock, self.device, self.wire, lambda error, name: self.failures.append((error, name))
        )
        self.device.open(self.jobs, RegionMemory())

    def spawn(self, work: Coroutine[object, bytes, None], name: str = "job") -> None:
        with self.lock:
            self.device.spawn(work, name)

    @property
    def counters(self) -> dict[str, int | str]:
        return self.device.counters.values()
