"""A parent whose devices count the writes of their one register that does something."""

from dataclasses import dataclass

from mdev_user.driver import RO, U32, WO, Bar, Function, Parent, PciId, Pool, Profile, on_write


class Regs(Bar, index=0, size=4096):
    ring, count = U32(0x00, WO), U32(0x04, RO)


@dataclass(frozen=True)
class Slice(Profile):
    units: int


class Counter(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=0x0C0C, class_code=0x120000)
    regs = Regs()

    @on_write(Regs.ring)
    def start(self, _value: int) -> None:
        self.regs.count += 1


class Card(Parent[Slice]):
    function = Counter
    units = Pool(8)
    types = {"one": Slice(units=1)}
