"""A parent driver whose registers have effects when a guest reads them: what no tool may set off. No device."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from mdev_user.driver import (
    RC,
    RO,
    U8,
    U16,
    U32,
    U64,
    UNIMPL,
    WO,
    Bar,
    Each,
    Field,
    Flag,
    Function,
    GuestError,
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
    Saved,
    job,
    on_read,
    on_write,
    sleep,
)


class Mode(IntEnum):
    IDLE = 0
    FAST = 1
    SLOW = 2
    RESERVED_3 = 3


class Control(Register):
    on, mode, level = Flag(0), Field(1, 2, Mode), Field(8, 4, RO)


class Page(Register, size=1):
    high = Flag(7)


class Cell(Register, size=2):
    lit, colour = Flag(0), Field(4, 3)


class Regs(Bar, index=0, size=8 * KiB):
    control = Control.at(0x00)
    events = U32(0x04, RC)
    ticket = U32(0x08, RO)
    wide = U64(0x10)
    page = Page.at(0x18)
    low = U8(0x19)
    high = U8(0x19, bank=Page.high)
    command, answer = U16(0x1A, WO), U16(0x1A, RO, reset=0xBEEF)
    missing = U32(0x1C, UNIMPL)
    cell = Each(Cell, at=0x20, count=3)


class Dials(Bar, index=0, size=16, io=True):
    dial = U32(0)


class Dial(Part["One"]):
    dials = Dials()


@dataclass(frozen=True)
class One(Profile):
    panels: int


class Panel(Function[One]):
    identity = PciId(vendor=0x1DE5, device=0x00AA, class_code=0x088000)
    regs, dials = Regs(), Parts(Dial, count=2, bar=1)
    pixels = Memory(index=0, offset=4 * KiB, size=4 * KiB)
    drawn = Saved(0)
    on = Interrupt(Regs.control.on)

    @on_read(Regs.ticket)
    def draw(self) -> int:
        """An effect of a read: the next one gets the next number."""
        self.drawn += 1
        return self.drawn

    @on_read(Regs.control.level)
    def measure(self) -> int:
        self.drawn += 100
        return 7

    @on_write(Regs.command)
    def do(self, value: int) -> None:
        if value == 0xBAD:
            raise GuestError("what a guest\x1b[2J\nmay write")
        self.work()

    @job()
    async def work(self) -> None:
        await sleep(0.001)
        self.regs.control.on = True


class PanelCard(Parent[One]):
    function = Panel
    panels = Pool(4)
    types: ClassVar[Mapping[str, One]] = {"1": One(panels=1)}  # type: ignore[misc]  # as Parent says
