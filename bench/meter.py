"""The device that is measured over vfio-user: a register, a doorbell whose job interrupts, DMA that times itself."""

from dataclasses import dataclass
from time import perf_counter_ns

from mdev_user.driver import MSI, RO, U32, U64, WO, Bar, Function, Message, Parent, PciId, Pool, Profile, job, on_write

REGION, SCRATCH, BELL = 0, 0x00, 0x04
ADDRESS, LENGTH, COPIES, READ, WRITE, RUNNING, NANOSECONDS = 0x08, 0x10, 0x14, 0x18, 0x1C, 0x20, 0x28


class Regs(Bar, index=REGION, size=4096):
    scratch, bell = U32(SCRATCH), U32(BELL, WO)
    address, length, copies = U64(ADDRESS), U32(LENGTH), U32(COPIES)
    read, write, running = U32(READ, WO), U32(WRITE, WO), U32(RUNNING, RO)
    nanoseconds = U64(NANOSECONDS, RO)


@dataclass(frozen=True)
class Slot(Profile):
    slots: int


class Meter(Function[Slot]):
    identity = PciId(vendor=0x1DE5, device=0x0C3E, class_code=0xFF0000)
    regs, rung, vectors = Regs(), Message(), MSI(1)

    @on_write(Regs.bell)
    def ring(self, _value: int) -> None:
        self.answer()

    @on_write(Regs.read)
    def start_reading(self, _value: int) -> None:
        self.regs.running = self.copy_in(self.regs.address, self.regs.length, self.regs.copies)

    @on_write(Regs.write)
    def start_writing(self, _value: int) -> None:
        self.regs.running = self.copy_out(self.regs.address, self.regs.length, self.regs.copies)

    @job(limit=4)
    async def answer(self) -> None:
        self.rung.send(0)

    @job()
    async def copy_in(self, address: int, length: int, copies: int) -> None:
        times = []
        for _ in range(copies):
            began = perf_counter_ns()
            await self.dma.read(address, length)
            times.append(perf_counter_ns() - began)
        self.finish(times)

    @job()
    async def copy_out(self, address: int, length: int, copies: int) -> None:
        data, times = b"\xa5" * length, []  # not zeros, which would all be one page of the kernel's
        for _ in range(copies):
            began = perf_counter_ns()
            await self.dma.write(address, data)
            times.append(perf_counter_ns() - began)
        self.finish(times)

    def finish(self, times: list[int]) -> None:
        """The median, as the C program gives it."""
        self.regs.nanoseconds, self.regs.running = sorted(times)[len(times) // 2], 0


class Meters(Parent[Slot]):
    function = Meter
    slots = Pool(1_000_000)
    types = {"slot": Slot(slots=1)}  # noqa: RUF012 - a declaration
