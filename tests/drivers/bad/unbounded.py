"""A driver that takes a DMA length as the guest gives it."""

from dataclasses import dataclass
from zlib import crc32

from mdev_user.driver import (
    RO,
    U32,
    U64,
    WO,
    Bar,
    Flag,
    Function,
    Parent,
    PciId,
    Pool,
    Profile,
    Register,
    job,
    on_write,
)


class Status(Register):
    busy = Flag(0, RO)


class Regs(Bar, index=0, size=4096):
    status, source, length = Status.at(0x00), U64(0x08), U32(0x10)
    go, result = U32(0x14, WO), U32(0x18, RO)


@dataclass(frozen=True)
class Slice(Profile):
    instances: int


class Unbounded(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=0x0BAD, class_code=0x120000)
    regs = Regs()

    @on_write(Regs.go)
    def start(self, value: int) -> None:
        self.compute(self.regs.source, self.regs.length)

    @job(busy=Regs.status.busy)
    async def compute(self, source: int, length: int) -> None:
        data = await self.dma.read(source, length)
        self.regs.result = crc32(data)


class Card(Parent[Slice]):
    function = Unbounded
    instances = Pool(4)
    types = {"1": Slice(instances=1)}
