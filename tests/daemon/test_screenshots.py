"""Screenshots of a daemon's mdevs: what a guest drew is what is in the file, and what cannot be taken is one line."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from threading import Thread
from uuid import UUID

import pytest

from daemon.support import SECONDS
from mdev_user.daemon.client import Refused
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.vfio.planes import XR24
from mdev_user.vfio.screens import Picture
from mdev_user.vfio_user.client import Client
from pictures import expected, read_png

HEADS = Path(__file__).parent / "parents" / "heads.py"
WIDTH, HEIGHT, STRIDE = 641, 47, 4 * 650
CHUNK = 1 << 20


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mbochs", "mdpy", "mtty", f"{HEADS}:Wall") as daemon:
        yield daemon


def screenshot(daemon: RunningDaemon, *given: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "mdev_user", "screenshot", *map(str, given)]
    return subprocess.run(
        [*command, "--run-dir", str(daemon.run_dir.path)], capture_output=True, timeout=2 * SECONDS, check=False
    )


def refusal(daemon: RunningDaemon, *given: object) -> str:
    """The one line of an error."""
    done = screenshot(daemon, *given)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
    return done.stderr.decode()


def set_mode(guest: Client, width: int, height: int, virtual: int, enable: int = 0x41) -> None:
    for offset, value in ((0x502, width), (0x504, height), (0x506, 32), (0x50C, virtual), (0x508, enable)):
        guest.region_write(2, offset, value.to_bytes(2, "little"))


def draw(guest: Client, region: int, pixels: bytes) -> None:
    for at in range(0, len(pixels), CHUNK):
        guest.region_write(region, at, pixels[at : at + CHUNK])


def test_what_a_guest_of_mbochs_drew_is_in_the_file(daemon: RunningDaemon, tmp_path: Path) -> None:
    uuid, file = daemon.create("mbochs-small"), tmp_path / "shot.png"
    assert "nobody has it open" in refusal(daemon, uuid, file)
    with daemon.guest(uuid) as guest:
        assert "head 0 shows nothing: it is blanked, or its guest has set no mode" in refusal(daemon, uuid, file)
        pixels = Random(1).randbytes(STRIDE * HEIGHT)
        set_mode(guest, WIDTH, HEIGHT, STRIDE // 4)
        draw(guest, 0, pixels)
        assert screenshot(daemon, uuid, file).returncode == 0
        before = file.read_bytes()
        assert read_png(before) == expected(Picture(WIDTH, HEIGHT, STRIDE, XR24, pixels))
        assert read_png(screenshot(daemon, uuid, "-", "--level", 9).stdout) == read_png(before)
        set_mode(guest, 320, 20, 320)  # what was drawn stays, and is seen in other lines
        assert read_png(daemon.control.screenshot(uuid)) == expected(Picture(320, 20, 1280, XR24, pixels))
        assert "head 1: expected 0, the only one" in refusal(daemon, uuid, file, "--head", 1)
        set_mode(guest, 320, 20, 320, enable=0)
        assert "shows nothing" in refusal(daemon, uuid, file)
    assert file.read_bytes() == before, "a refusal changed the file"
    assert [each.name for each in tmp_path.iterdir()] == ["shot.png"]


def test_a_frame_buffer_without_a_mode_is_shown(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mdpy-vga")
    with daemon.guest(uuid) as guest:
        pixels = Random(2).randbytes(4 * 640 * 480)
        draw(guest, 0, pixels)
        shown = read_png(daemon.control.screenshot(uuid, pointer=True))
        assert (shown.width, shown.height) == (640, 480)
        assert shown.rgb[0::3] == pixels[2::4]
        assert shown.rgb[1::3] == pixels[1::4]
        assert shown.rgb[2::3] == pixels[0::4]


def test_what_has_no_screen_says_so(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid):
        assert "the device has no screen" in refusal(daemon, uuid, "-")
    assert "no mdev" in refusal(daemon, UUID(int=7), "-")


def test_heads_and_pointers_of_a_declared_device(daemon: RunningDaemon) -> None:
    uuid = daemon.create("wall-two")
    with daemon.guest(uuid) as guest:
        for head in (0, 1):
            shown = read_png(daemon.control.screenshot(uuid, head))
            assert shown.rgb == bytes((head, 7, 9)) * (shown.width * shown.height)
            assert read_png(daemon.control.screenshot(uuid, head, pointer=True)).rgb[-3:] == b"\xff\xff\xff"
        guest.region_write(0, 0, b"\1\0\0\0")
        with pytest.raises(Refused, match="expected at most 67108864"):
            daemon.control.screenshot(uuid)
        guest.region_write(0, 0, b"\2\0\0\0")
        with pytest.raises(Refused, match="ZeroDivisionError"):
            daemon.control.screenshot(uuid)
        guest.region_write(0, 0, b"\0\0\0\0")
        assert read_png(daemon.control.screenshot(uuid)).rgb


def test_many_at_once_are_all_right(daemon: RunningDaemon) -> None:
    """Files and answers are not mixed up: each of two mdevs shows what is its own."""
    uuids = [daemon.create("mdpy-vga", parent="mdpy") for _ in range(2)]
    seen: dict[int, set[int]] = {10: set(), 20: set()}

    def look(uuid: UUID, red: int) -> None:
        for _ in range(5):
            seen[red].update(read_png(daemon.control.screenshot(uuid)).rgb[0::3])

    with daemon.guest(uuids[0]) as one, daemon.guest(uuids[1]) as other:
        for guest, red in ((one, 10), (other, 20)):
            draw(guest, 0, bytes((0, 0, red, 0)) * (640 * 480))
        lookers = [Thread(target=look, args=(uuids[each % 2], 10 + 10 * (each % 2))) for each in range(6)]
        for each in lookers:
            each.start()
        for each in lookers:
            each.join()
    assert seen == {10: {10}, 20: {20}}
