"""vgpu's renderer on a host with a render node: a guest whose GPU is another vgpu.

A machine with a GPU of its own is not to be had for every run of the tests. What is like it: Mesa finds the node, and a
process that has lost its privileges draws with it under the filter of system calls.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core import core_skip
from guest.drm_scene import compiled_program, insert_modules, pixels
from guest.drm_scene import files as display_files
from guest.python_inside import PYTHON, files_of, libraries_of, told
from mdev_user.drivers.vgpu.rendering import has_renderer
from mdev_user.guests.console import GuestCommandError
from mdev_user.guests.display_kernel import find_display_kernel
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import Guest
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.units import MiB

pytestmark = pytest.mark.guest

_FOLDER = Path("/usr/lib/x86_64-linux-gnu")
_DRIVER = _FOLDER / "dri/virtio_gpu_dri.so"
_LIBRARIES = [_FOLDER / each for each in ("libvirglrenderer.so.1", "libEGL_mesa.so.0", "libOpenGL.so.0")]
_VENDOR = Path("/usr/share/glvnd/egl_vendor.d/50_mesa.json")
ORANGE = "4080ffff" * (64 * 64)


@pytest.fixture(scope="module")
def guest(rig: Rig) -> Iterator[Guest]:
    kernel = find_display_kernel() or core_skip("no display kernel: `python -m mdev_user.guests display` fetches one")
    if not has_renderer():
        core_skip("no renderer: install libvirglrenderer1 and what `mdev-user doctor` names")
    own = [*map(str, _LIBRARIES), str(_FOLDER / "libEGL.so.1"), str(_DRIVER)]
    mesa = {each: Path(each).read_bytes() for each in [*own, str(_VENDOR)]} | libraries_of(own)
    inside = {**display_files(kernel, compiled_program(), pixels(0)), **files_of("guest.rendered"), **mesa}
    with RunningDaemon("vgpu") as daemon:
        socket = daemon.run_dir.socket(daemon.create("vgpu-GVTg_V5_2", parent="vgpu"))
        with Guest(kernel.of(rig), [socket], files=inside, memory=1600 * MiB) as guest:
            insert_modules(guest)
            guest.run(f"chmod +x {PYTHON} /lib64/*")
            yield guest


def test_renderer_draws_on_the_hosts_render_node(guest: Guest) -> None:
    renderer, drawn = told(guest, "guest.rendered")
    print(f"\nvgpu on a render node: {renderer}")
    assert "virgl" in renderer
    assert drawn == ORANGE


def test_without_the_node_nothing_draws(guest: Guest) -> None:
    """The negative control: there is no other driver that could have drawn."""
    with pytest.raises(GuestCommandError, match="virglrenderer does not start"):
        told(guest, "guest.rendered", first="rm /dev/dri/renderD128")
