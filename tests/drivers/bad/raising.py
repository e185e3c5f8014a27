"""A driver whose code cannot bear every number that a guest writes, and one that never comes to an end."""

from dataclasses import dataclass

from mdev_user.driver import RO, U32, WO, Bar, Function, Parent, PciId, Pool, Profile, job, on_write, sleep


class Regs(Bar, index=0, size=4096):
    divide, quotient = U32(0x00, WO), U32(0x04, RO)


class EndlessRegs(Bar, index=0, size=4096):
    go = U32(0x00, WO)


@dataclass(frozen=True)
class Slice(Profile):
    instances: int


class Raising(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=0x0BAD, class_code=0x120000)
    regs = Regs()

    @on_write(Regs.divide)
    def divide(self, value: int) -> None:
        self.regs.quotient = 1000 // value


class Endless(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=0x0BAD, class_code=0x120000)
    regs = EndlessRegs()

    @on_write(EndlessRegs.go)
    def go(self, value: int) -> None:
        self.spin()

    @job()
    async def spin(self) -> None:
        while True:
            await sleep(0)


class Card(Parent[Slice]):
    function = Raising
    instances = Pool(4)
    types = {"1": Slice(instances=1)}


class EndlessCard(Parent[Slice]):
    function = Endless
    instances = Pool(4)
    types = {"1": Slice(instances=1)}
