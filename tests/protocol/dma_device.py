"""A device that reaches guest memory when it is told to: its jobs are a host's."""

import time
from collections.abc import Callable, Coroutine

from mdev_user.vfio.work import Sleep
from protocol.migratable import Migratable, ServedMigratable
from protocol.served import PATIENCE


class DmaDevice(Migratable):
    """``outcomes`` are what its accesses came to, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: list[object] = []

    async def write_guest(self, iova: int, data: bytes) -> None:
        try:
            await self.device.dma.write(iova, data)
            self.outcomes.append(len(data))
        except Exception as error:  # noqa: BLE001 - what it is is what a test looks at
            self.outcomes.append(error)

    async def read_guest(self, iova: int, length: int) -> None:
        try:
            self.outcomes.append(await self.device.dma.read(iova, length))
        except Exception as error:  # noqa: BLE001 - what it is is what a test looks at
            self.outcomes.append(error)

    async def count_in_guest(self, iova: int) -> None:
        """A counter in guest memory that never stands still while the device runs."""
        number = 0
        while True:
            number += 1
            await self.device.dma.write(iova, number.to_bytes(8, "little"))
            await Sleep(0.0005)


class ServedDma(ServedMigratable):
    def __init__(self) -> None:
        self.dma = DmaDevice()
        super().__init__(self.dma)

    def start(self, work: Coroutine[object, bytes, None]) -> None:
        with self.step_lock:
            self.device.spawn(work, "test")

    def outcome(self) -> object:
        """Of the next access that ends."""
        until(lambda: self.dma.outcomes)
        return self.dma.outcomes.pop(0)

    def write(self, iova: int, data: bytes) -> object:
        self.start(self.dma.write_guest(iova, data))
        return self.outcome()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.0005)
