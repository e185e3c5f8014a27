"""A parent whose mdevs have memory to map, alone in a BAR and beside registers: ``FILE.py:Slates``."""

from dataclasses import dataclass

from mdev_user.driver import PAGE, RO, U32, WO, Bar, Function, KiB, Memory, Parent, PciId, Pool, Profile, on_write


class Regs(Bar, index=0, size=16 * KiB):
    fill = U32(0x00, WO)
    """Fills both memories with this byte."""
    sum = U32(0x04, WO)
    """Sums the bytes of the memory with this number into ``result``."""
    result = U32(0x08, RO)


@dataclass(frozen=True)
class Slice(Profile):
    memory: int


class Slate(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=0x51A7, class_code=0xFF0000)
    regs = Regs()
    margin = Memory(index=0, offset=2 * PAGE, size=PAGE)
    sheet = Memory(index=2, size=lambda profile: profile.memory)

    @on_write(Regs.fill)
    def fill(self, value: int) -> None:
        for memory in (self.margin, self.sheet):
            memory[:] = bytes((value,)) * len(memory)

    @on_write(Regs.sum)
    def sum(self, number: int) -> None:
        self.regs.result = sum((self.margin, self.sheet)[number & 1])


class Slates(Parent[Slice]):
    function = Slate
    memory = Pool(256 * KiB)
    types = {"small": Slice(memory=16 * KiB)}
