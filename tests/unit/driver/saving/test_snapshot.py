"""Saving and loading a device: nothing is lost, nothing is invented, and nothing that is loaded is believed."""

import errno
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdev_user.driver import (
    PAGE,
    PciId,
    SavedJob,
    Sleep,
    StateError,
)  # fmt: skip
from mdev_user.driver.saving import state, transfer
from mdev_user.driver.saving.snapshot import LARGEST, decoded_snapshot, encoded_stream, from_bytes, to_bytes
from mdev_user.driver.stepping import Slept
from mdev_user.errors import NoDevice, errno_of
from mdev_user.vfio.requests import Irq, Region
from unit.driver.bench import Bench
from unit.driver.stateful import Machine, Mode, Point, in_use, machine

ID = PciId(vendor=0x1DE5, device=9, class_code=0x120000)
ANY_MEMORY = 1 << 30
TESTS = str(Path(__file__).resolve().parents[3])


BENCHES: list[Bench] = []


def kept(bench: Bench) -> Bench:
    BENCHES.append(bench)
    return bench


def idle() -> Bench:
    return kept(Bench(Machine))


def working() -> Bench:
    return kept(in_use())


def close_all() -> None:
    while BENCHES:
        BENCHES.pop().close()


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


def only(bench: Bench, name: str) -> None:
    """Let no other jobs run."""
    for other, work in bench.jobs.waiting:
        if other != name:
            work.close()
    bench.jobs.waiting[:] = [each for each in bench.jobs.waiting if each[0] == name]


def changed(data: bytes, **changes: object) -> bytes:
    """A saved state, in which a hostile hand has changed something."""
    made = decoded_snapshot(from_bytes(data, ANY_MEMORY))
    return to_bytes(encoded_stream(replace(made, **changes)))  # type: ignore[arg-type]  # whatever is tried


def with_value(name: str, value: object) -> Callable[[bytes], bytes]:
    return lambda data: changed(data, values={**decoded_snapshot(from_bytes(data, ANY_MEMORY)).values, name: value})


def with_jobs(*jobs: SavedJob) -> Callable[[bytes], bytes]:
    return lambda data: changed(data, jobs=jobs)


def with_raw(key: str, value: object) -> Callable[[bytes], bytes]:
    """A change below what a `Snapshot` can say."""

    def change(data: bytes) -> bytes:
        body = msgspec.msgpack.decode(data[10:])
        body[key] = value
        return data[:10] + msgspec.msgpack.encode(body)

    return change


def seen(bench: Bench) -> dict[str, object]:
    """What is observable of a device: its registers, state and jobs."""
    device = bench.device
    regions = {index: device.read(index, 0, 64) for index in (0, 2, 3, Region.CONFIG)}
    jobs = [(each.unit, each.name, each.arguments) for each in device.jobs]
    state = {name: repr(unit._state) for name, unit in device.units.items()}
    return {**{str(index): data for index, data in regions.items()}, **state, "jobs": jobs}


# --- what comes back --------------------------------------------------------------------------------------------


def test_loaded_device_is_the_saved_one() -> None:
    source, target = working(), idle()
    data = source.device.save()
    target.device.load(data)
    made = machine(target)
    assert target.device.save() == data
    assert (made.total, made.point, made.mode, made.seen) == (7, Point(2, 3), Mode.ON, frozenset("abc"))
    assert list(made.table.items()) == [(3, Point(9)), (1, Point(8))]
    assert (made.ram[5000], bytes(made.ram[10 * PAGE : 12 * PAGE])) == (1, b"z" * 2 * PAGE)
    assert (made.ports[1].regs.lcr, made.ports[1].sent, made.regs.status.busy) == (9, 4, True)


def test_saving_changes_nothing() -> None:
    source = working()
    before, waiting = seen(source), list(source.jobs.waiting)
    assert source.device.save() == source.device.save()
    assert (seen(source), source.jobs.waiting) == (before, waiting)


def test_what_is_as_after_a_reset_is_not_sent() -> None:
    fresh = decoded_snapshot(from_bytes(idle().device.save(), 0))
    assert (fresh.values, fresh.jobs, fresh.memory) == ({}, (), {})


def test_every_piece_of_a_machine_in_use_is_sent() -> None:
    sent = decoded_snapshot(from_bytes(working().device.save(), ANY_MEMORY))
    assert set(sent.values) == {
        "total", "ratio", "name", "last", "point", "mode", "pair", "seen", "named", "table", "level", "regs.status",
        "regs.queue[3].tail", "regs.go", "regs.ring", "ports[1].regs.lcr", "ports[1].sent",
    }  # fmt: skip
    assert sent.memory["ram"][0] == struct.pack("<4Q", 1, 1, 10, 2)


def test_load_replaces_whatever_was_there() -> None:
    clean, target = idle(), working()
    target.device.load(clean.device.save())
    assert target.device.save() == clean.device.save()
    assert (target.jobs.waiting, target.device.jobs, machine(target).regs.status.busy) == ([], [], False)
    assert not any(machine(target).ram)


def test_what_the_operator_set_is_the_destinations() -> None:
    source, target = working(), idle()
    machine(target).clock = 77
    target.device.load(source.device.save())
    assert (machine(target).clock, machine(target).level) == (77, 4)


def test_sessions_are_made_anew_before_the_driver_is_told() -> None:
    target = idle()
    machine(target).cache["old"] = 1
    target.device.load(working().device.save())
    assert machine(target).cache == {"loaded": 7}


def test_busy_follows_from_the_jobs_and_not_from_the_stream() -> None:
    target = idle()
    target.device.load(with_value("regs.status", 0x180)(idle().device.save()))
    assert not machine(target).regs.status.busy
    target.device.load(with_jobs(SavedJob("", "work", {"value": 1}))(idle().device.save()))
    assert machine(target).regs.status.busy


def test_closed_device_has_no_state() -> None:
    bench = idle()
    data = bench.device.save()
    bench.close()
    for use in (bench.device.save, lambda: bench.device.load(data)):
        with pytest.raises(NoDevice):
            use()


def test_register_that_is_forgotten_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the tests above."""
    every = state.values_of
    monkeypatch.setattr(
        transfer, "values_of", lambda units: {k: v for k, v in every(units).items() if k != "regs.queue[3].tail"}
    )
    source, target = working(), idle()
    target.device.load(source.device.save())
    assert seen(target) == seen(source) or machine(target).regs.queue[3].tail == 0
    assert machine(target).regs.queue[3].tail != machine(source).regs.queue[3].tail


def test_bytes_are_the_same_in_every_process() -> None:
    code = "from unit.driver.stateful import in_use; b = in_use(); print(b.device.save().hex()); b.close()"
    outputs = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": TESTS}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60, check=True)
        outputs.add(run.stdout)
    assert outputs == {working().device.save().hex().encode() + b"\n"}


# --- jobs -------------------------------------------------------------------------------------------------------


def test_deadline_of_a_job_is_kept() -> None:
    source = working()  # work sleeps 3 and then 4 seconds, and has slept 2
    target = idle()
    target.device.load(source.device.save())
    jobs = decoded_snapshot(from_bytes(source.device.save(), ANY_MEMORY)).jobs
    assert [each.slept for each in jobs] == [2.0, 0.0, 0.0]
    only(target, "work")
    assert [target.jobs.step(), target.jobs.step(b"")] == [Sleep(1.0), Sleep(4.0)]
    target.jobs.now = 1.5
    again = idle()
    again.device.load(target.device.save())
    only(again, "work")
    assert [again.jobs.step(), again.jobs.step(b"")] == [Sleep(0.0), Sleep(2.5)]
    assert again.jobs.step(b"") is None
    assert (machine(again).total, machine(again).name) == (12, "v5")


def test_job_that_is_loaded_and_not_stepped_has_slept_as_long() -> None:
    target = idle()
    data = working().device.save()
    target.device.load(data)
    target.jobs.now = 50.0
    assert target.device.save() == data


def test_worker_that_was_called_meanwhile_runs_once_more() -> None:
    target = idle()
    target.device.load(working().device.save())
    only(target, "serve")
    before = machine(target).regs.queue[1].tail
    assert [target.jobs.step(), target.jobs.step(b""), target.jobs.step()] == [Sleep(1.0), None, Sleep(1.0)]
    assert target.jobs.step(b"") is None
    assert machine(target).regs.queue[1].tail == before + 2


def test_sleep_that_was_refused_does_not_count() -> None:
    slept = Slept(1.0)
    slept.begin(5.0, 10.0)
    slept.break_off()
    assert slept.seconds(100.0) == 1.0
    assert slept.begin(3.0, 100.0) == 3.0
    slept.end()
    assert slept.seconds(200.0) == 4.0


# --- interrupts -------------------------------------------------------------------------------------------------


def msi(bench: Bench) -> list[Any]:  # Any: wires
    return list(bench.arm(Irq.MSI, 8))


def test_level_that_was_told_is_not_told_again() -> None:
    source, target = idle(), idle()
    wires = msi(source)
    machine(source).regs.status.done = True
    source.device.settle()
    assert wires[0].take() == 1
    arrived = msi(target)
    target.device.load(source.device.save())
    assert [wire.take() for wire in arrived] == [0] * 8
    target.write(4, b"\x01")
    machine(target).regs.status.done = True
    target.device.settle()
    assert arrived[0].take() == 1


def test_message_that_nobody_took_is_sent_where_somebody_listens() -> None:
    source, target = idle(), idle()
    msi(source)
    source.write(4, b"\x03\x00", Region.CONFIG)  # not bus master: what is sent waits
    source.write(20, 5)
    data = source.device.save()
    arrived = msi(target)
    target.device.load(data)
    assert [wire.take() for wire in arrived] == [0] * 8
    target.write(4, b"\x07\x00", Region.CONFIG)
    assert [wire.take() for wire in arrived] == [0, 0, 0, 0, 0, 1, 0, 0]


def test_pin_is_up_where_the_level_was_loaded() -> None:
    source, target = idle(), idle()
    machine(source).ports[1].regs.out = 1
    source.device.settle()
    (wire,) = target.arm(Irq.INTX)
    target.device.load(source.device.save())
    assert wire.take() == 1
    assert target.read(6, 2, Region.CONFIG) & 8


def test_level_that_nobody_saved_follows_the_loaded_registers() -> None:
    target = idle()
    wires = msi(target)
    target.device.load(with_value("regs.status", 0x101)(_with_msi(target)))
    assert wires[0].take() == 1


def _with_msi(bench: Bench) -> bytes:
    return bench.device.save()


# --- what is refused --------------------------------------------------------------------------------------------

HOSTILE: Mapping[str, tuple[Callable[[bytes], bytes], str]] = {
    "no bytes": (lambda _data: b"", "expected it to begin with b'mdevuser', given b''"),
    "other bytes": (lambda _data: b"QEVM" * 20, "expected it to begin with b'mdevuser', given b'QEVMQEVM'"),
    "a magic and no more": (lambda data: data[:9], "expected it to begin with"),
    "another format": (lambda data: data[:8] + b"\x09\0" + data[10:], "expected format 1, given 9"),
    "an end too early": (lambda data: data[:-3], "saved state: Input data was truncated"),
    "more behind it": (lambda data: data + b"x", "trailing"),
    "too much": (lambda data: data + bytes(LARGEST + (1 << 20)), "bytes, given"),
    "a list for ever": (lambda data: data[:10] + b"\xdd\xff\xff\xff\xff", "saved state: "),
    "depth": (lambda data: data[:10] + b"\x81\xa6values\x81\xa5total" + b"\x91" * 100_000, "saved state: "),
    "another driver": (lambda data: changed(data, driver="Crc"), "expected one of Machine, given one of 'Crc'"),
    "a newer version": (
        lambda data: changed(data, version=2),
        "state version 2: expected at most 1; update the driver",
    ),
    "an older version": (lambda data: changed(data, version=0), "state version 0: there is no upgrade from it"),
    "a key more": (with_raw("extra", 1), "unknown field `extra`"),
    "a name": (with_value("totl", 1), "there is no 'totl'; did you mean total?"),
    "a register": (with_value("regs.statu", 1), "there is no 'regs.statu'; did you mean regs.status?"),
    "an element": (with_value("regs.queue[4].tail", 1), "there is no 'regs.queue[4].tail'; did you mean regs.queue["),
    "a part": (with_value("ports[2].sent", 1), "there is no 'ports[2].sent'; did you mean ports["),
    "a session": (with_value("cache", {}), "there is no 'cache'"),
    "an operator's attribute": (with_value("clock", 3), "there is no 'clock'"),
    "a type": (with_value("total", "x"), "Machine.total: expected int: Expected `int`, got `str`"),
    "a bool": (with_value("total", True), "got `bool`"),
    "an enumeration": (with_value("mode", "odd"), "Machine.mode: expected Mode: Invalid enum value 'odd'"),
    "a field of a dataclass": (with_value("point", {"x": 1, "z": 2}), "Machine.point: Point has no 'z'"),
    "a wide register": (with_value("regs.enable", 1 << 16), "regs.enable: expected a number of 16 bits, given 65536"),
    "a register below zero": (with_value("regs.enable", -1), "expected a number of 16 bits, given -1"),
    "a register that is text": (with_value("regs.enable", "1"), "expected a number of 16 bits, given '1'"),
    "a register that is a bool": (with_value("regs.enable", True), "expected a number of 16 bits, given True"),
    "a hole in a register": (with_value("regs.status", 0x104), "expected the reserved bits 0x4 as after a reset"),
    "a reserved field": (with_value("regs.status", 0x10100), "expected the reserved bits 0x10000 as after a reset"),
    "a member": (with_value("regs.status", 0x300), "regs.status.speed: 3 is not a valid Speed"),
    "an attribute's range": (with_value("level", 9), "level: expected 1 to 8"),
    "a table's end": (
        with_value("table", [[n, {"x": n}] for n in range(4)]),
        "table: expected at most 3 entries, given 4",
    ),
    "a key twice": (with_value("table", [[1, {"x": 1}], [1, {"x": 2}]]), "table: expected each key once"),
    "a table's key": (with_value("table", [["a", {"x": 1}]]), "Machine.table: expected tuple[tuple[int, Point], ...]"),
    "a job": (with_jobs(SavedJob("", "wrk", {})), "there is no job 'wrk'; did you mean work?"),
    "a job's unit": (with_jobs(SavedJob("port[0]", "send", {"value": 1})), "did you mean ports[0]?"),
    "a job of another unit": (with_jobs(SavedJob("", "send", {"value": 1})), "there is no job 'send'"),
    "jobs without end": (
        with_jobs(*[SavedJob("ports[1]", "send", {"value": 1})] * 3),
        "ports[1].send: expected at most 2 under way, given 3",
    ),
    "too many jobs": (with_raw("jobs", [{}] * 1025), "length <= 1024"),
    "an argument": (with_jobs(SavedJob("", "work", {"value": 1, "lable": "x"})), "did you mean label?"),
    "an argument's type": (with_jobs(SavedJob("", "work", {"value": "1"})), "Machine.work: value: expected int"),
    "no argument": (with_jobs(SavedJob("", "work", {})), "Machine.work: expected an argument value, given 0 others"),
    "sleep before birth": (with_jobs(SavedJob("", "work", {"value": 1}, -1.0)), "slept: expected seconds from 0"),
    "sleep for ever": (with_jobs(SavedJob("", "work", {"value": 1}, float("inf"))), "slept: expected seconds from 0"),
    "sleep of no length": (with_jobs(SavedJob("", "work", {"value": 1}, float("nan"))), "slept: expected seconds"),
    "a job once more": (with_jobs(SavedJob("", "work", {"value": 1}, 0, again=True)), "only a worker runs once more"),
    "a memory": (lambda data: changed(data, memory={"rom": (b"", b"")}), "there is no memory 'rom'; did you mean ram?"),
    "pages beyond": (
        lambda data: changed(data, memory={"ram": (struct.pack("<2Q", 63, 2), bytes(2 * PAGE))}),
        "ram: pages 63 to 65: expected some from 0 to 64",
    ),
    "pages over pages": (
        lambda data: changed(data, memory={"ram": (struct.pack("<4Q", 1, 2, 2, 1), bytes(3 * PAGE))}),
        "ram: pages 2 to 3: expected some from 3 to 64",
    ),
    "no pages": (lambda data: changed(data, memory={"ram": (struct.pack("<2Q", 1, 0), b"")}), "ram: pages 1 to 1"),
    "half a page": (
        lambda data: changed(data, memory={"ram": (struct.pack("<2Q", 1, 1), bytes(100))}),
        "ram: expected 1 pages, given 100 bytes",
    ),
    "half a run": (lambda data: changed(data, memory={"ram": (b"x", b"")}), "pairs of 64-bit numbers, given 1 bytes"),
    "no config space": (lambda data: changed(data, config=b""), "saved bytes: expected 256, given 0"),
    "another identity": (lambda data: changed(data, config=bytes(256)), "saved byte 0x0: expected 0xe5"),
    "a vector": (lambda data: changed(data, levels=b"\x08"), "saved levels: expected 3 bits"),
    "wide levels": (lambda data: changed(data, levels=bytes(300)), "saved levels: expected 3 bits, given 300 bytes"),
    "pending": (lambda data: changed(data, pending=b"\xff\xff"), "saved pending: expected a number of 0 bits"),
    "a vector table": (lambda data: changed(data, vectors=b"x"), "saved MSI-X table: the function has none"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_state_is_refused_and_the_device_is_as_it_was(what: str) -> None:
    change, message = HOSTILE[what]
    hostile = change(idle().device.save())
    target = working()
    before, waiting, data = seen(target), list(target.jobs.waiting), target.device.save()
    with pytest.raises(StateError) as raised:
        target.device.load(hostile)
    assert message in str(raised.value)
    assert errno_of(raised.value) == errno.EINVAL
    assert len(str(raised.value)) < 400
    assert (seen(target), target.jobs.waiting, target.device.save()) == (before, waiting, data)


def test_state_of_a_machine_in_use_is_not_refused() -> None:
    """The negative control of the test above: what is changed there is all that is wrong."""
    working().device.load(with_value("total", 3)(working().device.save()))


SAVED = working().device.save()
close_all()


@settings(max_examples=300)
@given(st.data())
def test_any_bytes_are_a_state_or_an_error(choose: st.DataObject) -> None:
    """Bytes of a saved state, here and there changed, removed or repeated."""
    data = bytearray(SAVED.replace(bytes(PAGE), b"") if choose.draw(st.booleans()) else SAVED)
    for _ in range(choose.draw(st.integers(1, 4))):
        at = choose.draw(st.integers(0, min(len(data), 1000) - 1))
        match choose.draw(st.sampled_from(["set", "cut", "put", "end"])):
            case "set":
                data[at] = choose.draw(st.integers(0, 255))
            case "cut":
                del data[at : at + choose.draw(st.integers(1, 9))]
            case "put":
                data[at:at] = choose.draw(st.binary(max_size=9))
            case _:
                del data[-at - 1 :]
        if not data:
            break
    check_any(bytes(data))


@settings(max_examples=100)
@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 1 << 64) | st.floats() | st.text(max_size=3), st.lists))
def test_any_value_is_one_or_an_error(value: object) -> None:
    for key in ("values", "jobs", "memory", "config", "levels", "version"):
        try:
            hostile = with_raw(key, value)(SAVED)
        except OverflowError:
            return
        check_any(hostile)
    for name in ("total", "regs.status", "table", "point", "pair", "seen"):
        body = msgspec.msgpack.decode(SAVED[10:])
        body["values"][name] = value
        check_any(SAVED[:10] + msgspec.msgpack.encode(body))


def check_any(data: bytes) -> None:
    target = working()
    before = target.device.save()
    try:
        target.device.load(data)
    except StateError:
        assert target.device.save() == before
    else:
        loaded = target.device.save()
        again = idle()
        again.device.load(loaded)
        assert again.device.save() == loaded
    close_all()


LONG = "\n" + "x" * 100_000


@pytest.mark.parametrize(
    "change",
    [
        with_value(LONG, 1),
        with_value("mode", LONG),
        with_value("total", LONG),
        with_value("regs.enable", LONG),
        with_value("point", {"x": 1, LONG: 2}),
        with_jobs(SavedJob("", "work", {"value": 1, LONG: 1})),
        with_jobs(SavedJob("", LONG, {})),
        with_jobs(SavedJob(LONG, "work", {})),
        with_raw(LONG, 1),
        with_raw("memory", {LONG: [b"", b""]}),
        with_raw("driver", LONG),
    ],
)
def test_message_holds_no_more_of_a_stranger_than_people_read(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(StateError) as raised:
        idle().device.load(change(SAVED))
    assert len(str(raised.value)) < 600
    assert str(raised.value).isprintable()
