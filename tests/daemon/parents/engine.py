"""A parent by hand with a DMA engine: a doorbell starts a job, and its end raises INTx or sends MSI.

Registers of BAR0, 32 bits each and 64 where said; a doorbell write names the command.
"""

import sys
import time
from collections.abc import Callable, Coroutine
from zlib import crc32

from typing_extensions import override

from mdev_user.driver import (
    BarRegion,
    ConfigSpace,
    DeviceOps,
    DmaFault,
    Mdev,
    MdevParentOps,
    MdevType,
    MemoryBar,
    Msi,
    OutOfRange,
    PciFunction,
    PciId,
    Region,
    Reply,
    Request,
    Reset,
    Sleep,
    VfioDevice,
)

SOURCE, TARGET, LENGTH, RESULT, DOORBELL, STATUS, MILLISECONDS = 0x00, 0x08, 0x10, 0x14, 0x18, 0x1C, 0x20
CRC, COPY, WAIT, RAISE, EXIT, SLOW, NONSENSE, CAREFUL, FOREVER = range(1, 10)
DONE, FAULT = 1, 2
_SIZE = 4096
_WIDE = {SOURCE: 8, TARGET: 8}


class Engine(DeviceOps):
    """One mdev."""

    def __init__(self) -> None:
        bars = {0: BarRegion(MemoryBar(_SIZE))}
        config = ConfigSpace(PciId(vendor=0x1DE5, device=1, class_code=0x120000), {0: bars[0].bar}, [Msi()])
        self._function = PciFunction(config, bars)
        self._registers: dict[int, int] = {}
        self._device: VfioDevice
        self._commands: dict[int, Callable[[], Coroutine[object, bytes, None]]] = {
            CRC: self._crc, COPY: self._copy, WAIT: self._wait, RAISE: self._raise, EXIT: self._exit,
            SLOW: self._slow, NONSENSE: self._nonsense, CAREFUL: self._careful, FOREVER: self._forever,
        }  # fmt: skip

    @override
    def open_device(self, device: VfioDevice) -> None:
        self._device = device
        self._registers = {}
        self._function.open(device)

    @override
    def close_device(self) -> None:
        self._function.close()

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        if region == Region.CONFIG:
            return self._function.read_config(offset, count)
        return self._registers.get(offset, 0).to_bytes(8, "little")[:count]

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        if region == Region.CONFIG:
            self._function.write_config(offset, data)
            return
        value = int.from_bytes(data, "little")
        if offset == DOORBELL:
            self._start(value)
        elif offset == STATUS:
            self._registers[STATUS] = self._registers.get(STATUS, 0) & ~value
            self._function.interrupts.lower_level(0)
        elif offset + len(data) > _SIZE:
            raise OutOfRange(f"{offset:#x}")
        else:
            self._registers[offset] = value

    @override
    def ioctl(self, request: Request) -> Reply:
        if isinstance(request, Reset):
            self._registers = {}
            self._function.interrupts.lower_level(0)
        return self._function.ioctl(request)

    def _start(self, command: int) -> None:
        work = self._commands[command]
        self._device.spawn(work(), work.__name__.strip("_"))

    def _finish(self, status: int) -> None:
        self._registers[STATUS] = status
        self._function.interrupts.raise_level(0)

    def _get(self, register: int) -> int:
        return self._registers.get(register, 0)

    async def _crc(self) -> None:
        data = await self._device.dma.read(self._get(SOURCE), self._get(LENGTH))
        self._registers[RESULT] = crc32(data)
        self._finish(DONE)

    async def _copy(self) -> None:
        data = await self._device.dma.read(self._get(SOURCE), self._get(LENGTH))
        await self._device.dma.write(self._get(TARGET), data)
        self._finish(DONE)

    async def _wait(self) -> None:
        await Sleep(self._get(MILLISECONDS) / 1000)
        self._finish(DONE)

    async def _raise(self) -> None:
        raise ValueError("a job's bug")

    async def _exit(self) -> None:
        sys.exit("a job that leaves")

    async def _slow(self) -> None:
        time.sleep(self._get(MILLISECONDS) / 1000)  # noqa: ASYNC251 - that it blocks is the point
        self._finish(DONE)

    async def _nonsense(self) -> None:
        await Sleep(float("inf"))

    async def _careful(self) -> None:
        try:
            await self._device.dma.read(self._get(SOURCE), self._get(LENGTH))
        except DmaFault:
            self._finish(FAULT)

    async def _forever(self) -> None:
        await Sleep(3600)


class Card(MdevParentOps):
    """The parent: as many engines as are asked for."""

    driver_name = "card"
    mdev_types = (MdevType("engine"),)
    max_instances = 1000

    @override
    def create(self, mdev: Mdev) -> Engine:
        return Engine()

    @override
    def remove(self, mdev: Mdev) -> None:
        """Nothing is held."""
