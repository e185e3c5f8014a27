"""The daemon's log of uevents: numbers, a bound, readers that do not wait for each other, and the present."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from mdev_user.daemon import events
from mdev_user.daemon.events import EventLog, EventReader
from mdev_user.daemon.views import UeventLine
from mdev_user.errors import InvalidValue, NoDevice
from mdev_user.mdev.bus import Bus
from mdev_user.sysfs.uevents import Uevent
from unit.sysfs.scene import PATIENCE, UUID1, Driver, Mtty, uuid_of


def uevent(number: int) -> Uevent:
    return Uevent("change", f"/devices/{number}", "mdev")


def filled(count: int, kept: int = 100) -> EventLog:
    log = EventLog(kept)
    for number in range(1, count + 1):
        log.announce(uevent(number))
    return log


def rest(reader: EventReader) -> list[UeventLine]:
    """All that is to be read now."""
    lines: list[UeventLine] = []
    while more := reader.read(0):
        lines += more
    return lines


def numbers(lines: list[UeventLine]) -> list[int]:
    return [line.number for line in lines if line.kind == "uevent"]


def test_uevents_are_numbered_from_1_in_the_order_of_the_bus() -> None:
    log, bus = EventLog(), Bus()
    bus.register_driver(Driver())
    bus.subscribe(log.on_event)
    bus.create(bus.register_parent("mtty", Mtty()), "mtty-1", UUID1)
    begin, *lines = rest(log.reader(None))
    assert (begin.kind, begin.daemon, begin.number) == ("begin", log.name, 9)
    assert numbers(lines) == list(range(1, 10))
    assert [f"{line.action} {line.subsystem}" for line in lines[5:]] == [
        "add mdev", "add vfio", "add vfio-dev", "bind mdev",
    ]  # fmt: skip
    assert lines[-1].properties == {"DRIVER": "mtty"}
    assert lines[0].time <= lines[-1].time


def test_a_reader_begins_after_the_number_it_names() -> None:
    log = filled(5)
    assert numbers(rest(log.reader(3))) == [4, 5]
    assert numbers(rest(log.reader(5))) == []
    assert numbers(rest(log.reader(None))) == [1, 2, 3, 4, 5]
    with pytest.raises(InvalidValue, match="up to 5 so far, given 6"):
        log.reader(6)


@pytest.mark.parametrize("count", [7, 10, 14, 1000])
def test_a_full_log_has_the_last_ones_and_says_how_many_are_lost(count: int) -> None:
    log = filled(count, kept=7)
    assert numbers(rest(log.reader(None))) == list(range(count - 6, count + 1))
    _begin, *lines = rest(log.reader(0))
    lost = [(line.number, line.count) for line in lines if line.kind == "lost"]
    assert lost == ([(count - 7, count - 7)] if count > 7 else [])
    assert numbers(lines) == list(range(count - 6, count + 1))


def test_a_reader_is_given_lines_in_pieces_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_LINES", 3)
    reader = filled(10, kept=8).reader(4)
    reader.read(0)
    assert [numbers(reader.read(0)) for _ in range(3)] == [[5, 6, 7], [8, 9, 10], []]


def test_a_slow_reader_loses_and_a_quick_one_does_not() -> None:
    log = filled(1, kept=10)
    slow, quick = log.reader(0), log.reader(0)
    assert numbers(rest(slow)) == [1]
    seen = []
    for number in range(2, 101):
        log.announce(uevent(number))
        seen += numbers(rest(quick))
    assert seen == list(range(1, 101))
    lost, *kept = rest(slow)
    assert (lost.kind, lost.count, lost.number) == ("lost", 89, 90)
    assert numbers(kept) == list(range(91, 101))


def test_another_daemons_number_is_worth_nothing() -> None:
    log = filled(5)
    _begin, lost = rest(log.reader(3, "the one before"))
    assert (lost.kind, lost.number, lost.text) == ("lost", 5, "the daemon was started anew")
    assert numbers(rest(log.reader(3, log.name))) == [4, 5]
    rest(log.reader(10**9, "the one before"))  # no error: it may have come further
    assert EventLog().name != EventLog().name


def test_all_waiting_readers_are_woken_by_the_next_uevent() -> None:
    log = filled(3)
    waiting = Barrier(21)

    def wait() -> list[int]:
        reader = log.reader(3)
        reader.read(0)
        waiting.wait(PATIENCE)
        return numbers(reader.read(PATIENCE))

    with ThreadPoolExecutor(20) as pool:
        readers = [pool.submit(wait) for _ in range(20)]
        waiting.wait(PATIENCE)
        log.announce(uevent(4))
        assert [each.result(PATIENCE) for each in readers] == [[4]] * 20


def test_a_reader_that_waits_gets_nothing_when_nothing_happens() -> None:
    reader = filled(1).reader(1)
    reader.read(0)
    assert reader.read(0.01) == []


def test_the_end_is_told_when_all_is_read() -> None:
    log = filled(2)
    reader = log.reader(0)
    log.end()
    assert reader.read(PATIENCE)[0].kind == "begin"
    assert numbers(reader.read(PATIENCE)) == [1, 2]
    with pytest.raises(NoDevice, match="the daemon has ended"):
        reader.read(PATIENCE)


def there_after(number: int, lines: list[UeventLine]) -> set[str]:
    """The paths that were added and not removed again, up to a uevent."""
    there: set[str] = set()
    for line in lines:
        if line.kind == "uevent" and line.number <= number and line.action in {"add", "remove"}:
            there ^= {line.devpath}
    return there


def test_the_snapshot_is_the_present_of_its_number_while_others_create_and_remove() -> None:
    log, bus = EventLog(), Bus()
    bus.register_driver(Driver())
    bus.subscribe(log.on_event)
    parent = bus.register_parent("mtty", Mtty(ports=10**6))

    def come_and_go(worker: int) -> None:
        for turn in range(30):
            bus.create(parent, "mtty-1", uuid_of(worker))
            if turn < 29:
                bus.remove(uuid_of(worker))

    def look() -> None:
        for _ in range(30):
            now = log.snapshot()
            assert {line.devpath for line in now.uevents} == there_after(now.number, rest(log.reader(0)))

    with ThreadPoolExecutor(5) as pool:
        for done in [pool.submit(look), *(pool.submit(come_and_go, worker) for worker in range(4))]:
            done.result(60)
    mdevs = [line for line in log.snapshot().uevents if line.subsystem == "mdev"]
    assert sorted(line.devpath[-1] for line in mdevs) == ["0", "1", "2", "3"]
    assert {line.action for line in mdevs} == {"add"}
    assert all(line.properties == {"DRIVER": "mtty"} for line in mdevs)
    assert log.snapshot().daemon == log.name


def test_what_is_announced_is_told_and_leaves_the_snapshot_as_it_is() -> None:
    log = EventLog()
    log.announce(Uevent("add", "/devices/x", "mdev", {"SYNTH_UUID": "0"}))
    assert numbers(rest(log.reader(0))) == [1]
    assert log.snapshot().uevents == []
