"""mtty: serial ports on PCI, the device of Linux's sample parent driver.

A parent has 24 ports; an mdev of type mtty-1 has one of them, of mtty-2 two. Each port is a 16550A (National
Semiconductor PC16550D, section 8) whose wire is a loop: what the guest sends comes back. Identity (4348:3253, class
0700), types and texts are those of ``samples/vfio-mdev/mtty.c``; the bugs of that sample are not here.

The loop takes no time, and a guest that polls sees that. Interrupts keep the pace of a line: with a trigger level above
one (Linux sets 8) received bytes interrupt when nothing was sent for the time of a full FIFO. Otherwise a guest that
echoes would never leave its first interrupt.
"""

from dataclasses import dataclass
from enum import IntEnum

from mdev_user.driver import (
    INTX, RC, RO, U8, WO, Bar, Field, Flag, Function, Interrupt, Parent, Part, Parts, PciId, Pool, Profile, Register,
    Saved, attribute, on_read, on_write, pending, sleep, worker,
)  # fmt: skip

FIFO = 16
TRIGGERS = (1, 4, 8, 14)
LINE_TIME = FIFO * 10 / 115200
"""Seconds: 16 characters of 10 bits at 115200 baud."""


class Cause(IntEnum):
    """What IIR reports (section 8.5), the highest priority first."""

    LINE, RX, TIMEOUT, THR, MODEM, NONE = 0x06, 0x04, 0x0C, 0x02, 0x00, 0x01


class Ier(Register, size=1):
    rx, thr, line, modem = Flag(0), Flag(1), Flag(2), Flag(3)


class Iir(Register, size=1):
    cause, fifos = Field(0, 4, RO), Field(6, 2, RO)


class Fcr(Register, size=1):
    clear_rx, trigger = Flag(1, WO), Field(6, 2, WO)


class Lcr(Register, size=1):
    format, dlab = Field(0, 7), Flag(7)


class Mcr(Register, size=1):
    dtr, rts, out1, out2, loop = Flag(0), Flag(1), Flag(2), Flag(3), Flag(4)


class Lsr(Register, size=1):
    data, overrun, empty = Flag(0, RO), Flag(1, RC), Field(5, 2, RO)


class Msr(Register, size=1):
    cts_changed, dsr_changed = Flag(0, RC), Flag(1, RC)
    cts, dsr, ring, carrier = Flag(4, RO), Flag(5, RO), Flag(6, RO), Flag(7, RO)


class Regs(Bar, index=0, size=8, io=True):
    rbr, thr, dll = U8(0, RO), U8(0, WO), U8(0, bank=Lcr.dlab)
    ier, dlm = Ier.at(1), U8(1, bank=Lcr.dlab)
    iir, fcr = Iir.at(2, reset=0xC0), Fcr.at(2)
    lcr, mcr = Lcr.at(3), Mcr.at(4)
    lsr, msr, scr = Lsr.at(5, reset=0x60), Msr.at(6, reset=0xB3), U8(7)


@dataclass(frozen=True)
class Slice(Profile):
    ports: int


class Port(Part[Slice]):
    """One 16550A on a looped wire: a byte sent is received at once, and THR is empty when the receiver is."""

    regs = Regs()
    fifo, trigger = Saved(b""), Saved(TRIGGERS[0])
    thr_enabled, thr_pending = Saved(False), Saved(False)
    busy, sent = Saved(False), Saved(False)

    def cause(self) -> Cause:
        """The enabled condition of the highest priority."""
        ier = self.regs.ier
        if ier.line and self.regs.lsr.overrun:
            return Cause.LINE
        if ier.rx and self.fifo and not self.busy:
            return Cause.RX if len(self.fifo) >= self.trigger else Cause.TIMEOUT
        if ier.thr and self.thr_pending:
            return Cause.THR
        if ier.modem and (self.regs.msr.cts_changed or self.regs.msr.dsr_changed):
            return Cause.MODEM
        return Cause.NONE

    @pending
    def asserted(self) -> bool:
        return int(self.regs.ier) != 0 and self.cause() is not Cause.NONE  # nothing is enabled while a guest polls

    interrupt = Interrupt(asserted)

    @on_read(Regs.iir.cause)
    def identify(self) -> int:
        cause = self.cause()
        if cause is Cause.THR:  # reading IIR is what serves this one
            self.thr_pending = False
        return cause

    @on_read(Regs.rbr)
    def receive(self) -> int:
        if not self.fifo:
            return 0
        value, self.fifo = self.fifo[0], self.fifo[1:]
        if not self.fifo:
            self.thr_pending = True
        return value

    @on_read(Regs.lsr.data)
    def has_data(self) -> bool:
        return bool(self.fifo)

    @on_read(Regs.lsr.empty)
    def is_empty(self) -> int:
        return 0 if self.fifo else 3

    @on_write(Regs.thr)
    def send(self, value: int) -> None:
        self.thr_pending = False
        if len(self.fifo) < FIFO:
            self.fifo += bytes((value,))
        else:
            self.regs.lsr.overrun = True
        if self.busy:
            self.sent = True
        elif self.trigger > 1:
            self.busy = self.carry()

    @worker()
    async def carry(self) -> None:
        """The line is busy until nothing was sent for a while."""
        await sleep(LINE_TIME)
        self.busy, self.sent = self.sent and self.carry(), False

    @on_write(Regs.ier.thr)
    def enable_thr(self, enabled: bool) -> None:
        if enabled and not self.thr_enabled:
            self.thr_pending = not self.fifo
        self.thr_enabled = enabled

    @on_write(Regs.fcr)
    def control_fifo(self, written: Fcr) -> None:
        self.trigger = TRIGGERS[written.trigger]
        if written.clear_rx:
            self.fifo, self.regs.lsr.overrun = b"", False

    @on_write(Regs.mcr)
    def control_modem(self, mcr: Mcr) -> None:
        """With MCR's loop bit the modem outputs appear as the inputs; without it a modem is connected."""
        msr, connected = self.regs.msr, not mcr.loop
        msr.cts, msr.dsr, msr.carrier = connected or mcr.rts, connected or mcr.dtr, connected or mcr.out2
        msr.ring = mcr.loop and mcr.out1


class Serial(Function[Slice]):
    """One mdev: a PCI function with a port behind each of its BARs."""

    identity = PciId(vendor=0x4348, device=0x3253, class_code=0x070002, revision=0x10)
    vectors = INTX()
    ports = Parts(Port, count=lambda profile: profile.ports)

    @attribute(group="vendor")
    def sample_mdev_dev(self) -> str:
        return f"This is MDEV {self.uuid}"


class Mtty(Parent[Slice]):
    driver_name = "mtty"
    function = Serial
    ports = Pool(24)
    types = {
        "1": Slice(ports=1, pretty_name="Single port serial", description=""),
        "2": Slice(ports=2, pretty_name="Dual port serial", description=""),
    }
