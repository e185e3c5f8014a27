"""mdpy: a virtual display with a frame buffer of one size, the device of Linux's sample parent driver.

What is on the screen is what lies in BAR 0, four bytes a pixel; where there is how much of it, a vendor capability
tells. Identity (1b36:000f, class 0380), types and texts are those of ``samples/vfio-mdev/mdpy.c``; the bugs of that
sample are not here.
"""

from dataclasses import dataclass
from struct import pack

from typing_extensions import override

from mdev_user.driver import (
    Alias, Function, Instances, Memory, Parent, PciId, Plane, PlaneType, Profile, VendorSpecific, attribute,
)  # fmt: skip

XR24 = b"XR24"
"""The format of a pixel (DRM's XRGB8888): blue, green, red, nothing."""
SCREEN = 16
"""The region from which a VMM draws."""


@dataclass(frozen=True)
class Screen(Profile):
    width: int
    height: int

    @property
    def memory(self) -> int:
        """Bytes, rounded up to what a BAR can have."""
        return 1 << (4 * self.width * self.height - 1).bit_length()


def screen(name: str, width: int, height: int) -> Screen:
    description = f"virtual display, {width}x{height} framebuffer"
    return Screen(width, height, pretty_name=f"mdpy-{name}", description=description)


def picture(profile: Screen) -> VendorSpecific:
    return VendorSpecific(b"\0" + XR24 + pack("<II", profile.width, profile.height))


class Display(Function[Screen]):
    identity = PciId(
        vendor=0x1B36, device=0x000F, class_code=0x038000, revision=1, subsystem_vendor=0x1AF4, subsystem=0x1100
    )
    capabilities = (picture,)
    framebuffer = Memory(index=0, size=lambda profile: profile.memory)
    display = Alias(framebuffer, index=SCREEN)

    @attribute(group="vendor")
    def resolution(self) -> str:
        return f"{self.profile.width}x{self.profile.height}"

    @override
    def plane(self, kind: PlaneType) -> Plane:
        screen = self.profile
        return Plane(SCREEN, screen.width, screen.height, 4 * screen.width, screen.memory)


class Mdpy(Parent[Screen]):
    driver_name = "mdpy"
    function = Display
    count = Instances(4)
    types = {
        "vga": screen("vga", 640, 480),
        "xga": screen("xga", 1024, 768),
        "hd": screen("hd", 1920, 1080),
    }
