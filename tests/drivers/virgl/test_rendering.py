"""The 3D commands of vgpu, by a driver in memory and the real library: what is drawn, charged, refused and lost."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from struct import pack, unpack_from
from typing import Any

import pytest

from core import core_skip
from drivers.virgl.guest_driver import (
    CAPSET_INFO,
    CREATE_3D,
    DESTROY,
    FROM_HOST,
    LEAVE,
    SUBMIT,
    TO_HOST,
    VirglDriver,
)
from drivers.virgl.stream import BGRA, clear, target
from mdev_user.driver import PAGE, MiB, Pending
from mdev_user.drivers.vgpu import card, rendering
from mdev_user.drivers.vgpu.card import gvtg
from mdev_user.drivers.vgpu.commands import Answered
from mdev_user.drivers.vgpu.entries import SMALLEST
from mdev_user.drivers.vgpu.rendering import RenderingVgpu
from mdev_user.drivers.vgpu.virgl.binding import missing
from mdev_user.drivers.vgpu.virgl.program import Virgl
from mdev_user.drivers.vgpu.virgl.renderer import MOST_CONTEXTS
from mdev_user.drivers.vgpu.virgl.shape import Box, Shape, Target
from mdev_user.errors import ProcessEnded, Unmigratable
from mdev_user.testing import Guest
from unit.drivers.vgpu.gpu_driver import ANSWER, FENCE, OK, GpuDriver

BAD_RESOURCE, BAD_PARAMETER = Answered.ERR_INVALID_RESOURCE_ID, Answered.ERR_INVALID_PARAMETER
BAD_CONTEXT, BAD_HEAD = Answered.ERR_INVALID_CONTEXT_ID, Answered.ERR_INVALID_SCANOUT_ID
NO_MEMORY, UNSPECIFIED = Answered.ERR_OUT_OF_MEMORY, Answered.ERR_UNSPEC
CONTEXT = 7
"""That of all commands of the driver."""
SIDE = 64
SIZE = SIDE * SIDE * 4
PICTURE = Shape(Target.TEXTURE_2D, BGRA, 2 | 8, SIDE, SIDE, 1, 1, 0, 0, 0)
WHOLE = Box(0, 0, 0, SIDE, SIDE, 1)
ORANGE, BLUE = bytes.fromhex("4080ffff"), bytes.fromhex("ff0000ff")
HIGH = 2 * MiB


class Card(card.Card):
    """With little graphics memory for 3D, so that it is soon used up."""

    types = {"small": gvtg(8, low=2, high=HIGH // MiB, resolution=(320, 240))}


@pytest.fixture(scope="module", autouse=True)
def _library() -> None:
    if reason := missing():
        core_skip(reason)


@pytest.fixture
def driver() -> Iterator[VirglDriver]:
    """Its guest has a context."""
    with Guest(Card) as guest:
        driver = VirglDriver(guest)
        assert driver.context() == OK
        yield driver


def picture(driver: VirglDriver, number: int = 10) -> list[tuple[int, int]]:
    """A resource that the context may draw into; its memory."""
    pieces = driver.scattered(SIZE)
    assert driver.create_3d(number, PICTURE) == OK
    assert driver.attach(number, pieces) == OK
    assert driver.use(number) == OK
    return pieces


def orange(driver: VirglDriver, number: int = 10) -> None:
    assert driver.submit(target(number) + clear(1, 0.5, 0.25, 1)) == OK


def memory(driver: VirglDriver, pieces: list[tuple[int, int]]) -> bytes:
    return b"".join(bytes(driver.guest.memory[address : address + length]) for address, length in pieces)


# --- drawing ----------------------------------------------------------------------------------------------------


def test_what_was_drawn_is_in_the_guests_memory(driver: VirglDriver) -> None:
    pieces = picture(driver)
    orange(driver)
    assert memory(driver, pieces) == bytes(SIZE)
    assert driver.copy(FROM_HOST, 10, WHOLE) == OK
    assert memory(driver, pieces) == ORANGE * (SIDE * SIDE)


def test_what_the_guest_has_is_drawn(driver: VirglDriver) -> None:
    pieces = picture(driver)
    driver.fill(pieces, BLUE * (SIDE * SIDE))
    assert driver.copy(TO_HOST, 10, Box(0, 0, 0, SIDE, SIDE // 2, 1)) == OK
    driver.fill(pieces, bytes(SIZE))
    assert driver.copy(FROM_HOST, 10, WHOLE) == OK
    assert memory(driver, pieces) == BLUE * (SIDE * SIDE // 2) + bytes(SIZE // 2)


def test_a_head_shows_what_was_drawn_when_it_was_flushed(driver: VirglDriver) -> None:
    picture(driver)
    orange(driver)
    assert driver.scanout(0, 10, 0, 0, SIDE, SIDE) == OK
    assert driver.on_head() == ORANGE * (SIDE * SIDE)
    assert driver.submit(clear(0, 0, 1, 1)) == OK
    assert driver.on_head() == ORANGE * (SIDE * SIDE)
    assert driver.flush(10, 0, 0, SIDE, SIDE) == OK
    assert driver.on_head() == BLUE * (SIDE * SIDE)


def test_a_head_shows_a_part_and_then_something_else(driver: VirglDriver) -> None:
    pieces = picture(driver)
    lines = b"".join(bytes([row, 0, 0, 255]) * SIDE for row in range(SIDE))
    driver.fill(pieces, lines)
    assert driver.copy(TO_HOST, 10, WHOLE) == OK
    assert driver.scanout(1, 10, 8, 4, 32, 16) == OK
    assert driver.on_head(1) == b"".join(bytes([row, 0, 0, 255]) * 32 for row in range(4, 20))
    flat = driver.show(20, 16, 16, seed=3, head=1)
    assert driver.on_head(1) == flat
    assert driver.scanout(1, 10, 0, 0, SIDE, SIDE) == OK
    assert driver.on_head(1) == lines
    assert driver.unref(10) == OK
    assert driver.on_head(1) is None


def test_a_copy_that_comes_too_late_is_not_shown(driver: VirglDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head shows a picture of 2D by then."""
    picture(driver)
    flat = driver.show(20, SIDE, SIDE, seed=3, head=1)
    copies: list[Pending[int]] = []

    def copy(_program: Virgl, _resource: int, _box: Box, _at: int) -> Pending[int]:
        copies.append(Pending[int]())
        return copies[-1]

    copy.__name__ = "picture"
    monkeypatch.setattr(Virgl, "picture", copy)
    assert driver.scanout(1, 10, 0, 0, SIDE, SIDE) == OK
    assert driver.scanout(1, 20, 0, 0, SIDE, SIDE) == OK
    copies.pop().done(SIZE)
    driver.guest.advance(1)
    assert driver.on_head(1) == flat


def test_what_is_too_large_for_its_place_is_refused(driver: VirglDriver) -> None:
    """The place is for twice the pixels of the type's monitor."""
    assert driver.create_3d(10, replace(PICTURE, width=640, height=241)) == OK
    assert driver.scanout(0, 10, 0, 0, 640, 240) == OK
    assert len(driver.on_head() or b"") == 640 * 240 * 4
    assert driver.scanout(0, 10, 0, 0, 640, 241) == BAD_PARAMETER
    assert len(driver.on_head() or b"") == 640 * 240 * 4


def test_a_pointer_is_a_3d_resource(driver: VirglDriver) -> None:
    picture(driver)
    orange(driver)
    driver.show(20, 16, 16, seed=3)
    assert driver.update(0, 5, 6, 10, 1, 2) == OK
    shown = driver.gpu.picture(0)
    assert shown is not None
    assert shown.pointer is not None
    assert bytes(shown.pointer.image.pixels) == ORANGE * (SIDE * SIDE)
    assert (shown.pointer.hot_x, shown.pointer.hot_y) == (1, 2)


# --- what the renderer can do -----------------------------------------------------------------------------------


def test_capability_sets_are_told_without_a_process_that_stays() -> None:
    with Guest(Card) as guest:
        driver = VirglDriver(guest)
        assert guest.read_bytes(2, 12, 4) == b"\x02\0\0\0"
        assert [driver.capset_info(place)[:2] for place in range(3)] == [(1, 1), (2, 2), (0, 0)]
        contents = driver.capset(2, 1)
        assert len(contents) == driver.capset_info(1)[2]
        assert unpack_from("<I", contents, 692) == (HIGH // MiB,)
        assert driver.do(0x109, "2I", 4, 0) == BAD_PARAMETER
        assert not driver.rendering.renderer.alive


def test_guest_that_does_not_take_the_feature_has_no_3d() -> None:
    with Guest(Card) as guest:
        driver = GpuDriver(guest)
        assert driver.do(0x200, "2I64x", 0, 0) == UNSPECIFIED
        assert driver.do(0x108, "I4x", 0) == UNSPECIFIED


def test_nothing_is_offered_where_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "has_renderer", lambda: False)
    with Guest(Card) as guest:
        driver = GpuDriver(guest)
        assert guest.read_bytes(2, 12, 4) == bytes(4)
        assert not driver.negotiate(VirglDriver.FEATURES)
        assert driver.negotiate(GpuDriver.FEATURES)


# --- the quota --------------------------------------------------------------------------------------------------


def fill_up(driver: VirglDriver) -> list[Answered]:
    """Quarters of the quota, and the smallest resource that there is."""
    quarter = replace(PICTURE, width=HIGH // 4 // 4 // 64, height=64)
    answers = [driver.create_3d(number, quarter) for number in range(1, 5)]
    return [*answers, driver.create_3d(5, replace(PICTURE, width=1, height=1))]


def test_quota_is_exact(driver: VirglDriver) -> None:
    assert fill_up(driver) == [OK, OK, OK, OK, NO_MEMORY]
    assert driver.guest.show("vgpu/high_gm_used") == str(HIGH)
    assert driver.unref(2) == OK
    assert driver.create_3d(5, replace(PICTURE, width=1, height=1)) == OK
    assert driver.create_3d(6, replace(PICTURE, width=HIGH // 4 // 4 // 64, height=64)) == NO_MEMORY
    assert driver.create_3d(6, replace(PICTURE, width=HIGH // 4 // 4 // 64, height=63)) == OK


def test_quota_that_charges_nothing_would_be_seen(driver: VirglDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(Shape, "charged", 0)
    assert fill_up(driver)[-1] == OK


# --- refusals ---------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_refused(driver: VirglDriver) -> None:
    picture(driver)
    assert driver.context() == BAD_CONTEXT  # a second time
    assert driver.use(99) == driver.do(LEAVE, "I4x", 99) == BAD_RESOURCE
    assert driver.copy(TO_HOST, 99, WHOLE) == driver.copy(FROM_HOST, 99, WHOLE) == BAD_RESOURCE
    assert driver.create_3d(10, PICTURE) == driver.create_3d(0, PICTURE) == BAD_RESOURCE
    assert driver.create(10, 16, 16) == BAD_RESOURCE
    assert driver.create_3d(11, replace(PICTURE, format=9999)) == BAD_PARAMETER
    assert driver.create_3d(11, replace(PICTURE, bind=0)) == UNSPECIFIED  # the library's word
    assert driver.copy(TO_HOST, 10, replace_box(width=SIDE + 1)) == BAD_PARAMETER
    assert driver.copy(TO_HOST, 10, replace_box(z=0x8000_0000)) == BAD_PARAMETER
    assert driver.copy(TO_HOST, 10, WHOLE, level=1) == BAD_PARAMETER
    assert driver.copy(TO_HOST, 10, WHOLE, offset=4) == UNSPECIFIED  # and so is the end of the memory
    assert driver.transfer(10, 0, 0, SIDE, SIDE) == BAD_RESOURCE
    assert driver.scanout(0, 10, 1, 0, SIDE, SIDE) == driver.flush(10, 0, 1, SIDE, SIDE) == BAD_PARAMETER
    assert driver.scanout(4, 10, 0, 0, SIDE, SIDE) == driver.update(4, 0, 0, 10) == BAD_HEAD
    assert driver.attach(10, driver.scattered(SIZE)) == UNSPECIFIED  # a second backing
    assert driver.do(SUBMIT, "I4x", 0x1000_0000) == BAD_PARAMETER
    assert driver.do(CREATE_3D, "") == UNSPECIFIED
    assert driver.do(DESTROY) == OK
    assert driver.do(DESTROY) == driver.submit(clear(0, 0, 0, 0)) == driver.use(10) == BAD_CONTEXT


def replace_box(**changes: int) -> Box:
    return WHOLE._replace(**changes)


def test_entries_are_made_sense_of_in_the_process(driver: VirglDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go there as they are: a guest has many."""
    first, *pieces = driver.scattered(SIZE)
    tiny = [first, (first[0], SMALLEST - 1), *pieces]
    given: list[bytes] = []
    attach = Virgl.attach_backing

    def attach_backing(program: Virgl, resource: int, entries: bytes) -> None:
        given.append(entries)
        attach(program, resource, entries)

    monkeypatch.setattr(Virgl, "attach_backing", attach_backing)
    assert driver.create_3d(10, PICTURE) == OK
    assert driver.attach(10, tiny) == UNSPECIFIED
    assert driver.attach(10, [first, *pieces]) == OK
    assert given == [entries(tiny), entries([first, *pieces])]
    assert driver.rendering.attached == {10: 1 + len(pieces)}


def entries(pieces: list[tuple[int, int]]) -> bytes:
    return b"".join(pack("<QI4x", *each) for each in pieces)


def test_memory_that_is_not_there_is_refused(driver: VirglDriver) -> None:
    assert driver.create_3d(10, PICTURE) == OK
    assert driver.attach(10, [(1 << 40, SIZE)]) == UNSPECIFIED
    assert driver.use(10) == OK
    assert driver.copy(FROM_HOST, 10, WHOLE) == UNSPECIFIED


def test_commands_that_make_no_sense_are_refused(driver: VirglDriver) -> None:
    picture(driver)
    assert driver.submit(b"\xff" * 64) == UNSPECIFIED
    assert not driver.guest.refused
    orange(driver)


def test_contexts_are_counted_before_there_is_a_process(driver: VirglDriver) -> None:
    command = driver.command(0x200, "2I64x", 0, 0)
    answers = [
        unpack_from("<I", driver.send(command[:16] + number.to_bytes(4, "little") + command[20:]))[0]
        for number in range(MOST_CONTEXTS + 2)
    ]
    assert answers == [OK if number not in {0, CONTEXT} else BAD_CONTEXT for number in range(MOST_CONTEXTS + 1)] + [
        NO_MEMORY
    ]
    assert not driver.rendering.renderer.alive


def test_resources_of_2d_are_attached_to_contexts_and_nothing_comes_of_it(driver: VirglDriver) -> None:
    """Linux does so for every framebuffer of a program's: the renderer is not started for it."""
    driver.show(20, 16, 16, seed=3)
    assert driver.use(20) == OK
    assert driver.do(LEAVE, "I4x", 20) == OK
    assert driver.copy(TO_HOST, 20, WHOLE) == BAD_RESOURCE
    assert not driver.rendering.renderer.alive


# --- fences -----------------------------------------------------------------------------------------------------


def test_fenced_command_comes_back_when_its_fence_has_passed(
    driver: VirglDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(driver)
    fences: list[Pending[None]] = []

    def fence(_program: Virgl) -> Pending[None]:
        fences.append(Pending[None]())
        return fences[-1]

    monkeypatch.setattr(Virgl, "fence", fence)
    driver.begin(driver.command(SUBMIT, "I4x", 32, more=target(10)[:32], fence=77))
    driver.guest.run()
    for _wait in ("for what was drawn", "for all before it"):
        assert driver.rings[0].taken() == []
        fences.pop().done(None)
        driver.guest.run()
    ((_head, written),) = driver.came()
    answer = driver.guest.memory[ANSWER : ANSWER + written]
    assert unpack_from("<IIQI", answer) == (OK, FENCE, 77, CONTEXT)


def test_fences_pass_by_themselves(driver: VirglDriver) -> None:
    picture(driver)
    orange(driver)
    driver.PATIENCE = 0.0
    for number in range(20):
        data = driver.command(SUBMIT, "I4x", 36, more=clear(1, 0, 0, 1), fence=number)
        assert unpack_from("<IIQI", driver.send(data)) == (OK, FENCE, number, CONTEXT)


def test_fences_are_asked_for_where_no_thread_tells_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRGL_DISABLE_MT", "1")
    with Guest(Card) as guest:
        driver = VirglDriver(guest)
        assert driver.context() == OK
        picture(driver)
        orange(driver)
        driver.PATIENCE = 0.01
        for number in range(5):
            data = driver.command(SUBMIT, "I4x", 36, more=clear(1, 0, 0, 1), fence=number)
            assert unpack_from("<IIQI", driver.send(data)) == (OK, FENCE, number, CONTEXT)


# --- the end of the process -------------------------------------------------------------------------------------


def die(_program: Virgl, _context: int, _commands: bytes) -> str:
    """In place of `Virgl.submit`."""
    raise RuntimeError("a bug")


die.__name__ = "submit"


def test_death_of_the_renderer_loses_what_it_had_and_nothing_more(
    driver: VirglDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(driver)
    flat = driver.show(20, 16, 16, seed=3, head=1)
    assert driver.scanout(0, 10, 0, 0, SIDE, SIDE) == OK
    with monkeypatch.context() as patch:
        patch.setattr(Virgl, "submit", die)
        assert driver.submit(clear(0, 0, 0, 0)) == UNSPECIFIED
    assert not driver.rendering.renderer.alive
    assert driver.on_head(0) is None
    assert driver.on_head(1) == flat
    assert driver.copy(FROM_HOST, 10, WHOLE) == driver.create_3d(10, PICTURE) == BAD_RESOURCE
    assert driver.rendering.shapes.used == 0
    assert driver.unref(10) == OK
    assert driver.unref(10) == BAD_RESOURCE
    pieces = picture(driver)
    orange(driver)
    assert driver.copy(FROM_HOST, 10, WHOLE) == OK
    assert memory(driver, pieces) == ORANGE * (SIDE * SIDE)


def test_death_of_the_renderer_is_counted(driver: VirglDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(driver)
    monkeypatch.setattr(Virgl, "submit", die)
    assert driver.submit(clear(0, 0, 0, 0)) == UNSPECIFIED
    assert any(isinstance(each, ProcessEnded) for each in driver.guest.refused)


def test_death_while_a_command_is_answered_changes_no_account(
    driver: VirglDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process has done what it was asked for, and is gone before the guest has the answer."""
    gpu, finish = driver.rendering, RenderingVgpu._finish

    def die_first(self: RenderingVgpu, *arguments: Any) -> None:
        self.renderer.end()
        self.renderer_ended(ProcessEnded("it died"))
        finish(self, *arguments)

    for death in range(5):
        number = 10 + death
        steps: list[Callable[[], Answered]] = [
            partial(driver.create_3d, number, PICTURE),
            partial(driver.attach, number, driver.scattered(SIZE)),
            partial(driver.do, 0x107, "I4x", number),
            partial(driver.scanout, 0, number, 0, 0, SIDE, SIDE),
            partial(driver.unref, number),
        ]
        for at, step in enumerate(steps[: death + 1]):
            with monkeypatch.context() as patch:
                if at == death:
                    patch.setattr(RenderingVgpu, "_finish", die_first)
                assert step() == OK
        assert not gpu.shapes
        assert not gpu.shapes.used
        assert not gpu.attached
        assert driver.on_head(0) is None
        assert driver.unref(number) == (BAD_RESOURCE if death == 4 else OK)
    assert not gpu.lost


def test_renderer_that_does_not_start_is_an_answer(driver: VirglDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_program: Virgl, _memory: int) -> None:
        raise OSError("no libraries")

    monkeypatch.setattr(Virgl, "__init__", fail)
    assert driver.create_3d(10, PICTURE) == UNSPECIFIED
    assert driver.do(CAPSET_INFO, "I4x", 0) == UNSPECIFIED


def test_reset_leaves_nothing(driver: VirglDriver) -> None:
    picture(driver)
    driver.guest.reset()
    again = VirglDriver(driver.guest, memory=driver.memory(PAGE) + PAGE)
    assert not again.rendering.renderer.alive
    assert again.submit(clear(0, 0, 0, 0)) == BAD_CONTEXT
    assert again.context() == OK
    pieces = picture(again)
    assert again.copy(FROM_HOST, 10, WHOLE) == OK
    assert memory(again, pieces) == bytes(SIZE)


def test_unmapped_memory_is_not_used_any_more(driver: VirglDriver) -> None:
    pieces = picture(driver)
    orange(driver)
    driver.guest.unmap(*pieces[2])
    assert driver.copy(FROM_HOST, 10, WHOLE) == UNSPECIFIED
    assert driver.do(0x107, "I4x", 10) == OK
    fresh = driver.scattered(SIZE)
    assert driver.attach(10, fresh) == OK
    assert driver.copy(FROM_HOST, 10, WHOLE) == OK
    assert memory(driver, fresh) == ORANGE * (SIDE * SIDE)


# --- migration --------------------------------------------------------------------------------------------------


def test_contexts_without_a_renderer_are_migrated(driver: VirglDriver) -> None:
    """Linux creates one for each program that has as much as a framebuffer."""
    driver.show(20, 16, 16, seed=3)
    state = driver.guest.save()
    with Guest(Card) as other:
        other.load(state)
        function = other.device.function
        assert isinstance(function, RenderingVgpu)
        assert dict(function.contexts) == {CONTEXT: b"test"}


def test_what_the_renderer_has_is_not_migrated(driver: VirglDriver) -> None:
    picture(driver)
    with pytest.raises(Unmigratable, match="renderer"):
        driver.guest.save()
