"""Two devices that should be one: what is told of the first difference, and of none."""

from typing import Any

import pytest
from msgspec.structs import replace

from drivers.everything import Card, Everything
from mdev_user.testing.conformance.comparison import same_ever_after
from mdev_user.testing.conformance.operations import Advance, Finding, Operation, Poke, Read, Setting, Step, Write
from mdev_user.testing.conformance.player import Player
from mdev_user.testing.conformance.states import difference
from mdev_user.testing.conformance.tasks import Explore, Explored, Moved, Played, Point, Resume, perform

# Newer Pythons warn of a fork beside threads that other tests have left; what is copied here takes no lock.
pytestmark = pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")

SETTING = Setting("two")
BEFORE: tuple[Operation, ...] = (
    Poke(0x1000, b"data"), Write(0, 0x10, b"\0\x10" + bytes(6)), Write(0, 0x1C, b"\1\0\0\0"), Step(2),
    Write(0, 0x1C, b"\2\0\0\0"), Advance(20_000),
)  # fmt: skip
AFTER: tuple[Operation, ...] = (Advance(200_000), Read(0, 0x24, 4))


@pytest.fixture
def point() -> Point:
    reply = perform(Card, Explore(SETTING, BEFORE, AFTER, 0))
    assert isinstance(reply, Explored)
    return reply.points[-1]


def resumed(point: Point, **changes: Any) -> Played:  # Any: of the parts of a Played
    reply = perform(Card, Resume(SETTING, moved(point).checkpoint, AFTER))
    assert isinstance(reply, Played)
    values = {name: changes.get(name, getattr(reply, name)) for name in Played.__struct_fields__}
    return Played(**values)


def moved(point: Point) -> Moved:
    assert isinstance(point.outcome, Moved)
    return point.outcome


def went(point: Point) -> Played:
    return moved(point).played


def told(point: Point, other: Played | Finding) -> str:
    finding = same_ever_after(point, went(point), other, len(AFTER))
    return "" if finding is None else finding.text


def test_device_that_was_loaded_in_the_midst_of_two_jobs_is_the_same(point: Point) -> None:
    assert told(point, resumed(point)) == ""
    assert any(seen.answer for seen in went(point).seen)


def test_first_difference_is_told_with_what_led_to_it(point: Point) -> None:
    good = resumed(point)
    seen = list(good.seen)
    seen[2] = type(seen[2])(answer=b"other", memory=seen[2].memory, pin=seen[2].pin)
    finding = same_ever_after(point, went(point), resumed(point, seen=tuple(seen)), len(AFTER))
    assert finding is not None
    assert "at Read(region=0, offset=36, count=4), answer is b'other'" in finding.text
    assert (finding.before, finding.after) == (point.done, AFTER)


def test_finding_of_the_loaded_device_is_told(point: Point) -> None:
    assert "saved and loaded: broken" in told(point, Finding("broken"))


def test_states_are_compared_by_name(point: Point) -> None:
    player = Player(Card, SETTING)
    player.load(moved(point).checkpoint)
    function = player.guest.device.function
    assert isinstance(function, Everything)
    same = player.guest.device.save()
    function.total += 1
    function.ports[1].regs.level = 5
    other = player.guest.device.save()
    assert difference(same, same) == ""
    assert difference(same, other) == "ports[1].regs.level is 0x5, not as after a reset"
    assert "when its jobs have run, ports[1].regs.level" in told(point, resumed(point, rested=other))
    assert "saved again at once: ports[1].regs.level" in told(point, resumed(point, again=other))
    changed = same_ever_after(point, replace(went(point), again=other), resumed(point), len(AFTER))
    assert changed is not None
    assert "has changed by it: ports[1].regs.level" in changed.text


def test_jobs_and_sleep_are_compared(point: Point) -> None:
    state = point.state
    player = Player(Card, SETTING)
    player.load(moved(point).checkpoint)
    player.guest.advance(0.25)
    assert "has slept" in difference(state, player.guest.device.save()) or "jobs" in difference(
        state, player.guest.device.save()
    )
