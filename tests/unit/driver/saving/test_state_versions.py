"""Versions of a driver's state: newer ones are refused, older ones upgraded, and a change without one is found."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from mdev_user.driver import (
    PAGE,
    RSVD,
    U32,
    Bar,
    DriverError,
    Field,
    Flag,
    Function,
    Memory,
    PciId,
    Profile,
    Register,
    Saved,
    Snapshot,
    StateError,
    Table,
    job,
)  # fmt: skip
from mdev_user.driver.saving import naming, snapshot
from mdev_user.driver.saving.schema import differences, schema_of
from unit.driver.bench import Bench

ID = PciId(vendor=0x1DE5, device=9, class_code=0x120000)
Changes = Callable[[Snapshot], Snapshot]


class Regs(Bar, index=0, size=64):
    count = U32(0)


def first() -> type[Function[Any]]:
    class Device(Function[Profile]):
        identity = ID
        regs, total = Regs(), Saved(0)

    return Device


def second(changes: Mapping[int, object], version: int = 2) -> type[Function[Any]]:
    class Device(Function[Profile]):
        identity = ID
        state_version = version
        upgrades: ClassVar[Mapping[int, Changes]] = changes  # type: ignore[assignment]  # mistakes among them
        regs, sum, unit = Regs(), Saved(0), Saved("bytes")

    return Device


def renamed(old: Snapshot) -> Snapshot:
    values = dict(old.values)
    values["sum"] = values.pop("total", 0)
    return replace(old, values=values)


@pytest.fixture
def saved() -> Iterator[bytes]:
    bench = Bench(first())
    bench.device.function.total = 7  # type: ignore[attr-defined]  # a class of this test's
    bench.write(0, 5)
    yield bench.device.save()
    bench.close()


def loaded(kind: type[Function[Any]], data: bytes) -> Any:  # Any: a class of a test's
    bench = Bench(kind)
    before = bench.device.save()
    try:
        bench.device.load(data)
    except StateError:
        assert bench.device.save() == before
        raise
    return bench.device.function


def test_older_state_is_upgraded(saved: bytes) -> None:
    made = loaded(second({1: renamed}), saved)
    assert (made.sum, made.unit, made.regs.count) == (7, "bytes", 5)


def test_upgrades_are_one_behind_the_other(saved: bytes) -> None:
    def doubled(old: Snapshot) -> Snapshot:
        return replace(old, values={**old.values, "sum": old.values["sum"] * 2})  # type: ignore[operator]  # an int

    assert loaded(second({1: renamed, 2: doubled}, 3), saved).sum == 14


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "Device: state version 1: there is no upgrade from it, but from: none"),
        ({1: lambda old: 1 // 0}, "Device: the upgrade from state version 1: ZeroDivisionError"),
        ({1: lambda old: None}, "Device: the upgrade from state version 1 returned None: expected a Snapshot"),
        ({1: lambda old: old}, "there is no 'total'"),
        ({1: lambda old: replace(old, values={"sum": [1]})}, "Device.sum: expected int"),
        ({1: lambda old: replace(old, values={"sum": object()})}, "cannot be saved"),
        ({1: lambda old: replace(old, config="x")}, "what an upgrade made: Expected `bytes`, got `str`"),
    ],
)
def test_upgrade_that_fails_is_an_error_of_the_state(saved: bytes, changes: Mapping[int, object], message: str) -> None:
    with pytest.raises(StateError) as raised:
        loaded(second(changes), saved)
    assert message in str(raised.value)


def test_newer_state_is_refused() -> None:
    bench = Bench(second({1: renamed}))
    with pytest.raises(StateError, match="Device: state version 2: expected at most 1; update the driver here first"):
        loaded(first(), bench.device.save())


def test_older_driver_takes_what_it_knows_of_a_newer_one(saved: bytes) -> None:
    """As long as what was added is as after a reset."""

    class Device(Function[Profile]):
        identity = ID
        regs, total, added = Regs(), Saved(0), Saved(0)

    newer = loaded(Device, saved)
    assert loaded(first(), newer._device.save()).total == 7
    newer.added = 1
    with pytest.raises(StateError, match="there is no 'added'"):
        loaded(first(), newer._device.save())


@pytest.mark.parametrize(
    ("version", "changes", "message"),
    [
        (0, {}, "Device.state_version: expected a number from 1, given 0"),
        (True, {}, "expected a number from 1, given True"),
        (2, {2: renamed}, "Device.upgrades[2]: expected a function by an older version than 2"),
        (2, {1: "x"}, "Device.upgrades[1]: expected a function"),
        (2, {"1": renamed}, "Device.upgrades['1']: expected a function"),
    ],
)
def test_versions_are_checked_when_the_class_is_created(version: int, changes: Any, message: str) -> None:
    with pytest.raises(DriverError) as raised:
        second(changes, version)
    assert message in str(raised.value)


# --- the schema -------------------------------------------------------------------------------------------------


class Control(Register):
    on, spare = Flag(0), Field(8, 4, RSVD)


class More(Bar, index=0, size=64):
    count, control = U32(0), Control.at(4)


@dataclass(frozen=True)
class Point:
    x: int


def all_of_it() -> dict[str, Any]:  # Any: a class body
    async def work(self: Function[Any], value: int) -> None: ...  # Any: of whatever profile

    return {
        "identity": ID,
        "regs": More(),
        "total": Saved(0),
        "table": Table[int, Point](limit=4),
        "ram": Memory(index=2, size=PAGE),
        "work": job()(work),
    }


def made_of(**changes: Any) -> type[Function[Any]]:
    body = {name: each for name, each in {**all_of_it(), **changes}.items() if each is not None}
    return type("Device", (Function,), {"__module__": __name__, **body})


class Sparse(Bar, index=0, size=64):
    count = U32(0)


class Reset(Bar, index=0, size=64):
    count, control = U32(0, reset=1), Control.at(4)


async def other_work(self: Function[Any], value: str) -> None: ...  # Any: of whatever profile


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"total": None}, "total: gone"),
        ({"total": Saved("")}, "total: now"),
        ({"total": Saved(1)}, "total: now"),
        ({"table": Table[str, Point](limit=4)}, "table: now"),
        ({"regs": Sparse()}, "regs.control: gone"),
        ({"regs": Reset()}, "regs.count: now"),
        ({"ram": Memory(index=4, size=PAGE)}, "ram: now"),
        ({"work": job()(other_work)}, "work(): now"),
        ({"identity": PciId(vendor=1, device=9, class_code=0x120000)}, "identity: now"),
    ],
)
def test_change_of_the_schema_is_found(changes: dict[str, Any], named: str) -> None:  # Any: as above
    changed, added = differences(schema_of(made_of()), schema_of(made_of(**changes)))
    assert named in "\n".join(changed)
    assert added == []


def test_addition_to_the_schema_is_told_apart() -> None:
    assert differences(schema_of(made_of()), schema_of(made_of())) == ([], [])
    changed, added = differences(schema_of(made_of()), schema_of(made_of(more=Saved(0))))
    assert (changed, added) == ([], ["more: {'type': 'int', 'initial': 0}"])


def test_schema_is_json() -> None:
    schema = schema_of(made_of())
    assert json.loads(json.dumps(schema)) == schema


# --- what a driver could do wrong when it is saved ---------------------------------------------------------------


def test_reserved_bits_that_the_driver_set_are_its_mistake() -> None:
    bench = Bench(made_of())
    made: Any = bench.device.function  # Any: a class of this test's
    made.regs.control.spare = 3
    with pytest.raises(DriverError, match=r"regs\.control: reserved bits 0x300 were set: declare them"):
        bench.device.save()


def test_state_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device(Function[Profile]):
        identity = ID
        log = Saved(b"")

    bench = Bench(Device)
    made = bench.device.function
    assert isinstance(made, Device)
    monkeypatch.setattr(snapshot, "LARGEST", 1000)
    made.log = bytes(1001)
    with pytest.raises(DriverError, match="expected at most 1000; keep what is large in Memory"):
        bench.device.save()


def test_stranger_cannot_keep_us_looking_for_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert naming.meant("totl", ["total"]) == "; did you mean total?"
    monkeypatch.setattr(naming, "MOST_LOOKED_AT", 0)
    assert naming.meant("totl", ["total"]) == ""
