"""Two heads of one colour each, and pictures that are none."""

from dataclasses import dataclass

from typing_extensions import override

from mdev_user.driver import AR24, RX24, U32, Bar, Function, Instances, Parent, PciId, Picture, Pointer, Profile


class Regs(Bar, index=0, size=4096):
    mistake = U32(0x00)


@dataclass(frozen=True)
class Two(Profile):
    pass


class Heads(Function[Two]):
    identity = PciId(vendor=0x4D44, device=2, class_code=0x038000)
    heads = 2
    regs = Regs()

    @override
    def picture(self, head: int) -> Picture:
        mistake = self.regs.mistake
        pointer = Pointer(Picture(2, 2, 8, AR24, b"\xff" * 16), 13, 5, 1, 1)
        height = 5 // (2 - mistake) + 3 if mistake != 1 else 16384
        return Picture(13, height, 52 if mistake != 1 else 1 << 20, RX24, bytes((0, 9, 7, head)) * 13 * height, pointer)


class Wall(Parent[Two]):
    driver_name = "wall"
    function = Heads
    count = Instances(4)
    types = {"two": Two()}
