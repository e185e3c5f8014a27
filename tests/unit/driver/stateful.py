"""A driver with every kind of state, for the tests of saving and loading; no device that exists."""

from dataclasses import dataclass
from enum import Enum, IntEnum

from typing_extensions import override

from mdev_user.driver import (
    MSI,
    PAGE,
    RO,
    RSVD,
    RW1C,
    U16,
    U32,
    U64,
    WO,
    Attribute,
    Bar,
    Each,
    Field,
    Flag,
    Function,
    Interrupt,
    Memory,
    Message,
    Part,
    Parts,
    PciId,
    Profile,
    Register,
    RegisterFile,
    Saved,
    Session,
    Table,
    job,
    on_write,
    sleep,
    worker,
)
from unit.driver.bench import Bench


class Speed(IntEnum):
    SLOW = 0
    FAST = 1
    FASTER = 2


class Mode(Enum):
    OFF = "off"
    ON = "on"


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


class Status(Register):
    done, fault, busy = Flag(0, RW1C), Flag(1, RW1C), Flag(7, RO)
    speed = Field(8, 2, Speed, RO)
    spare = Field(16, 4, RSVD)


class Queue(RegisterFile):
    head, tail = U64(0), U32(8)


class Regs(Bar, index=0, size=4096):
    ident, status = U32(0, RO, reset=0x1234), Status.at(4, reset=0x100)
    enable = U16(8)
    go, ring, fire = U32(12, WO), U32(16, WO), U32(20, WO)
    queue = Each(Queue, at=0x100, count=4, stride=16)


class Uart(Bar, index=0, size=64):
    lcr, out = U32(0), U32(4)


class Port(Part[Profile]):
    """The parts' own state."""

    regs, sent = Uart(), Saved(0)
    ready = Interrupt(Uart.out.any)

    @job(limit=2)
    async def send(self, value: int) -> None:
        await sleep(2)
        self.sent += value


class Machine(Function[Profile]):
    """Everything."""

    identity = PciId(vendor=0x1DE5, device=9, class_code=0x120000)
    vectors = MSI(8)
    regs, ports = Regs(), Parts(Port, count=2, bar=2)
    ram = Memory(index=4, size=64 * PAGE)
    total, ratio, name = Saved(0), Saved(0.5), Saved("")
    last = Saved[int | None](None)
    point, mode, pair = Saved(Point(1)), Saved(Mode.OFF), Saved((0, b""))
    seen, named = Saved[frozenset[str]](frozenset()), Saved[tuple[Point, ...]](())
    table = Table[int, Point](limit=3)
    cache = Session(dict[str, int])
    clock, level = Attribute(100), Attribute(1, range=(1, 8), writable=False)
    done, other = Interrupt(Regs.status.done), Message()

    @on_write(Regs.go)
    def start(self, value: int) -> None:
        self.work(value, label=f"v{value}")

    @on_write(Regs.ring)
    def rung(self, value: int) -> None:
        self.serve(value)

    @on_write(Regs.fire)
    def fired(self, value: int) -> None:
        self.other.send(value)

    @job(busy=Regs.status.busy)
    async def work(self, value: int, label: str = "none") -> None:
        await sleep(3)
        await sleep(4)
        self.total, self.name = self.total + value, label
        self.regs.status.done = True

    @worker(limit=2)
    async def serve(self, queue: int) -> None:
        await sleep(1)
        self.regs.queue[queue].tail = self.regs.queue[queue].tail + 1

    @override
    def loaded(self) -> None:
        self.cache["loaded"] = self.total


def in_use() -> Bench:
    """A machine in the middle of its work: no piece of its state is as after a reset."""
    bench = Bench(Machine)
    made = machine(bench)
    made.total, made.ratio, made.name, made.last = 7, 1.25, "é", 1 << 63
    made.point, made.mode, made.pair = Point(2, 3), Mode.ON, (1, b"x")
    made.seen, made.named = frozenset({"a", "b", "c"}), (Point(1), Point(2))
    made.table[3], made.table[1] = Point(9), Point(8)
    made.cache["only"], made.level, made.clock = 1, 4, 5
    made.regs.status.speed, made.regs.queue[3].tail = Speed.FASTER, 5
    made.ports[1].regs.lcr, made.ports[1].sent = 9, 4
    made.ram[5000] = 1
    made.ram[10 * PAGE : 12 * PAGE] = b"z" * (2 * PAGE)
    bench.write(12, 5)
    bench.jobs.step()
    for _ in range(3):
        bench.write(16, 1)
    made.ports[0].send(3)
    bench.jobs.now = 2.0
    return bench


def machine(bench: Bench) -> Machine:
    made = bench.device.function
    assert isinstance(made, Machine)
    return made
