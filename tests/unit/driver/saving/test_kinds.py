"""The types of saved values: derived when a class is created, and held to when a value is set."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag
from math import isnan
from typing import Any

import msgspec
import pytest

from mdev_user.driver import DriverError, Function, PciId, Profile, Saved, StateError, Table, job
from mdev_user.driver.saving.kinds import Annotation, Kind, encoded, type_of
from unit.driver.bench import Bench

ID = PciId(vendor=0x1DE5, device=9, class_code=0x120000)


class Color(Enum):
    RED = 1
    BLUE = 2


class Bits(IntFlag):
    ONE = 1
    TWO = 2


class Odd(Enum):
    PAIR = (1, 2)


class Small(IntEnum):
    ONE = 1


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0


@dataclass(frozen=True)
class Deep(Point):
    z: int = 0


@dataclass(frozen=True)
class Loose:
    x: list[int]


@dataclass
class Changing:
    x: int


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, -(1 << 63)),
        (int, (1 << 64) - 1),
        (int | None, None),
        (float, 1.5),
        (str, "é"),
        (bytes, b"\xff"),
        (bool, True),
        (Color, Color.BLUE),
        (Bits, Bits.ONE | Bits.TWO),
        (Point | None, Point(1, 2.0)),
        (tuple[int, ...], (1, 2)),
        (tuple[int, Point], (1, Point(2))),
        (frozenset[str], frozenset("ab")),
    ],
)
def test_value_comes_back_as_it_was(annotation: Annotation, value: object) -> None:
    kind = Kind("Crc.total", annotation)
    kept = kind.checked(value)
    assert (kept, type(kept)) == (value, type(value))
    assert kind.decode(encoded(kept)) == value


def test_nan_can_be_set() -> None:
    kept = Kind("Crc.total", tuple[float, ...]).checked((float("nan"),))
    assert isinstance(kept, tuple)
    assert isnan(kept[0])


@pytest.mark.parametrize(("annotation", "value", "kept"), [(int, True, 1), (int, Small.ONE, 1), (float, 2, 2.0)])
def test_value_that_a_type_checker_lets_through_is_kept_as_its_type_says(
    annotation: Annotation, value: object, kept: object
) -> None:
    made = Kind("Crc.total", annotation).checked(value)
    assert (made, type(made)) == (kept, type(kept))


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, 1 << 64, "Crc.total: 18446744073709551616 does not fit in 64 bits; say how it wraps"),
        (int, "x", "Crc.total: expected int (an int has 64 bits), given 'x'"),
        (int | None, -(1 << 63) - 1, "does not fit in 64 bits"),
        (str, "\ud800", "expected str (an int has 64 bits), given '\\ud800'"),
        (bytes, bytearray(1), "expected a frozen value, of type bytes, given bytearray"),
        (Point, Deep(1, 2.0, 3), "expected Point (an int has 64 bits), given Deep"),
        (Point, Point(1 << 64), "expected Point (an int has 64 bits), given Point"),
        (tuple[int, ...], [1], "expected a frozen value, of type tuple[int, ...], given [1]"),
        (tuple[int, int], (1, 2, 3), "expected tuple[int, int]"),
    ],
)
def test_value_that_could_not_be_saved_is_the_drivers_mistake(
    annotation: Annotation, value: object, message: str
) -> None:
    with pytest.raises(DriverError) as raised:
        Kind("Crc.total", annotation).checked(value)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "annotation", [list[int], dict, object, tuple, Odd, Loose, Changing, int | Small, Point | Deep]
)
def test_type_that_cannot_be_saved_is_told(annotation: Annotation) -> None:
    with pytest.raises(DriverError, match=r"Crc\.total: .*cannot be saved: "):
        Kind("Crc.total", annotation)


@pytest.mark.parametrize(
    ("annotation", "data", "message"),
    [
        (int, encoded("x"), "Crc.total: expected int: Expected `int`, got `str`"),
        (int, encoded(True), "got `bool`"),
        (bytes, encoded("aGk="), "expected bytes"),
        (Color, encoded(7), "Invalid enum value 7"),
        (Point, encoded({"x": 1, "why": 2}), "Crc.total: Point has no 'why'"),
        (Point, encoded({"y": 1.0}), "missing required field `x`"),
        (tuple[int, ...], b"\xdd\xff\xff\xff\xff", "truncated"),
        (int, b"", "truncated"),
        (str, b"\xa1\xff", "expected str"),
        (str, b"\xc7\x01\x05a", "expected str"),
    ],
)
def test_hostile_bytes_are_no_value(annotation: Annotation, data: bytes, message: str) -> None:
    with pytest.raises(StateError) as raised:
        Kind("Crc.total", annotation).decode(data)
    assert message in str(raised.value)


def test_fields_that_a_state_lacks_have_their_default() -> None:
    assert Kind("Crc.total", Point).decode(encoded({"x": 1})) == Point(1)


def test_equal_sets_give_equal_bytes() -> None:
    names = [f"name{number}" for number in range(50)]
    assert encoded(frozenset(names)) == encoded(frozenset(reversed(names))) == encoded(sorted(names))
    assert msgspec.msgpack.encode(names) != encoded(frozenset(names))  # they are sorted, not as they came


def test_type_of_an_initial_value() -> None:
    assert type_of("total", (1, (b"", Color.RED))) == tuple[int, tuple[bytes, Color]]
    assert type_of("total", frozenset({1, 2})) == frozenset[int]
    assert type_of("total", Point(1)) is Point


def empty_tuple() -> None:
    class _Wrong(Function[Profile]):
        identity = ID
        total = Saved(())


def nothing() -> None:
    class _Wrong(Function[Profile]):
        identity = ID
        total = Saved(None)


def mixed_set() -> None:
    class _Wrong(Function[Profile]):
        identity = ID
        total = Saved(frozenset({1, "x"}))


def table_of_anything() -> None:
    class _Wrong(Function[Profile]):
        identity = ID
        total = Table(limit=4)  # type: ignore[var-annotated]  # the mistake


def wrong_in_brackets() -> None:
    class _Wrong(Function[Profile]):
        identity = ID
        total = Saved[Loose | None](None)


def job_of_lists() -> None:
    class _Wrong(Function[Profile]):
        identity = ID

        @job()
        async def work(self, values: list[int]) -> None: ...


def job_of_anything() -> None:
    class _Wrong(Function[Profile]):
        identity = ID

        @job()
        async def work(self, value) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001 - the mistake


def job_of_many() -> None:
    class _Wrong(Function[Profile]):
        identity = ID

        @job()
        async def work(self, *values: int) -> None: ...


def job_of_nobody_knows() -> None:
    class _Wrong(Function[Profile]):
        identity = ID

        @job()
        async def work(self, value: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821 - the mistake


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (empty_tuple, "_Wrong.total: () does not say what is in it: write Saved[tuple[int, ...]](())"),
        (nothing, "_Wrong.total: None does not say what else it can be: write Saved[int | None](None)"),
        (mixed_set, "_Wrong.total: it does not say what is in it: write Saved[frozenset[int]](frozenset())"),
        (table_of_anything, "_Wrong.total: say what is in it: Table[int, bytes](limit=4)"),
        (wrong_in_brackets, "_Wrong.total: list[int] cannot be saved"),
        (job_of_lists, "_Wrong.work: values: list[int] cannot be saved"),
        (job_of_anything, "_Wrong.work: value: a job's arguments are saved: say of which type it is"),
        (job_of_many, "_Wrong.work: *values: int: a job's arguments are saved by name"),
        (job_of_nobody_knows, "_Wrong.work: name 'Nowhere' is not defined: the types of what is saved are needed"),
    ],
)
def test_mistake_is_told_when_the_class_is_created(declare: Callable[[], None], message: str) -> None:
    with pytest.raises(DriverError) as raised:
        declare()
    assert message in str(raised.value)


class Keeper(Function[Profile]):
    identity = ID
    total, last = Saved(0), Saved[int | None](None)
    table = Table[int, Point](limit=2)


def test_setting_is_held_to_the_type() -> None:
    made = Bench(Keeper).device.function
    assert isinstance(made, Keeper)
    made.last = 3
    made.total = True
    assert (made.last, type(made.total)) == (3, int)
    with pytest.raises(DriverError, match=r"Keeper\.last: expected int \| None"):
        made.last = "x"  # type: ignore[assignment]  # the mistake
    with pytest.raises(DriverError, match=r"Keeper\.table: a key: expected int"):
        made.table["x"] = Point(1)  # type: ignore[index]  # the mistake
    with pytest.raises(DriverError, match=r"Keeper\.table: an entry: expected Point"):
        made.table[1] = Deep(1)
    assert (made.last, made.total, dict(made.table)) == (3, 1, {})


def test_a_value_is_checked_however_quickly_it_is_set() -> None:
    """Those of a type that says all are set at once; a bool for an int, and an int that is too wide, are looked at."""

    class Quick(Function[Profile]):
        identity = PciId(vendor=0x1DE5, device=5, class_code=0x120000)
        number, flag, data = Saved(0), Saved(False), Saved(b"")

    made: Any = Bench(Quick).device.function  # Any: of a class inside the test, given what does not fit
    made.number, made.flag, made.data = True, True, b"x"
    assert [type(each) for each in (made.number, made.flag, made.data)] == [int, bool, bytes]
    for name, value in (("number", 1 << 64), ("number", "1"), ("flag", 1), ("data", bytearray(b"x")), ("data", None)):
        with pytest.raises(DriverError, match=f"Quick.{name}"):
            setattr(made, name, value)
    made.number = (1 << 64) - 1
    assert (made.number, made.flag, made.data) == ((1 << 64) - 1, True, b"x")
