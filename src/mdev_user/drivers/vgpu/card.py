"""The parent: a GPU's graphics memory, scanout engines and drawing time, and the types that it is cut into.

Names and texts of the types are those of GVT-g (``drivers/gpu/drm/i915/gvt``): of ``vgpu-GVTg_V5_4`` there can be four.
"""

from typing_extensions import override

from mdev_user.driver import Attribute, Engine, GiB, MiB, Parent, Policy, Pool
from mdev_user.drivers.vgpu.function import Slice, Vgpu
from mdev_user.drivers.vgpu.rendering import Gpu, RenderingVgpu

WEIGHT = 16
"""Of the whole engine, which types have parts of."""


def gvtg(instances: int, low: int, high: int, resolution: tuple[int, int]) -> Slice:
    """One of ``instances``; sizes in MiB."""
    name, weight, fence = f"GVTg_V5_{instances}", WEIGHT // instances, 4
    width, height = resolution
    description = (
        f"low_gm_size: {low}MB\nhigh_gm_size: {high}MB\nfence: {fence}\nresolution: {width}x{height}\nweight: {weight}"
    )
    return Slice(low * MiB, high * MiB, fence, weight, resolution, pretty_name=name, description=description)


class Card(Parent[Slice, Engine]):
    driver_name = "vgpu"
    function: type[Vgpu] = RenderingVgpu
    low_gm, high_gm = Pool(512 * MiB), Pool(3 * GiB)
    fence, weight = Pool(32), Pool(WEIGHT)
    policy = Attribute(Policy.BEST_EFFORT, group="scheduling")
    types = {
        "GVTg_V5_1": gvtg(1, low=512, high=2048, resolution=(1920, 1200)),
        "GVTg_V5_2": gvtg(2, low=256, high=1024, resolution=(1920, 1200)),
        "GVTg_V5_4": gvtg(4, low=128, high=512, resolution=(1920, 1200)),
        "GVTg_V5_8": gvtg(8, low=64, high=384, resolution=(1024, 768)),
    }

    @override
    def open(self) -> Gpu:
        return Gpu(policy=lambda: self.policy, whole=WEIGHT)
