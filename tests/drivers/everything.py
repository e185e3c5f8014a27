"""A parent driver with one of everything that can go wrong in the engine below it; no device that exists."""

from dataclasses import dataclass

from typing_extensions import override

from mdev_user.driver import (
    MSIX,
    RC,
    RO,
    RW1C,
    RW1S,
    U8,
    U16,
    U32,
    U64,
    WO,
    Alias,
    Attribute,
    Bar,
    DeviceRegion,
    Each,
    Field,
    Flag,
    Function,
    Interrupt,
    KiB,
    Memory,
    Parent,
    Part,
    Parts,
    PciId,
    Pool,
    Profile,
    Register,
    RegisterFile,
    ResetKind,
    Saved,
    Table,
    job,
    on_read,
    on_write,
    on_write_each,
    sleep,
)


class Status(Register):
    done, fault, busy, ticking = Flag(0, RW1C), Flag(1, RW1C), Flag(6, RO), Flag(7, RO)


class Enable(Register):
    done, fault = Flag(0), Flag(1)


class Control(Register, size=1):
    page, keep = Flag(0), Field(4, 2)


class Queue(RegisterFile):
    tail, seen = U16(0), U16(2, RO)


class Regs(Bar, index=0, size=256):
    status, enable = Status.at(0x00), Enable.at(0x04)
    control = Control.at(0x08)
    low = U8(0x09)
    high = U8(0x09, bank=Control.page)
    cause, raised = U8(0x0A, RC), U8(0x0B, RW1S)
    source, length = U64(0x10), U16(0x18)
    go, key = U32(0x1C, WO), U32(0x20, WO)
    result, entries = U32(0x24, RO), U32(0x28, RO)
    kept, wait = U32(0x2C, sticky=True), U16(0x30)
    put, number = U32(0x34, WO), U32(0x38, RO, reset=7)
    queue = Each(Queue, at=0x80, count=2, stride=8)


class Desk(DeviceRegion, index=9, size=64):
    """What the device's user has, and not its guest."""

    level, moved = U16(0x00), U16(0x02, RO)


class PortRegs(Bar, index=0, size=16):
    level, count = U32(0), U32(4, RO)


@dataclass(frozen=True)
class Slice(Profile):
    lanes: int
    banks: int


class Port(Part[Slice]):
    regs = PortRegs()
    told = Interrupt(PortRegs.level.any)

    @on_write(PortRegs.level)
    def note(self, value: int) -> None:
        self.regs.count += 1


class Everything(Function[Slice]):
    identity, vectors = PciId(vendor=0x1DE5, device=0x0EEE, class_code=0x120000), MSIX(6)
    regs = Regs()
    total, history, marks = Saved(0), Saved(b""), Saved(0, sticky=True)
    table = Table[int, int](limit=4)
    buffer = Memory(index=1, size=8 * KiB)
    desk, shown = Desk(), Alias(buffer, index=16)
    used = Attribute(0, writable=False)
    pace = Attribute(10, range=(1, 100))
    done = Interrupt(Regs.status.done, enable=Regs.enable.done)
    fault = Interrupt(Regs.status.fault, enable=Regs.enable.fault)
    ports = Parts(Port, count=lambda profile: profile.lanes, bar=2)

    @on_write(Regs.go)
    def start(self, value: int) -> None:
        self.used += 1
        if value & 1:
            self.add(self.regs.source, 1 + self.regs.length % 64)
        else:
            self.tick(1 + self.regs.wait % 15, value)

    @job(busy=Regs.status.busy)
    async def add(self, source: int, length: int) -> None:
        data = await self.dma.read(source, length)
        await self.dma.write(source, bytes(length))
        await self.dma.write(source, data)
        self.total += sum(data) + length
        self.regs.result = self.total
        self.regs.cause, self.regs.status.done = 0xFF, True

    @job(limit=2)
    async def tick(self, ticks: int, value: int) -> None:
        await sleep(ticks)
        await sleep(ticks / 4)
        self.history = (self.history + bytes((value & 0xFF,)))[-8:]
        self.buffer[: len(self.history)] = self.history
        self.regs.status.fault = True

    @on_write(Regs.key)
    def remember(self, key: int) -> None:
        self.table[key % 8] = self.total
        self.marks += 1

    @on_read(Regs.entries)
    def count_entries(self) -> int:
        return len(self.table) << 16 | self.marks & 0xFF

    @on_write(Regs.put)
    def fill(self, value: int) -> None:
        self.buffer[4096 : 4096 + 4] = value.to_bytes(4, "little")
        self.regs.number = value

    @on_write(Desk.level)
    def move(self, level: int) -> None:
        self.desk.moved += level
        self.regs.number = self.desk.moved

    @on_write_each(Regs.queue.tail)
    def ring(self, index: int, tail: int) -> None:
        self.regs.queue[index].seen = tail + self.pace

    @override
    def reset(self, kind: ResetKind) -> None:
        if kind is ResetKind.POWER_ON:
            self.regs.kept = 0x600D


class Card(Parent[Slice]):
    function = Everything
    lanes, banks = Pool(5), Pool(6, homogeneous=True)
    types = {"one": Slice(lanes=1, banks=1), "two": Slice(lanes=2, banks=2)}
