"""Saved values, tables, sessions and attributes."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import pytest

from mdev_user.driver import (
    Attribute,
    DriverError,
    Function,
    GuestError,
    MdevAttribute,
    PciId,
    Profile,
    Saved,
    Session,
    Table,
    attribute,
)
from mdev_user.errors import InvalidValue, errno_of
from unit.driver.bench import Bench


class Speed(Enum):
    SLOW = 1
    FAST = 2


@dataclass(frozen=True)
class Point:
    x: int
    y: int


@dataclass
class Loose:
    x: int


class Keeper(Function[Profile]):
    identity = PciId(vendor=0x1DE5, device=3, class_code=0x120000)
    point = Saved[Point | None](None)
    table = Table[int, Point](limit=2)
    cache = Session(dict[int, int])
    clock = Attribute(100, unit="MHz", range=(10, 400), group="engine")
    label = Attribute("none")
    turbo = Attribute(initial=False, group="engine")
    speed = Attribute(Speed.SLOW)
    version = Attribute(3, writable=False)

    @attribute(group="engine")
    def doubled(self) -> int:
        return 2 * self.clock


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    bench = Bench(Keeper)
    assert isinstance(bench.device.function, Keeper)
    yield bench.device.function
    bench.close()


def test_saved_takes_frozen_values_only() -> None:
    for value in (1, b"", "x", None, Speed.SLOW, (1, (2, "x")), frozenset({1}), Point(1, 2), 1.5):
        Saved(value)
    mutable: tuple[object, ...] = ([], {}, bytearray(1), Loose(1), (1, []), Loose)
    for loose in mutable:
        with pytest.raises(DriverError, match="Saved: expected a frozen value"):
            Saved(loose)


def test_values_are_of_one_device() -> None:
    one, other = Bench(Keeper).device.function, Bench(Keeper).device.function
    assert isinstance(one, Keeper)
    assert isinstance(other, Keeper)
    one.point, one.table[1], one.cache[1], one.clock = Point(1, 2), Point(3, 4), 5, 200
    assert (other.point, dict(other.table), other.cache, other.clock) == (None, {}, {}, 100)


def test_table_is_a_dictionary_with_an_end(keeper: Keeper) -> None:
    keeper.table[1] = Point(1, 1)
    keeper.table[2] = Point(2, 2)
    keeper.table[2] = Point(0, 0)
    with pytest.raises(GuestError, match="table has 2 entries, its limit; 3 was not added"):
        keeper.table[3] = Point(3, 3)
    del keeper.table[1]
    assert (len(keeper.table), list(keeper.table), repr(keeper.table)) == (1, [2], "table: {2: Point(x=0, y=0)}")
    with pytest.raises(DriverError, match="table: an entry: expected a frozen value, of type Point, given Loose"):
        keeper.table[1] = Loose(1)  # type: ignore[assignment]  # the mistake


def test_session_needs_a_maker() -> None:
    with pytest.raises(DriverError, match="Session: expected what makes the object"):
        Session([])  # type: ignore[arg-type]  # the mistake


FILES = {
    "clock": MdevAttribute("engine", "clock", writable=True),
    "label": MdevAttribute("", "label", writable=True),
    "turbo": MdevAttribute("engine", "turbo", writable=True),
    "speed": MdevAttribute("", "speed", writable=True),
    "version": MdevAttribute("", "version"),
    "doubled": MdevAttribute("engine", "doubled"),
}


def test_attributes_are_files_in_their_group() -> None:
    assert {each._name: each._mdev_attribute for each in Keeper._plan.attributes} == FILES


@pytest.mark.parametrize(
    ("name", "shown", "written", "after"),
    [
        ("clock", "100\n", b"0x20\n", "32\n"),
        ("label", "none\n", b" a name \n", "a name\n"),
        ("turbo", "0\n", b"y\n", "1\n"),
        ("speed", "slow\n", b"Fast", "fast\n"),
    ],
)
def test_attribute_is_read_and_written_as_text(
    keeper: Keeper, name: str, shown: str, written: bytes, after: str
) -> None:
    file = keeper._device.attribute(FILES[name])
    assert file._show(keeper) == shown
    file._store(keeper, written)
    assert file._show(keeper) == after


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        ("clock", b"fast", "clock: expected a number, given 'fast'"),
        ("clock", b"9", "clock: expected 10 to 400 MHz, given 9"),
        ("turbo", b"maybe", "turbo: unknown value 'maybe'"),
        ("speed", b"fsat", "speed: unknown value 'fsat'; did you mean fast?"),
        ("version", b"4", "version cannot be written"),
        ("doubled", b"4", "doubled cannot be written"),
        ("clock", b"\xff\xfe", "clock: expected a number"),
    ],
)
def test_wrong_text_is_refused_and_changes_nothing(keeper: Keeper, name: str, written: bytes, message: str) -> None:
    file = keeper._device.attribute(FILES[name])
    before = file._show(keeper)
    with pytest.raises(InvalidValue) as raised:
        file._store(keeper, written)
    assert message in str(raised.value)
    assert errno_of(raised.value) == errno.EINVAL
    assert file._show(keeper) == before


def test_attributes_outlive_resets_and_users() -> None:
    bench = Bench(Keeper)
    made = bench.device.function
    assert isinstance(made, Keeper)
    made.clock = 300
    made.point = Point(1, 1)
    bench.reset()
    assert (made.clock, repr(made.point), made.doubled) == (300, "None", 600)
    bench.close()
    bench.open()
    assert made.clock == 300


@pytest.mark.parametrize("wrong", [{"initial": 1.5}, {"initial": 5, "range": (10, 20)}])
def test_attribute_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(DriverError, match="Attribute: expected an"):
        Attribute(**wrong)  # type: ignore[arg-type]  # the mistake
