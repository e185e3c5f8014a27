"""What a guest's renderer costs it: each call is made in a turn of the engine, and is charged however it ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from drivers.virgl.guest_driver import SUBMIT, VirglDriver
from drivers.virgl.stream import clear
from drivers.virgl.test_rendering import PICTURE, SIDE, SIZE, Card, picture
from mdev_user.driver import GuestError, Pending
from mdev_user.driver.process import Calls
from mdev_user.drivers.vgpu import rendering
from mdev_user.drivers.vgpu.function import COMMAND
from mdev_user.drivers.vgpu.process import PIXELS_PER_SECOND, START_SECONDS, ProcessVgpu
from mdev_user.drivers.vgpu.virgl.program import Virgl
from mdev_user.errors import ProcessEnded
from mdev_user.testing import Guest
from unit.drivers.vgpu.gpu_driver import OK, UPDATE

SECONDS = 3.0


class Slow:
    """A renderer of which a test says when it has done something."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, Pending[object]]] = []
        patch.setattr(rendering, "has_renderer", lambda: True)
        patch.setattr(Virgl, "__init__", lambda _program, _memory: None)
        patch.setattr(Virgl, "unmapped", lambda _program, _address, _length: None)
        for name, answer in {"submit": "", "picture": SIZE}.items():
            patch.setattr(Virgl, name, self._answering(name, answer))
        for name in ("ready", "create_context", "create_resource", "attach_backing", "attach", "fence"):
            patch.setattr(Virgl, name, self._answering(name, None))
        self.waits: set[str] = set()
        """Calls that are not answered by themselves."""

    def _answering(self, name: str, answer: object) -> Callable[..., object]:
        def method(_program: Virgl, *_arguments: object) -> object:
            if name not in self.waits:
                return answer
            self.calls.append((name, Pending()))
            return self.calls[-1][1]

        method.__name__ = name
        return method

    def names(self) -> list[str]:
        """What waits to be answered."""
        return [name for name, _pending in self.calls]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(monkeypatch)


@pytest.fixture
def driver(slow: Slow) -> Iterator[VirglDriver]:
    """Its guest has a context and a picture, and the process runs."""
    with Guest(Card) as guest:
        driver = VirglDriver(guest)
        driver.PATIENCE = 0.0
        assert driver.context() == OK
        picture(driver)
        assert driver.submit(clear(0, 0, 0, 0)) == OK
        yield driver


@contextmanager
def cost(driver: VirglDriver) -> Iterator[list[float]]:
    """Seconds that the block is charged, once it has ended."""
    before, found = driver.gpu.drawing.given, list[float]()
    yield found
    found.append((driver.gpu.drawing.given - before - COMMAND) / PIXELS_PER_SECOND)


def begin_to_draw(driver: VirglDriver, slow: Slow) -> None:
    """A command that takes `SECONDS` and goes on."""
    slow.waits.add("fence")
    commands = clear(0, 0, 0, 0)
    driver.begin(driver.command(SUBMIT, "I4x", len(commands), more=commands))
    driver.guest.advance(SECONDS)
    assert slow.names() == ["fence"]


# --- what is charged ---------------------------------------------------------------------------------------------


def test_reset_while_the_renderer_draws_is_not_free(driver: VirglDriver, slow: Slow) -> None:
    begin_to_draw(driver, slow)
    with cost(driver) as charged:
        driver.guest.reset()
    assert charged == [pytest.approx(SECONDS)]
    assert driver.gpu.drawing.turns


def test_close_while_the_renderer_draws_is_not_free(driver: VirglDriver, slow: Slow) -> None:
    begin_to_draw(driver, slow)
    with cost(driver) as charged:
        driver.guest.close()
    assert charged == [pytest.approx(SECONDS)]
    driver.guest.open()


def test_command_that_is_refused_is_not_free(driver: VirglDriver, slow: Slow) -> None:
    begin_to_draw(driver, slow)
    with cost(driver) as charged:
        slow.calls.pop()[1].fail(GuestError("no"))
        driver.guest.run()
    assert charged == [pytest.approx(SECONDS)]


def test_command_that_ends_the_process_costs_as_long_as_it_took(driver: VirglDriver, slow: Slow) -> None:
    begin_to_draw(driver, slow)
    with cost(driver) as charged:
        driver.rendering.renderer.end()
        driver.rendering.renderer_ended(ProcessEnded("too long"))
        driver.guest.run()
    assert charged == [pytest.approx(SECONDS)]


def begin_to_start(driver: VirglDriver, slow: Slow) -> None:
    slow.waits.add("ready")
    driver.guest.reset()
    driver.start(driver.FEATURES)
    assert driver.context() == OK
    shape = PICTURE
    values = (shape.target, shape.format, shape.bind, shape.width, shape.height, 1, 1, 0, 0, 0)
    driver.begin(driver.command(0x204, "11I4x", 10, *values))
    driver.guest.run()
    assert slow.names() == ["ready"]


def test_start_that_a_reset_ends_is_not_free(driver: VirglDriver, slow: Slow) -> None:
    begin_to_start(driver, slow)
    with cost(driver) as charged:
        driver.guest.reset()
    assert charged == [pytest.approx(START_SECONDS)]


def test_start_that_is_answered_costs_what_the_process_took(driver: VirglDriver, slow: Slow) -> None:
    """Which is nothing here, where there is none; `test_real_process` has one."""
    begin_to_start(driver, slow)
    with cost(driver) as charged:
        slow.calls.pop()[1].done(None)
        driver.guest.run()
    assert charged == [pytest.approx(COMMAND / PIXELS_PER_SECOND)]  # of the command itself


def test_command_that_is_answered_costs_what_the_process_took(driver: VirglDriver, slow: Slow) -> None:
    """And not how long everybody else's programs kept it from the processor."""
    begin_to_draw(driver, slow)
    with cost(driver) as charged:
        slow.calls.pop()[1].done(None)
        driver.guest.run()
    assert charged == [0.0]


def test_reset_that_is_free_would_be_seen(driver: VirglDriver, slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr("mdev_user.driver.engine.Turn.seconds", 0.0)
    begin_to_draw(driver, slow)
    with cost(driver) as charged:
        driver.guest.reset()
    assert charged == [0.0]


# --- whose turn it is --------------------------------------------------------------------------------------------


def held_by_a_start(slow: Slow) -> int:
    """What somebody who draws beside it waits for while a process is started."""
    with Guest(Card) as guest:
        driver = VirglDriver(guest)
        slow.waits |= {"ready", "create_resource"}
        shape = PICTURE
        values = (shape.target, shape.format, shape.bind, shape.width, shape.height, 1, 1, 0, 0, 0)
        driver.begin(driver.command(0x204, "11I4x", 10, *values))
        guest.run()
        assert len(slow.calls) == 1
        return driver.gpu.backend._held


def test_start_of_a_process_holds_no_turn(slow: Slow) -> None:
    assert held_by_a_start(slow) == 0
    assert slow.names() == ["ready"]


def test_start_that_holds_one_would_be_seen(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: it is started by the call in the turn."""
    monkeypatch.setattr(Calls, "alive", True)
    assert held_by_a_start(slow) == 1
    assert slow.names() == ["create_resource"]


def pictures_while_drawing(driver: VirglDriver, slow: Slow) -> list[str]:
    """What was asked of the renderer while a command held the turn, and a head and a pointer were to be copied."""
    assert driver.scanout(0, 10, 0, 0, SIDE, SIDE) == OK
    driver.guest.advance(1)
    slow.waits.add("picture")
    begin_to_draw(driver, slow)
    driver.rendering.refresh(0)
    driver.begin(driver.command(UPDATE, "Iii4xIII4x", 0, 9, 9, 10, 0, 0), queue=1)
    driver.guest.run()
    return slow.names()


def test_copies_of_heads_and_pointers_wait_for_their_turn(driver: VirglDriver, slow: Slow) -> None:
    assert pictures_while_drawing(driver, slow) == ["fence"]
    for _turn in ("of the command", "of a copy", "of the other one"):
        ((name, pending),) = slow.calls
        slow.calls.clear()
        pending.done({"fence": None, "picture": SIZE}[name])
        driver.guest.run()
    assert slow.calls == []
    assert driver.gpu.pointers


def test_copies_out_of_turn_would_be_seen(driver: VirglDriver, slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(ProcessVgpu, "_in_turn", lambda _self, work: work())
    assert pictures_while_drawing(driver, slow) == ["fence", "picture", "picture"]


def test_copy_of_what_is_gone_when_its_turn_comes_is_not_made(driver: VirglDriver, slow: Slow) -> None:
    assert driver.scanout(0, 10, 0, 0, SIDE, SIDE) == OK
    driver.guest.advance(1)
    begin_to_draw(driver, slow)
    driver.rendering.refresh(0)
    driver.rendering._drop_3d(10)
    driver.guest.run()
    slow.waits.add("picture")
    slow.calls.pop()[1].done(None)
    driver.guest.run()
    assert slow.calls == []
    assert driver.on_head() is None


def test_copy_waits_while_the_device_stands_still(driver: VirglDriver, slow: Slow) -> None:
    """Its turn is others' meanwhile; it is asked for again, and the copy is the one of then."""
    assert driver.scanout(0, 10, 0, 0, SIDE, SIDE) == OK
    driver.guest.advance(1)
    begin_to_draw(driver, slow)
    driver.rendering.refresh(0)
    driver.guest.run()
    device = driver.guest.device
    device.paused()
    slow.calls.pop()[1].done(None)
    slow.waits = {"picture"}
    driver.guest.run()
    assert slow.names() == []
    device.resumed()
    driver.guest.run()
    assert slow.names() == ["picture"]
