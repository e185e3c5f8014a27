"""Four guests on four slices of one vgpu, with Linux's own driver: what each draws is on its screen, and only there.

The first guest has two cards more: a vgpu that loses a rectangle, which shows that these tests see that, and QEMU's own
virtio-gpu, which shows that the program in the guest does what it is told to.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from core import core_skip
from guest.drm_scene import (
    PIXEL,
    Look,
    Painter,
    Screen,
    await_screen,
    compiled_program,
    files,
    insert_modules,
    mdev_look,
    pixels,
    qemu_look,
)
from guest.lossy_vgpu import LOST
from guest.scene import at_once, eventually
from mdev_user.drivers.vgpu.rendering import has_renderer
from mdev_user.guests.display_kernel import DisplayKernel, find_display_kernel
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import Guest
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.units import MiB

pytestmark = pytest.mark.guest

VGPU = "vgpu"
GUESTS = 4
TYPE = "GVTg_V5_8"
WIDTH, HEIGHT = 1024, 768
REFERENCE = ("-device", "virtio-gpu-pci,id=reference,addr=0x10,max_outputs=1,xres=1024,yres=768")
"""Behind all others on the bus."""
LOSSY = Path(__file__).with_name("lossy_vgpu.py")
POINTER, POINTED = 64, 4 * MiB
"""Its size, and where in what is drawn its image begins."""


@dataclass(frozen=True)
class Scene:
    """The painters of the four slices, and those of the first guest's cards beside its slice."""

    painters: list[Painter]
    lossy: Painter
    reference: Painter
    monitors: Path
    """The attribute of the first guest's slice: how many it has."""
    with_pointers: list[Look]
    """By guest."""

    def each_does(self, work: Callable[[Painter], object]) -> None:
        """All guests at the same time; then every sound card shows what it has to."""
        self.all_do(work)
        for painter in (*self.painters, self.reference):
            painter.check()

    def all_do(self, work: Callable[[Painter], object]) -> None:
        at_once(*(partial(work, painter) for painter in self.painters))
        work(self.reference)


@pytest.fixture(scope="module")
def kernel() -> DisplayKernel:
    return find_display_kernel() or core_skip("no display kernel: `python -m mdev_user.guests display` fetches one")


@pytest.fixture(scope="module")
def scene(rig: Rig, kernel: DisplayKernel) -> Iterator[Scene]:
    program = compiled_program()
    with RunningDaemon(VGPU, f"{LOSSY}:Card,name=lossy") as daemon, ExitStack() as stack:
        mdevs = [daemon.create(f"vgpu-{TYPE}", parent="vgpu") for _guest in range(GUESTS)]
        lossy = daemon.create(f"lossy-{TYPE}", parent="lossy")
        guests = []
        for number, uuid in enumerate(mdevs):
            cards, more = ([uuid], ()) if number else ([uuid, lossy], REFERENCE)
            inside = files(kernel, program, pixels(number))
            guests.append(Guest(kernel.of(rig), map(daemon.run_dir.socket, cards), files=inside, arguments=more))
            stack.callback(guests[-1].close)
            guests[-1].start()
        looks = [mdev_look(daemon.control, uuid) for uuid in mdevs]
        painters = at_once(
            *(partial(begun, *each) for each in zip(guests, map(pixels, range(GUESTS)), looks, strict=True))
        )
        first = guests[0]
        yield Scene(
            painters,
            Painter.started(first, 1, pixels(0), mdev_look(daemon.control, lossy)),
            Painter.started(first, 2, pixels(0), qemu_look(first, "reference")),
            daemon.sys / "bus/mdev/devices" / str(mdevs[0]) / "vgpu/monitors",
            [mdev_look(daemon.control, uuid, pointer=True) for uuid in mdevs],
        )


def begun(guest: Guest, drawn: bytes, look: Look) -> Painter:
    guest.boot()
    insert_modules(guest)
    return Painter.started(guest, 0, drawn, look)


def test_stock_driver_binds_and_finds_a_monitor_of_the_types_resolution(scene: Scene) -> None:
    for painter in scene.painters:
        assert "virtio_gpu" in painter.guest.run("readlink /sys/class/drm/card0/device/virtio*/driver")
        assert painter.guest.run("cat /sys/class/drm/card0-Virtual-1/status") == "connected\n"
        assert set(painter.modes()) == {f"{WIDTH}x{HEIGHT}", "800x600", "640x480"}
        assert painter.modes()[0] == f"{WIDTH}x{HEIGHT}"
        assert painter.modes(1) == []
    told = scene.lossy.guest.run("dmesg | grep features: | grep -o .virgl").split()
    assert told == ["+virgl" if has_renderer() else "-virgl", "-virgl", "-virgl"]


def test_each_screen_shows_what_its_guest_draws(scene: Scene) -> None:
    scene.each_does(lambda painter: painter.show(WIDTH, HEIGHT, 0))


def test_no_guests_picture_is_in_anothers(scene: Scene) -> None:
    lines = [lines_of(painter.look(0)) for painter in scene.painters]
    assert [len(each) for each in lines] == [HEIGHT] * GUESTS
    assert len(set().union(*lines)) == GUESTS * HEIGHT


@pytest.mark.parametrize(
    "place", [LOST, (0, 0, 1, 1), (WIDTH - 1, HEIGHT - 1, 1, 1), (0, 700, WIDTH, 68), (3, 0, 2, 768)]
)
def test_a_part_is_redrawn_and_nothing_else(scene: Scene, place: tuple[int, int, int, int]) -> None:
    scene.each_does(lambda painter: painter.draw(place, 5 * MiB))


def test_a_picture_takes_the_place_of_another(scene: Scene) -> None:
    scene.each_does(lambda painter: painter.flip(2 * MiB))


def test_a_pointer_and_its_moves_leave_the_picture_as_it_is(scene: Scene) -> None:
    """It is drawn by whoever asks for it."""
    scene.each_does(point)
    for place in ((33, 44), (WIDTH - 7, 2)):
        scene.each_does(partial(move, place))
        for painter, look in zip(scene.painters, scene.with_pointers, strict=True):
            await_screen(partial(look, 0), pointed(painter, *place), f"a pointer at {place}")
    scene.each_does(lambda painter: painter.tell("hide", 0))
    for painter, look in zip(scene.painters, scene.with_pointers, strict=True):
        await_screen(partial(look, 0), painter.expected(0), "no pointer")


def test_another_mode_has_another_picture(scene: Scene) -> None:
    scene.each_does(lambda painter: painter.show(640, 480, MiB))
    scene.each_does(lambda painter: painter.draw((600, 440, 40, 40), 0))
    scene.each_does(lambda painter: painter.show(WIDTH, HEIGHT, 0))


def test_a_blanked_screen_shows_nothing_and_then_what_it_did(scene: Scene) -> None:
    scene.all_do(lambda painter: painter.tell("blank", 0))
    for painter in (*scene.painters, scene.reference):
        painter.check_dark()
    scene.each_does(lambda painter: painter.tell("unblank", 0))


def test_a_screen_that_is_switched_off_shows_nothing(scene: Scene) -> None:
    scene.each_does(lambda painter: painter.off())
    scene.each_does(lambda painter: painter.show(800, 600, MiB))


@pytest.mark.fuse
def test_a_second_monitor_has_a_picture_of_its_own(scene: Scene) -> None:
    painter = scene.painters[0]
    painter.show(WIDTH, HEIGHT, 0)
    scene.monitors.write_text("2")
    eventually(lambda: painter.modes(1), 20)
    painter.show(WIDTH, HEIGHT, MiB, head=1)
    painter.draw((1, 2, 30, 40), 0, head=1)
    painter.check()
    scene.monitors.write_text("1")
    eventually(lambda: not painter.modes(1), 20)
    painter.off(head=1)
    painter.check()


def test_what_a_broken_card_loses_is_seen(scene: Scene) -> None:
    """The negative control."""
    scene.lossy.show(WIDTH, HEIGHT, 0)
    x, y, width, height = LOST
    told = f"{width * height} of {WIDTH * HEIGHT} pixels differ, the first at {x, y}"
    with pytest.raises(AssertionError, match=re.escape(told)):
        scene.lossy.check(seconds=1)


def lines_of(screen: Screen | None) -> set[bytes]:
    assert screen is not None
    pitch = 3 * screen.width
    return {screen.rgb[at : at + pitch] for at in range(0, len(screen.rgb), pitch)}


def point(painter: Painter) -> None:
    painter.tell("pointer", 0, f"{POINTER}x{POINTER}", POINTED)


def move(place: tuple[int, int], painter: Painter) -> None:
    painter.tell("move", 0, *place)


def pointed(painter: Painter, x: int, y: int) -> Screen:
    """What the picture looks like with the pointer's colours, which are premultiplied, on top."""
    screen = painter.expected(0)
    assert screen is not None
    rgb = bytearray(screen.rgb)
    for row, column in product(range(min(POINTER, screen.height - y)), range(min(POINTER, screen.width - x))):
        at, under = POINTED + PIXEL * (POINTER * row + column), 3 * (screen.width * (y + row) + x + column)
        blue, green, red, alpha = painter.drawn[at : at + PIXEL]
        for colour, value in enumerate((red, green, blue)):
            rgb[under + colour] = min(255, value + (rgb[under + colour] * (255 - alpha) + 127) // 255)
    return Screen(screen.width, screen.height, bytes(rgb))
