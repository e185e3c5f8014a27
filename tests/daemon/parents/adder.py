"""Adds up, in a process of its own, what its guest writes; in steps of a number that a test changes in this file."""

from dataclasses import dataclass

from mdev_user.driver import RO, U32, WO, Bar, Function, Parent, PciId, Pool, Process, Profile, Program, job, on_write

STEP = 1


class Adder(Program):
    def __init__(self) -> None:
        self._total = 0

    def add(self, number: int) -> int:
        self._total += number * STEP
        return self._total


class Regs(Bar, index=0, size=4096):
    number, total = U32(0, WO), U32(4, RO)


@dataclass(frozen=True)
class Slice(Profile):
    room: int


class Sums(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=0x2A, class_code=0x120000)
    regs = Regs()
    adder = Process(Adder)

    @on_write(Regs.number)
    def begin(self, value: int) -> None:
        self.add(value)

    @job(limit=8)
    async def add(self, value: int) -> None:
        self.regs.total = await self.adder.call(Adder.add, value)


class Sum(Parent[Slice]):
    function = Sums
    room = Pool(8)
    types = {"one": Slice(room=1)}
