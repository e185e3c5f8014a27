"""A driver that answers in the order of a set of strings, which is another one in every interpreter."""

from dataclasses import dataclass

from mdev_user.driver import RO, U32, WO, Bar, Function, Parent, PciId, Pool, Profile, on_write

NAMES = {"north", "east", "south", "west", "up", "down"}


class Regs(Bar, index=0, size=4096):
    ask, answer = U32(0x00, WO), U32(0x04, RO)


@dataclass(frozen=True)
class Slice(Profile):
    instances: int


class Unordered(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=0x0BAD, class_code=0x120000)
    regs = Regs()

    @on_write(Regs.ask)
    def ask(self, value: int) -> None:
        self.regs.answer = int.from_bytes(list(NAMES)[value % len(NAMES)][:4].encode(), "little")


class Card(Parent[Slice]):
    function = Unordered
    instances = Pool(4)
    types = {"1": Slice(instances=1)}
