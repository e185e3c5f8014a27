"""A parent driver with one of everything that a register map tells of; no device that exists."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from mdev_user.driver import (
    MSIX,
    RC,
    RO,
    RSVD,
    RW,
    RW1S,
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
    PciId,
    Pool,
    Profile,
    Register,
    RegisterFile,
    pending,
)


class Speed(IntEnum):
    SLOW = 0
    FAST = 1
    FASTER = 2
    RESERVED_3 = 3


class Control(Register, size=2):
    """Turns the engine on /* and says how fast */ it goes: slow | fast.

    A second paragraph, which no table has room for.
    """

    on = Flag(0, RW1S)
    speed = Field(4, 2, Speed)
    level = Field(8, 4, RO)


class Page(Register, size=1):
    number = Field(0, 3)
    high = Flag(7)


class Spare(Register):
    """Nothing yet."""


class Queue(RegisterFile):
    """A ring in the guest's memory."""

    ring = U64(0x00)
    control = Control.at(0x08, reset=0x0110)
    tail = U32(0x10, WO)


class Regs(Bar, index=0, size=16 * KiB, wide=True):
    """Everything but the ports."""

    control = Control.at(0x00)
    seen = U16(0x02, RC, sticky=True)
    size = U32(0x04, UNIMPL)
    answer, command = U32(0x08, RO, reset=0xDEADBEEF), U32(0x08, WO)
    spare = Spare.at(0x0C)
    high_mask = U64(0x10, RSVD, reset=0xFFFF_0000_0000_0000)
    queue = Each(Queue, at=0x100, count=4, stride=0x20)
    queue_count = U8(0x20, RO, reset=4)
    counter = Each(Control, at=0x40, count=3)


class Ports(Bar, index=2, size=8, io=True):
    page = Page.at(0x00)
    low = U8(0x01)
    first = U8(0x01, RW, bank=Page.number.equals(1))
    any_other = U8(0x01, RW, bank=Page.number.any)
    high = U8(0x02, bank=Page.high)


@dataclass(frozen=True)
class Share(Profile):
    memory: int


class Queues(Function[Share]):
    """Four queues; nothing is behind them."""

    identity = PciId(vendor=0x1AF4, device=0x10F0, class_code=0x078000, revision=0x02, subsystem=0x1100)
    vectors = MSIX(4)
    regs, ports = Regs(), Ports()
    window = Memory(index=0, offset=0x2000, size=8 * KiB, prefetchable=False)
    buffer = Memory(index=3, size=lambda profile: profile.memory)
    on = Interrupt(Regs.control.on, enable=Regs.control.speed.equals(Speed.FAST))
    level = Interrupt(Regs.control.level.any)

    @pending
    def overrun(self) -> bool:
        if self.regs.seen > 9:
            raise GuestError("more than nine")
        return self.regs.seen == 9

    over = Interrupt(overrun)


class QueueCard(Parent[Share]):
    function = Queues
    memory = Pool(64 * KiB)
    types: ClassVar[Mapping[str, Share]] = {"small": Share(memory=16 * KiB), "large": Share(memory=64 * KiB)}  # type: ignore[misc]  # as Parent says
