"""A guest's screen goes from one daemon to another with its guest, while that draws: pixel for pixel what it was."""

from collections.abc import Iterator

import pytest

from core import core_skip
from guest.drm_scene import Painter, compiled_program, files, insert_modules, mdev_look, pixels
from guest.test_live_migration import FORGETFUL, INCOMING, launcher, migrate
from mdev_user.guests.arguments import MDEVS
from mdev_user.guests.display_kernel import find_display_kernel
from mdev_user.guests.qmp import Json
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import Guest
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.units import MiB

pytestmark = [pytest.mark.guest, pytest.mark.fuse]

VGPU = "vgpu"
TYPE = "vgpu-GVTg_V5_8"


class Places:
    """Two daemons, each with an mdev, and the QEMUs that can be there."""

    def __init__(self, rig: Rig, daemons: tuple[RunningDaemon, RunningDaemon]) -> None:
        kernel = find_display_kernel() or core_skip("no display kernel: `python -m mdev_user.guests display` gets one")
        self._rig = kernel.of(rig)
        self._files = files(kernel, compiled_program(), pixels(0))
        self._daemons = daemons
        self._mdevs = [daemon.create(TYPE, parent="vgpu") for daemon in daemons]

    def machine(self, at: int, *more: str, preamble: str = "") -> Guest:
        device = f"vfio-pci,id=gpu,sysfsdev={MDEVS}/{self._mdevs[at]},enable-migration=on"
        before = launcher(self._daemons[at], preamble)
        guest = Guest(self._rig, files=self._files, arguments=["-device", device, *more], launcher=before)
        guest.start()
        return guest

    def arrive(self, painter: Painter, at: int, guest: Guest) -> None:
        """The guest goes on there, and is looked at there."""
        painter.guest.close()
        painter.guest = guest
        painter.look = mdev_look(self._daemons[at].control, self._mdevs[at])

    def painter(self, guest: Guest) -> Painter:
        return Painter.started(guest, 0, pixels(0), mdev_look(self._daemons[0].control, self._mdevs[0]))


@pytest.fixture(scope="module")
def places(rig: Rig) -> Iterator[Places]:
    with RunningDaemon(VGPU) as one, RunningDaemon(VGPU) as two:
        yield Places(rig, (one, two))


@pytest.fixture(scope="module")
def painter(places: Places) -> Iterator[Painter]:
    guest = places.machine(0)
    try:
        guest.boot()
        insert_modules(guest)
        yield (begun := places.painter(guest))
    finally:
        guest.close()
    begun.guest.close()


def test_a_screen_goes_to_another_daemon_while_its_guest_draws(
    places: Places, painter: Painter, capsys: pytest.CaptureFixture[str]
) -> None:
    painter.show(1024, 768, 0)
    painter.tell("pointer", 0, "64x64", 0)
    painter.check()
    target = places.machine(1, *INCOMING)
    try:
        told = migrate(painter.guest, target, lambda: painter.flip(2 * MiB))
    except BaseException:
        target.close()
        raise
    places.arrive(painter, 1, target)
    with capsys.disabled():
        print(f"\n{figures(told)}")
    painter.check()
    painter.draw((10, 20, 30, 40), 0)
    painter.check()
    painter.show(800, 600, MiB)
    painter.check()


def test_a_screen_whose_state_is_lost_on_the_way_is_another(places: Places, painter: Painter) -> None:
    """The negative control."""
    painter.show(1024, 768, 0)
    painter.check()
    target = places.machine(0, *INCOMING, preamble=FORGETFUL)
    try:
        migrate(painter.guest, target, lambda: None)
    except BaseException:
        target.close()
        raise
    places.arrive(painter, 0, target)
    with pytest.raises(AssertionError, match="it shows nothing, expected 1024x768"):
        painter.check(seconds=1)


def figures(told: dict[str, Json]) -> str:
    """Of what QEMU says of a migration."""
    ram, device = told["ram"], told["vfio"]
    assert isinstance(ram, dict)
    assert isinstance(device, dict)
    carried = f"{device['transferred']} bytes of the device's, {ram['transferred']} of memory"
    times = f"downtime {told['downtime']} ms, in all {told['total-time']} ms"
    return f"{'screen migration':24} {ram['dirty-sync-count']} passes, {carried}; {times}"
