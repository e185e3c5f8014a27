"""crc: a checksum engine that many guests share; the smallest complete parent driver.

When the doorbell is rung it reads ``length`` bytes at ``source`` by DMA, stores their CRC-32 and interrupts.
"""

from dataclasses import dataclass
from zlib import crc32

from mdev_user.driver import (
    RO, RW1C, U32, U64, WO, Bar, DmaFault, Flag, Function, Interrupt, MiB, Parent, PciId, Pool, Profile, Register,
    Saved, job, on_write,
)  # fmt: skip


class Status(Register):
    done, fault, busy = Flag(0, RW1C), Flag(1, RW1C), Flag(7, RO)


class Enable(Register):
    done, fault = Flag(0), Flag(1)


class Regs(Bar, index=0, size=4096):
    ident = U32(0x00, RO, reset=0x43524331)
    status, enable = Status.at(0x04), Enable.at(0x08)
    source, length = U64(0x10), U32(0x18)
    result, doorbell = U32(0x1C, RO), U32(0x20, WO)


@dataclass(frozen=True)
class Slice(Profile):
    lanes: int
    buffer: int


class Crc(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=0x0C3C, class_code=0x120000)
    regs, total = Regs(), Saved(0)
    done = Interrupt(Regs.status.done, enable=Regs.enable.done)
    fault = Interrupt(Regs.status.fault, enable=Regs.enable.fault)

    @on_write(Regs.doorbell)
    def start(self, value: int) -> None:
        self.compute(self.regs.source, self.regs.length)

    @job(busy=Regs.status.busy)
    async def compute(self, source: int, length: int) -> None:
        try:
            data = await self.dma.read(source, min(length, self.profile.buffer))
            self.regs.result, self.total = crc32(data), self.total + len(data)
            self.regs.status.done = True
        except DmaFault:
            self.regs.status.fault = True


class Card(Parent[Slice]):
    function = Crc
    lanes, buffer = Pool(8), Pool(256 * MiB)
    types = {"small": Slice(lanes=1, buffer=16 * MiB), "large": Slice(lanes=4, buffer=64 * MiB)}
