"""Parents for the load: one with room for any number of mdevs, and one whose creates take their time."""

import time
from dataclasses import dataclass

from mdev_user.driver import U32, Bar, Function, Parent, PciId, Pool, Profile

SLOW_SECONDS = 5.0


@dataclass(frozen=True)
class Slot(Profile):
    slots: int


class Regs(Bar, index=0, size=4096):
    scratch = U32(0)


class Small(Function[Slot]):
    identity = PciId(vendor=0x1DE5, device=0x0C3D, class_code=0xFF0000)
    regs = Regs()


class Many(Parent[Slot]):
    function = Small
    slots = Pool(1_000_000)
    types = {"slot": Slot(slots=1)}  # noqa: RUF012 - a declaration


class Slow(Many):
    """Its driver needs time for a create, as a real device's firmware may."""

    driver_name = "slow"

    def create(self, mdev):  # noqa: ANN001, ANN201 - the author's contract has no names for these types
        time.sleep(SLOW_SECONDS)
        return super().create(mdev)
