"""mbochs: a display adapter that is driven as those of Bochs and QEMU, the device of Linux's sample parent driver.

A parent has 256 MB of video memory for its displays. The guest's stock driver (``bochs``) sets a mode by the dispi
registers of BAR 2 and draws into BAR 0; which modes there are it reads in the monitor's EDID at the start of BAR 2. A
user describes the monitor through a region of its own; until then it is one of the type's own size. Identity
(1234:1111, class 0380), types and texts are those of ``samples/vfio-mdev/mbochs.c``; the bugs of that sample are not
here. Registers: QEMU, docs/specs/standard-vga; ``include/uapi/linux/vfio.h`` for those of the EDID.
"""

from dataclasses import dataclass
from enum import IntEnum

from typing_extensions import override

from mdev_user.driver import (
    GFX_EDID, RO, U8, U16, U32, U64, WO, Bar, DeviceRegion, Each, Function, GuestError, KiB, Memory, MiB, Parent, PciId,
    Plane, PlaneType, Pool, Profile, RegisterFile, attribute, edid_of, on_read, on_read_each, on_write,
)  # fmt: skip

LARGEST_EDID = 1024
VIDEO = 0
"""The region with the pixels."""
ENABLED, BITS = 0x01, 32
"""Of dispi's enable register, and bits a pixel."""


class Link(IntEnum):
    """Whether the user connects the monitor of its EDID; nobody has said so far."""

    UNKNOWN, UP, DOWN = 0, 1, 2


class Shown(RegisterFile):
    """Eight bytes of the EDID."""

    word = U64(0, RO)


class Given(RegisterFile):
    """Eight bytes that the user writes."""

    word = U64(0, sticky=True)


class Regs(Bar, index=2, size=4096):
    edid = Each(Shown, at=0x000, count=LARGEST_EDID // 8)
    attributes, misc, input_status = U8(0x400, WO), U8(0x402, WO), U8(0x41A, RO)  # of VGA: drivers blank the screen
    ident = U16(0x500, RO, reset=0xB0C5)
    xres, yres, bpp, enable, bank = U16(0x502), U16(0x504), U16(0x506), U16(0x508), U16(0x50A)
    virt_width, virt_height, x_offset, y_offset = U16(0x50C), U16(0x50E), U16(0x510), U16(0x512)
    video_memory_64k = U16(0x514, RO)


class Edid(DeviceRegion, index=9, kind=GFX_EDID):
    edid_offset, edid_max_size = U32(0x00, RO, reset=0x800), U32(0x04, RO, reset=LARGEST_EDID)
    edid_size = U32(0x08, RO, sticky=True)  # the driver's to set, as link_state: not every value is taken
    max_xres, max_yres = U32(0x0C, RO), U32(0x10, RO)
    link_state = U32(0x14, RO, sticky=True)
    blob = Each(Given, at=0x800, count=LARGEST_EDID // 8)


@dataclass(frozen=True)
class Screen(Profile):
    memory: int
    max_xres: int
    """0: any, as long as there is memory for it."""
    max_yres: int
    monitor: tuple[int, int]
    """Pixels of the monitor that is there while the user has described none."""


class Display(Function[Screen]):
    identity = PciId(
        vendor=0x1234, device=0x1111, class_code=0x038000, revision=1, subsystem_vendor=0x1AF4, subsystem=0x1100
    )
    video = Memory(index=VIDEO, size=lambda profile: profile.memory)
    regs, edid = Regs(), Edid()

    @attribute(group="vendor")
    def memory(self) -> str:
        return f"{self.profile.memory // MiB} MB"

    @on_read(Regs.video_memory_64k)
    def video_memory(self) -> int:
        return self.profile.memory // (64 * KiB)

    @on_read_each(Regs.edid.word)
    def show_edid(self, index: int) -> int:
        if self.edid.link_state == Link.UNKNOWN:
            return int.from_bytes(edid_of(*self.profile.monitor, "mbochs")[8 * index : 8 * index + 8], "little")
        if self.edid.link_state == Link.DOWN:
            return 0
        used = max(0, min(8, self.edid.edid_size - 8 * index))
        return self.edid.blob[index].word & (1 << 8 * used) - 1

    @override
    def plane(self, kind: PlaneType) -> Plane | None:
        """A mode that a VMM cannot draw (other pixels than four bytes, a picture that begins further on) is none."""
        mode = self.regs
        stride, shown = 4 * max(mode.xres, mode.virt_width), mode.enable & ENABLED and mode.bpp == BITS
        size = stride * mode.yres
        drawable = mode.x_offset == mode.y_offset == 0 < size <= self.profile.memory
        if kind != PlaneType.PRIMARY or not shown or not drawable:
            return None
        return Plane(VIDEO, mode.xres, mode.yres, stride, size)

    @on_read(Edid.max_xres)
    def max_xres(self) -> int:
        return self.profile.max_xres

    @on_read(Edid.max_yres)
    def max_yres(self) -> int:
        return self.profile.max_yres

    @on_write(Edid.edid_size)
    def set_edid_size(self, size: int) -> None:
        if size > LARGEST_EDID:
            raise GuestError(f"EDID of {size} bytes: expected at most {LARGEST_EDID}")
        self.edid.edid_size = size

    @on_write(Edid.link_state)
    def set_link_state(self, state: int) -> None:
        if state not in {Link.UP, Link.DOWN}:
            raise GuestError(f"link state {state}: expected 1 (up) or 2 (down)")
        self.edid.link_state = state


def screen(name: str, memory: int, most: tuple[int, int], monitor: tuple[int, int]) -> Screen:
    description = f"virtual display, {memory} MB video memory"
    return Screen(memory * MiB, *most, monitor, pretty_name=f"mbochs-{name}", description=description)


class Mbochs(Parent[Screen]):
    driver_name = "mbochs"
    function = Display
    memory = Pool(256 * MiB)
    types = {
        "small": screen("small", 4, most=(800, 600), monitor=(800, 600)),
        "medium": screen("medium", 16, most=(1920, 1440), monitor=(1280, 1024)),
        "large": screen("large", 64, most=(0, 0), monitor=(1920, 1080)),
    }
