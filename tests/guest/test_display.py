"""A guest's stock DRM driver ``bochs`` drives mbochs: the modes are those of our EDID, and what is drawn lies in BAR 0.

The guest has a second display whose EDID cannot be read: the driver takes modes of its own there.
"""

import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import pytest
from typing_extensions import override

from core import core_skip
from guest.scene import eventually
from mdev_user.driver import Device, on_read_each
from mdev_user.drivers.mbochs import Display, Mbochs, Regs
from mdev_user.guests.display_kernel import find_display_kernel
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import Guest
from mdev_user.mdev.device import Mdev
from mdev_user.testing.local import LocalHost
from mdev_user.testing.screenshot import screenshot_of

pytestmark = pytest.mark.guest

MODULES = ("drm", "ttm/ttm", "drm_kms_helper", "drm_ttm_helper", "drm_vram_helper", "tiny/bochs")
"""In the order in which one needs the other."""
WIDTH, HEIGHT = 800, 600
PICTURE = Random(1).randbytes(4 * WIDTH * HEIGHT)


class Blind(Display):
    @override
    @on_read_each(Regs.edid.word)
    def show_edid(self, index: int) -> int:
        return 0


class Blinds(Mbochs):
    function = Blind


@dataclass(frozen=True)
class Scene:
    """A booted guest whose driver has found both displays."""

    host: LocalHost
    guest: Guest
    displays: tuple[Mdev, Mdev]

    def device(self, card: int) -> Device:
        device = self.host.endpoint(self.displays[card]).device.ops
        assert isinstance(device, Device)
        return device

    def display(self, card: int) -> Display:
        display = self.device(card).function
        assert isinstance(display, Display)
        return display

    def connector(self, card: int, name: str) -> str:
        return self.guest.run(f"cat /sys/class/drm/card{card}-Virtual-*/{name}")

    def shown(self, card: int) -> bytes:
        """What is on the screen, from the video memory, by the registers that the guest has set."""
        display = self.display(card)
        regs = display.regs
        start, stride = 4 * (regs.y_offset * regs.virt_width + regs.x_offset), 4 * regs.virt_width
        rows = (start + stride * row for row in range(regs.yres))
        return b"".join(bytes(display.video[row : row + 4 * regs.xres]) for row in rows)


@pytest.fixture(scope="module")
def scene(rig: Rig) -> Iterator[Scene]:
    kernel = find_display_kernel() or core_skip("no display kernel: `python -m mdev_user.guests display` fetches one")
    files = {f"/lib/{number}.ko": lzma.decompress(module) for number, module in enumerate(_modules(kernel.of(rig)))}
    with LocalHost() as host:
        parents = [host.bus.register_parent(name, kind()) for name, kind in (("mbochs", Mbochs), ("blind", Blinds))]
        sighted, blind = (host.create(parent, "mbochs-small") for parent in parents)
        sockets = [host.socket(each) for each in (sighted, blind)]
        with Guest(kernel.of(rig), sockets, files={**files, "/picture": PICTURE}) as guest:
            guest.run("\n".join(["set -e", *(f"insmod {path}" for path in files)]))
            yield Scene(host, guest, (sighted, blind))


def _modules(rig: Rig) -> Iterator[bytes]:
    return ((rig.modules / "kernel/drivers/gpu/drm" / f"{name}.ko.xz").read_bytes() for name in MODULES)


def test_stock_driver_finds_the_display_and_its_monitor(scene: Scene) -> None:
    assert "bochs" in scene.guest.run("readlink /sys/class/drm/card0/device/driver")
    assert "4096 kB" in scene.guest.run("dmesg | grep 'Framebuffer size' | head -n 1")
    assert scene.connector(0, "status") == "connected\n"


def test_modes_are_those_of_our_edid(scene: Scene) -> None:
    assert set(scene.connector(0, "modes").split()) == {"800x600", "640x480"}
    assert scene.connector(0, "modes").startswith("800x600\n")


def test_without_an_edid_the_modes_are_others(scene: Scene) -> None:
    """The negative control."""
    assert not {"800x600", "640x480"} >= set(scene.connector(1, "modes").split())


def test_mode_is_set_in_the_registers(scene: Scene) -> None:
    regs = scene.display(0).regs
    assert (regs.xres, regs.yres, regs.bpp, regs.enable) == (WIDTH, HEIGHT, 32, 0x41)
    assert regs.virt_width == WIDTH


def test_what_the_guest_draws_is_on_the_screen(scene: Scene) -> None:
    assert scene.shown(0) != PICTURE
    scene.guest.run("echo 0 >/sys/class/vtconsole/vtcon1/bind; dd if=/picture of=/dev/fb0 bs=64k")
    eventually(lambda: scene.shown(0) == PICTURE, 20)


def test_a_screenshot_is_what_the_guest_drew(scene: Scene) -> None:
    endpoint = scene.host.endpoint(scene.displays[0])
    with endpoint.lock:
        picture = endpoint.device.picture(0)
        assert picture is not None
        shot = screenshot_of(picture, pointer=False)
    assert (shot.width, shot.height) == (WIDTH, HEIGHT)
    assert (shot.rgb[0::3], shot.rgb[1::3], shot.rgb[2::3]) == (PICTURE[2::4], PICTURE[1::4], PICTURE[0::4])


def test_what_is_drawn_on_one_display_is_not_on_the_other(scene: Scene) -> None:
    assert scene.shown(1)[:4096] != PICTURE[:4096]


def test_stock_driver_uses_no_register_that_is_not_declared(scene: Scene) -> None:
    assert scene.device(0).unmodelled == {}
