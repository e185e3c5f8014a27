"""A parent that looks like an NVIDIA GPU with mdevs, which OpenStack's and KubeVirt's code was written for."""

from dataclasses import dataclass

from mdev_user.driver import RO, U32, Attribute, Bar, Function, Parent, PciId, Pool, Profile


class Regs(Bar, index=0, size=64):
    identity = U32(0x00, RO)


@dataclass(frozen=True)
class Slice(Profile):
    memory: int


class Nvidia(Function[Slice]):
    identity = PciId(vendor=0x10DE, device=0x1EB8, class_code=0x030200)
    regs = Regs()
    limit = Attribute(60, range=(1, 60), group="vgpu")
    title = Attribute("none")


class Gpu(Parent[Slice]):
    function = Nvidia
    memory = Pool(8)
    types = {
        "223": Slice(memory=2, pretty_name="GRID T4-2B", description="num_heads=4, framebuffer=2048M"),
        "224": Slice(memory=4, pretty_name="GRID T4-4B"),
    }
