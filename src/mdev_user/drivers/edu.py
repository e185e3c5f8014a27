"""edu: QEMU's educational PCI device, as slices of which many guests have one each.

It inverts a number, computes factorials, copies between guest memory and a buffer of its own, and interrupts by INTx
or MSI. By its specification (QEMU, docs/specs/edu), so that the drivers written for it work.
"""

from dataclasses import dataclass
from math import factorial

from mdev_user.driver import (
    RO, U32, U64, WO, Attribute, Bar, Flag, Function, GuestError, Interrupt, MiB, Parent, PciId, Pool, Profile,
    Register, Saved, job, on_write,
)  # fmt: skip

BUFFER, SIZE = 0x40000, 4096
"""The buffer among the device's own addresses, and its bytes."""
FACTORIAL_DONE, DMA_DONE = 0x001, 0x100


class Status(Register):
    computing, irq_when_done = Flag(0, RO), Flag(7)


class Command(Register, size=8):
    # The driver's to set: a command that is not taken leaves no trace.
    run, to_ram, irq_when_done = Flag(0, RO), Flag(1, RO), Flag(2, RO)


class Regs(Bar, index=0, size=MiB):
    ident, liveness = U32(0x00, RO, reset=0x010000ED), U32(0x04)
    number = U32(0x08, RO)  # a write is a command
    status = Status.at(0x20)
    irq, irq_raise, irq_ack = U32(0x24, RO), U32(0x60, WO), U32(0x64, WO)
    source, target, count = U64(0x80), U64(0x88), U64(0x90)
    command = Command.at(0x98)


@dataclass(frozen=True)
class Slice(Profile):
    instances: int


class Edu(Function[Slice]):
    identity = PciId(vendor=0x1234, device=0x11E8, class_code=0x00FF00, revision=0x10)
    regs, buffer = Regs(), Saved(bytes(SIZE))
    dma_mask = Attribute((1 << 28) - 1, range=(0, (1 << 64) - 1))
    interrupt = Interrupt(Regs.irq.any)

    @on_write(Regs.liveness)
    def invert(self, value: int) -> None:
        self.regs.liveness = ~value

    @on_write(Regs.irq_raise)
    def raise_irq(self, value: int) -> None:
        self.regs.irq |= value

    @on_write(Regs.irq_ack)
    def acknowledge(self, value: int) -> None:
        self.regs.irq &= ~value

    @on_write(Regs.number)
    def start(self, value: int) -> None:
        if self.compute(value):
            self.regs.number = value

    @job(busy=Regs.status.computing)
    async def compute(self, value: int) -> None:
        self.regs.number = factorial(value) if value < 34 else 0  # modulo 2**32, which divides 34!
        if self.regs.status.irq_when_done:
            self.raise_irq(FACTORIAL_DONE)

    @on_write(Regs.command)
    def copy(self, asked: Command) -> None:
        if asked.run and self.transfer(self.regs.source, self.regs.target, self.regs.count):
            self.regs.command.to_ram, self.regs.command.irq_when_done = asked.to_ram, asked.irq_when_done

    @job(busy=Regs.command.run)
    async def transfer(self, source: int, target: int, count: int) -> None:
        if self.regs.command.to_ram:
            start = self.begin(source, target, count)
            await self.dma.write(target, self.buffer[start : start + count])
        else:
            start = self.begin(target, source, count)
            data = await self.dma.read(source, count)
            self.buffer = self.buffer[:start] + data + self.buffer[start + count :]
        if self.regs.command.irq_when_done:
            self.raise_irq(DMA_DONE)

    def begin(self, own: int, bus: int, count: int) -> int:
        """Where in the buffer a transfer begins. GuestError when it does not fit there, or under ``dma_mask``."""
        if not BUFFER <= own <= own + count <= BUFFER + SIZE:
            raise GuestError(f"DMA of {count} bytes at {own:#x}: the buffer is {SIZE} bytes at {BUFFER:#x}")
        if bus + count > self.dma_mask + 1:
            raise GuestError(f"DMA of {count} bytes at bus address {bus:#x}: expected at most {self.dma_mask:#x}")
        return own - BUFFER


class Card(Parent[Slice]):
    function = Edu
    instances = Pool(16)
    types = {"1": Slice(instances=1)}
