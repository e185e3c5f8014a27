"""The 2D commands of vgpu, by a driver in memory: pictures, heads, the pointer, the quota, and what is refused."""

from collections.abc import Iterator
from random import Random
from struct import pack, unpack_from

import pytest

from mdev_user.driver import AR24, XR24, InvalidValue, Rect, edid_of
from mdev_user.drivers.vgpu.card import Card
from mdev_user.drivers.vgpu.commands import Answered
from mdev_user.drivers.vgpu.rendering import has_renderer
from mdev_user.testing import Guest
from mdev_user.units import PAGE, MiB
from unit.driver.virtio.ring_driver import BUFFERS
from unit.drivers.vgpu.gpu_driver import (
    BGRA,
    BGRX,
    DETACH,
    DISPLAY_INFO,
    EDID,
    OK,
    RGBA,
    TRANSFER,
    GpuDriver,
    fence_of,
    heads_of,
)  # fmt: skip

BAD_RESOURCE, BAD_PARAMETER = Answered.ERR_INVALID_RESOURCE_ID, Answered.ERR_INVALID_PARAMETER
BAD_HEAD, NO_MEMORY, UNSPECIFIED = Answered.ERR_INVALID_SCANOUT_ID, Answered.ERR_OUT_OF_MEMORY, Answered.ERR_UNSPEC


@pytest.fixture
def driver() -> Iterator[GpuDriver]:
    with Guest(Card, "GVTg_V5_8") as guest:
        yield GpuDriver(guest)


def driver_of(guest: Guest) -> GpuDriver:
    """The driver of a device that goes on, and is not started anew."""
    driver = GpuDriver.__new__(GpuDriver)
    driver.guest = guest
    return driver


def part_of(picture: bytes, stride: int, x: int, y: int, width: int, height: int) -> bytes:
    starts = (stride * row + 4 * x for row in range(y, y + height))
    return b"".join(picture[start : start + 4 * width] for start in starts)


# --- heads -------------------------------------------------------------------------------------------------------


def test_monitor_has_the_resolution_of_the_type(driver: GpuDriver) -> None:
    assert heads_of(driver.send(driver.command(DISPLAY_INFO))) == [(0, 0, 1024, 768)]
    answer = driver.send(driver.command(EDID, "I4x", 0))
    size, edid = unpack_from("<I4x128s", answer, 24)
    assert (size, edid) == (128, edid_of(1024, 768, "vgpu"))
    assert len(answer) == 24 + 8 + 1024


def test_monitors_stand_side_by_side(driver: GpuDriver) -> None:
    driver.guest.store("vgpu/monitors", "3")
    assert heads_of(driver.send(driver.command(DISPLAY_INFO))) == [(at, 0, 1024, 768) for at in (0, 1024, 2048)]
    driver.guest.store("vgpu/monitors", "4")
    assert len(heads_of(driver.send(driver.command(DISPLAY_INFO)))) == 4


def test_more_monitors_than_the_type_has_scanout_engines_are_refused(driver: GpuDriver) -> None:
    driver.guest.store("vgpu/monitors", "3")
    with pytest.raises(InvalidValue, match="expected 0 to 4, given 5"):
        driver.guest.store("vgpu/monitors", "5")
    assert driver.gpu.monitors == 3
    assert len(heads_of(driver.send(driver.command(DISPLAY_INFO)))) == 3


def test_configuration_says_how_many_heads_there_are(driver: GpuDriver) -> None:
    settings = [unpack_from("<I", driver.guest.read_bytes(2, at, 4))[0] for at in range(0, 16, 4)]
    assert settings == [0, 0, 4, 2 if has_renderer() else 0]


def test_head_that_is_not_there_is_refused(driver: GpuDriver) -> None:
    driver.show(1, 16, 16, seed=1)
    assert driver.do(EDID, "I4x", 4) == BAD_HEAD
    assert driver.scanout(4, 1, 0, 0, 16, 16) == BAD_HEAD
    assert driver.update(4, 0, 0, 1) == BAD_HEAD
    assert driver.move(16, 0, 0) == BAD_HEAD


def test_fence_comes_back_with_the_answer(driver: GpuDriver) -> None:
    assert fence_of(driver.send(driver.command(DISPLAY_INFO, fence=0x1234_5678_9ABC))) == (1, 0x1234_5678_9ABC, 7)
    assert fence_of(driver.send(driver.command(DISPLAY_INFO))) == (0, 0, 0)


# --- pictures ----------------------------------------------------------------------------------------------------


def test_what_a_guest_draws_is_on_its_head(driver: GpuDriver) -> None:
    assert driver.on_head() is None
    first = driver.show(1, 640, 480, seed=1)
    assert driver.on_head() == first
    second = driver.show(2, 33, 17, seed=2)
    assert driver.on_head() == second
    assert driver.scanout(0, 0) == OK
    assert driver.on_head() is None
    assert driver.guest.errors == 0


def test_head_shows_a_part_of_a_resource(driver: GpuDriver) -> None:
    data = driver.show(1, 64, 48, seed=1)
    assert driver.scanout(2, 1, 5, 7, 32, 16) == OK
    assert driver.on_head(2) == part_of(data, 256, 5, 7, 32, 16)
    assert driver.on_head(0) == data


@pytest.mark.parametrize("part", [(0, 0, 64, 48), (0, 10, 64, 5), (3, 4, 20, 10), (63, 47, 1, 1)])
def test_only_the_part_that_is_transferred_changes(driver: GpuDriver, part: tuple[int, int, int, int]) -> None:
    old = driver.show(1, 64, 48, seed=1)
    new = Random(2).randbytes(len(old))
    pieces = list(driver.gpu.backings[1])
    driver.fill(pieces, new)
    x, y, width, height = part
    assert driver.transfer(1, x, y, width, height, 256 * y + 4 * x) == OK
    wanted = bytearray(old)
    for row in range(y, y + height):
        at = 256 * row + 4 * x
        wanted[at : at + 4 * width] = new[at : at + 4 * width]
    assert driver.on_head() == bytes(wanted)


def test_large_picture_is_drawn_in_stretches() -> None:
    with Guest(Card, "GVTg_V5_4") as guest:
        driver = GpuDriver(guest)
        assert driver.on_head() is None
        data = driver.show(1, 1000, 700, seed=3)
        assert driver.on_head() == data
        assert driver.transfer(1, 1, 0, 999, 700, 4) == OK
        assert driver.on_head() == data


def test_formats_are_those_of_drm(driver: GpuDriver) -> None:
    seen = {}
    for number, pixels in ((1, BGRA), (2, BGRX), (3, RGBA)):
        assert driver.create(number, 8, 8, pixels) == OK
        assert driver.scanout(0, number, 0, 0, 8, 8) == OK
        picture = driver.gpu.picture(0)
        assert picture is not None
        seen[pixels] = picture.format
    assert (seen[BGRA], seen[BGRX]) == (AR24, XR24)
    assert driver.create(4, 8, 8, 5) == BAD_PARAMETER


def test_resource_that_ends_blanks_its_heads(driver: GpuDriver) -> None:
    driver.show(1, 16, 16, seed=1)
    driver.scanout(1, 1, 0, 0, 16, 16)
    assert driver.unref(1) == OK
    assert (driver.on_head(0), driver.on_head(1)) == (None, None)
    assert driver.unref(1) == BAD_RESOURCE


def test_new_resource_has_nothing_of_an_older_one(driver: GpuDriver) -> None:
    driver.show(1, 64, 64, seed=1)
    driver.unref(1)
    assert driver.create(2, 64, 64) == OK
    assert driver.scanout(0, 2, 0, 0, 64, 64) == OK
    assert driver.on_head() == bytes(4 * 64 * 64)


# --- damage ------------------------------------------------------------------------------------------------------


def test_flush_damages_the_heads_that_show_it(driver: GpuDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.show(1, 64, 48, seed=1)
    driver.scanout(1, 1, 10, 10, 20, 20)
    told: list[tuple[int, Rect | None]] = []
    monkeypatch.setattr(type(driver.gpu), "damaged", lambda _self, head, rect=None: told.append((head, rect)))
    assert driver.flush(1, 5, 6, 10, 10) == OK
    assert told == [(0, Rect(5, 6, 10, 10)), (1, Rect(0, 0, 5, 6))]


# --- the pointer -------------------------------------------------------------------------------------------------


def test_pointer_is_what_the_resource_was_and_follows_the_mouse(driver: GpuDriver) -> None:
    image = driver.show(1, 64, 64, seed=1)
    driver.show(2, 100, 100, seed=2)
    assert driver.update(0, 5, -3, 1, hot_x=2, hot_y=1) == OK
    driver.unref(1)
    pointer = driver.gpu.picture(0)
    assert pointer is not None
    assert pointer.pointer is not None
    assert (pointer.pointer.x, pointer.pointer.y, bytes(pointer.pointer.image.pixels)) == (7, -2, image)
    assert driver.move(0, 50, 60) == OK
    moved = driver.gpu.picture(0)
    assert moved is not None
    assert moved.pointer is not None
    assert (moved.pointer.x, moved.pointer.y) == (52, 61)
    assert driver.update(0, 0, 0, 0) == OK
    hidden = driver.gpu.picture(0)
    assert hidden is not None
    assert hidden.pointer is None


def test_pointer_needs_no_place_for_an_answer(driver: GpuDriver) -> None:
    driver.show(1, 64, 64, seed=1)
    assert driver.send(driver.command(0x300, "Iii4xIII4x", 0, 9, 9, 1, 0, 0), queue=1, room=0) == b""
    assert driver.gpu.pointers[0].x == 9


# --- the quota ---------------------------------------------------------------------------------------------------


def test_quota_is_exact(driver: GpuDriver) -> None:
    line = 1024 * 4
    assert driver.create(1, 1024, 64 * MiB // line) == OK
    assert driver.create(2, 1, 1) == NO_MEMORY
    driver.unref(1)
    assert driver.create(1, 1024, 64 * MiB // line - 1) == OK
    assert driver.create(2, 1024, 1) == OK
    assert driver.create(3, 1, 1) == NO_MEMORY
    assert driver.guest.errors == 0


def test_quota_is_hard_because_it_is_checked(driver: GpuDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without the sum of what is used, memory is found that somebody has."""
    driver.create(1, 1024, 16384)
    monkeypatch.setattr(driver.gpu.places, "used", 0)
    assert driver.create(2, 1024, 16384) == OK


def test_holes_are_closed_when_none_is_large_enough(driver: GpuDriver) -> None:
    pictures = {number: Random(number).randbytes(1024 * 4096 * 4) for number in range(1, 5)}
    for number, pixels in pictures.items():
        assert driver.create(number, 1024, 4096) == OK
        at = driver.gpu.resources[number].at
        driver.gpu.graphics[at : at + len(pixels)] = pixels
        assert driver.scanout(number - 1, number, 0, 0, 1024, 4096) == OK
    for number in (1, 3):
        driver.unref(number)
    assert driver.create(5, 1024, 8192) == OK
    assert driver.is_sound()
    assert driver.on_head(1) == pictures[2]
    assert driver.on_head(3) == pictures[4]
    assert driver.create(6, 1, 1) == NO_MEMORY


def test_pieces_of_backings_have_an_end(driver: GpuDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    from mdev_user.drivers.vgpu import function

    monkeypatch.setattr(function, "MOST_PIECES", 5)
    driver.create(1, 16, 16)
    driver.create(2, 16, 16)
    assert driver.attach(1, [(0, PAGE)] * 4) == OK
    assert driver.attach(2, [(0, PAGE)] * 2) == NO_MEMORY
    assert driver.attach(2, [(0, PAGE)]) == OK


# --- what is refused ---------------------------------------------------------------------------------------------


def test_resource_must_be_new_and_of_a_size(driver: GpuDriver) -> None:
    assert driver.create(0, 8, 8) == BAD_RESOURCE
    assert driver.create(1, 8, 8) == OK
    assert driver.create(1, 8, 8) == BAD_RESOURCE
    for size in ((0, 8), (8, 0), (16385, 1), (0xFFFF_FFFF, 0xFFFF_FFFF)):
        assert driver.create(2, *size) == BAD_PARAMETER


def test_unknown_resource_is_refused_by_every_command(driver: GpuDriver) -> None:
    assert driver.attach(9, [(0, 16)]) == BAD_RESOURCE
    assert driver.do(DETACH, "I4x", 9) == BAD_RESOURCE
    assert driver.transfer(9, 0, 0, 1, 1) == BAD_RESOURCE
    assert driver.flush(9, 0, 0, 1, 1) == BAD_RESOURCE
    assert driver.scanout(0, 9, 0, 0, 1, 1) == BAD_RESOURCE
    assert driver.update(0, 0, 0, 9) == BAD_RESOURCE


@pytest.mark.parametrize("part", [(0, 0, 17, 1), (16, 0, 1, 1), (0, 0, 0, 1), (0xFFFF_FFFF, 0, 2, 1), (0, 9, 1, 8)])
def test_part_outside_a_resource_is_refused(driver: GpuDriver, part: tuple[int, int, int, int]) -> None:
    driver.show(1, 16, 16, seed=1)
    assert driver.transfer(1, *part) == BAD_PARAMETER
    assert driver.flush(1, *part) == BAD_PARAMETER
    assert driver.scanout(0, 1, *part) == BAD_PARAMETER


def test_backing_is_checked(driver: GpuDriver) -> None:
    driver.create(1, 16, 16)
    assert driver.transfer(1, 0, 0, 16, 16) == UNSPECIFIED
    assert driver.do(DETACH, "I4x", 1) == UNSPECIFIED
    assert driver.attach(1, [(BUFFERS, 16 * 64 - 1)]) == OK
    assert driver.attach(1, [(BUFFERS, 16 * 64)]) == UNSPECIFIED
    assert driver.transfer(1, 0, 0, 16, 16) == BAD_PARAMETER
    assert driver.transfer(1, 0, 0, 16, 15) == OK
    assert driver.transfer(1, 0, 0, 16, 15, 0xFFFF_FFFF_FFFF_FFFF) == BAD_PARAMETER
    assert driver.do(DETACH, "I4x", 1) == OK
    assert driver.transfer(1, 0, 0, 16, 15) == UNSPECIFIED


def test_backing_in_no_memory_is_answered_and_counted(driver: GpuDriver) -> None:
    driver.create(1, 16, 16)
    driver.attach(1, [(BUFFERS, 512), (0x5000_0000, 512)])
    assert driver.transfer(1, 0, 0, 16, 16) == UNSPECIFIED
    assert driver.guest.errors == 1
    assert driver.transfer(1, 0, 0, 16, 8) == OK


def test_what_is_no_command_is_answered(driver: GpuDriver) -> None:
    assert driver.do(0x1FF) == UNSPECIFIED
    assert driver.do(TRANSFER, "4I", 0, 0, 1, 1) == UNSPECIFIED
    assert driver.do(0x106, "2I", 1, 3, more=bytes(32)) == BAD_RESOURCE
    driver.create(1, 8, 8)
    assert driver.do(0x106, "2I", 1, 3, more=bytes(32)) == UNSPECIFIED


def test_command_without_a_header_needs_a_reset(driver: GpuDriver) -> None:
    driver.guest.memory[BUFFERS : BUFFERS + 4] = pack("<I", DISPLAY_INFO)
    with pytest.raises(ValueError, match="not enough values"):
        driver.send(bytes(23))
    assert driver.needs_reset
    assert "a command of 23 bytes" in driver.guest.last_error


# --- migration ---------------------------------------------------------------------------------------------------


def test_screen_is_migrated(driver: GpuDriver) -> None:
    data = driver.show(7, 640, 400, seed=7)
    driver.update(0, 3, 4, 7)  # too large for a pointer
    driver.show(8, 32, 32, seed=8)
    driver.update(0, 3, 4, 8)
    driver.scanout(0, 7, 0, 0, 640, 400)
    with Guest(Card, "GVTg_V5_8") as other:
        other.load(driver.guest.save())
        there = driver_of(other)
        assert there.on_head() == data
        assert there.gpu.pointers == driver.gpu.pointers
        assert dict(there.gpu.entries) == dict(driver.gpu.entries)


def test_state_that_no_guest_could_make_is_left_out(driver: GpuDriver) -> None:
    from mdev_user.drivers.vgpu.resources import Resource

    driver.show(1, 16, 16, seed=1)
    for number, each in enumerate(
        [
            Resource(1, 16, 16, 64 * MiB),
            Resource(1, 16, 16, -4096),
            Resource(99, 1, 1, 0),
            Resource(1, 16, 16, 8),
            Resource(1, 16, 32, 0),  # where the first is
        ],
        2,
    ):
        driver.gpu.resources[number] = each
        driver.gpu.entries[number] = bytes(16)
    driver.gpu.entries[1] = bytes(17)
    with Guest(Card, "GVTg_V5_8") as other:
        other.load(driver.guest.save())
        there = driver_of(other)
        assert list(there.gpu.resources) == [1]
        assert list(there.gpu.entries) == []
