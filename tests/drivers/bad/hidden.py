"""A driver that hides a counter in a module's global: nobody saves it."""

from dataclasses import dataclass

from mdev_user.driver import RO, U32, WO, Bar, Function, Parent, PciId, Pool, Profile, on_write

SEEN = [0]


class Regs(Bar, index=0, size=4096):
    ring, count = U32(0x00, WO), U32(0x04, RO)


@dataclass(frozen=True)
class Slice(Profile):
    instances: int


class Hidden(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=0x0BAD, class_code=0x120000)
    regs = Regs()

    @on_write(Regs.ring)
    def ring(self, value: int) -> None:
        SEEN[0] += 1
        self.regs.count = SEEN[0]


class Card(Parent[Slice]):
    function = Hidden
    instances = Pool(4)
    types = {"1": Slice(instances=1)}
