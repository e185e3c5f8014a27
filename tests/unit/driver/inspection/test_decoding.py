"""Accesses by name: what was touched, which fields it had, what it changed, and what nobody declared."""

from collections.abc import Iterator

import pytest

from mdev_user.driver.inspection import decoding
from mdev_user.driver.inspection.decoding import MOST_CHANGES, DeviceDecoder
from mdev_user.testing import Guest
from mdev_user.vfio.inspection import Change, Decoded, FieldValue, TouchedRegister
from mdev_user.vfio.requests import Region
from unit.driver.panel import Panel, PanelCard, Regs
from unit.driver.queues import QueueCard


class Watched:
    """Performs accesses and tells what they meant."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.decoder = guest.device.decoder()

    def read(self, offset: int, count: int, region: int = 0) -> Decoded:
        sighting = self.decoder.look(region, offset, count, written=False)
        data = self.guest.read_bytes(region, offset, count)
        sighting.end()
        return sighting.tell(data)

    def write(self, offset: int, data: bytes, region: int = 0) -> Decoded:
        sighting = self.decoder.look(region, offset, len(data), written=True)
        self.guest.write_bytes(region, offset, data)
        sighting.end()
        return sighting.tell(data)


@pytest.fixture
def watched() -> Iterator[Watched]:
    with Guest(PanelCard, "1") as guest:
        yield Watched(guest)


def function(watched: Watched) -> Panel:
    assert isinstance(watched.guest.device.function, Panel)
    return watched.guest.device.function


def test_a_write_is_told_with_its_fields_and_what_it_changed(watched: Watched) -> None:
    assert watched.write(0, b"\x03\x07\0\0") == Decoded(
        registers=(
            TouchedRegister(
                "regs.control",
                0x703,
                4,
                fields=(FieldValue("on", 1), FieldValue("mode", 1, "FAST"), FieldValue("level", 7)),
            ),
        ),
        changes=(Change("regs.control.on", "0", "1"), Change("regs.control.mode", "IDLE", "FAST")),
    )


def test_a_read_is_told_as_the_guest_saw_it(watched: Watched) -> None:
    [control] = watched.read(0, 4).registers
    assert control.fields[2] == FieldValue("level", 7)  # as the driver's method computed it
    function(watched).regs.events = 6
    watched.read(0, 1)
    told = watched.read(4, 4)
    assert told.registers == (TouchedRegister("regs.events", 6, 4),)
    assert told.changes == (Change("regs.events", "0x6", "0x0"),)


def test_an_access_to_a_part_of_a_register_says_which(watched: Watched) -> None:
    told = watched.write(0x14, b"\x01\0\0\0")
    assert told.registers == (TouchedRegister("regs.wide", 1, 4, skipped=4),)
    assert told.changes == (Change("regs.wide", "0x0", "0x100000000"),)
    [control] = watched.read(1, 1).registers
    assert (control.skipped, [each.name for each in control.fields]) == (1, ["level"])


def test_an_access_that_touches_several_registers_names_all(watched: Watched) -> None:
    told = watched.write(0x1A, bytes([1, 0, 2, 0, 0, 0, 0x51, 0, 0x30]))
    assert [(each.name, each.value) for each in told.registers] == [
        ("regs.command", 1),
        ("regs.missing", 2),
        ("regs.cell[0]", 0x51),
        ("regs.cell[1]", 0x30),
    ]
    assert not told.unmodelled
    assert Change("regs.cell[0].lit", "0", "1") in told.changes


def test_the_bank_that_is_selected_is_the_one_that_is_named(watched: Watched) -> None:
    assert [each.name for each in watched.write(0x19, b"\x01").registers] == ["regs.low"]
    watched.write(0x18, b"\x80")
    assert [each.name for each in watched.write(0x19, b"\x01").registers] == ["regs.high"]


@pytest.mark.parametrize(
    ("offset", "size", "named"), [(0x100, 4, []), (0x0C, 8, ["regs.wide"]), (0x24, 4, ["regs.cell[2]"])]
)
def test_what_nobody_declared_is_marked(watched: Watched, offset: int, size: int, named: list[str]) -> None:
    told = watched.read(offset, size)
    assert told.unmodelled
    assert [each.name for each in told.registers] == named
    assert watched.guest.device.unmodelled


def test_what_changed_between_two_accesses_is_told_with_the_second(watched: Watched) -> None:
    assert watched.write(0x1A, b"\x01\0").meanwhile == ()
    watched.guest.run()
    watched.guest.advance(1)
    told = watched.read(0x19, 1)
    assert told.meanwhile == (Change("regs.control.on", "0", "1"),)
    assert watched.read(0x19, 1).meanwhile == ()


def test_memory_and_vectors_are_named_and_not_unmodelled() -> None:
    with Guest(QueueCard, "small") as guest:
        watched = Watched(guest)
        told = watched.write(0x2010, b"\x05\0\0\0")
        assert told == Decoded(registers=(TouchedRegister("window[0x10]", 5, 4),))
        assert [each.name for each in watched.read(8, 4, region=3).registers] == ["buffer[0x8]"]
        across = watched.read(0x1FFC, 8)
        assert (across.unmodelled, [each.name for each in across.registers]) == (True, ["window[0x0]"])
        vectors = next(bar for bar in range(6) if bar in watched.decoder._pages and bar not in {0, 3})
        assert [each.name for each in watched.read(4, 4, region=vectors).registers] == ["vectors[0x4]"]


@pytest.mark.parametrize(("region", "offset", "size"), [(Region.CONFIG, 4, 2), (5, 0, 4), (0, 1 << 40, 4), (1, 14, 4)])
def test_what_has_no_registers_is_told_without_names(watched: Watched, region: int, offset: int, size: int) -> None:
    sighting = watched.decoder.look(region, offset, size, written=True)
    sighting.end()
    assert sighting.tell(bytes(size)) == Decoded()


def test_a_long_access_is_told_in_part(watched: Watched) -> None:
    told = watched.read(0, 4096)
    assert told.left_out
    assert told.registers[0].name == "regs.control"
    assert 0 < len(told.registers) < 64


def test_many_changes_are_told_in_part(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MOST_CHANGES", 2)
    told = watched.write(0x1A, bytes([1, 0, 2, 0, 0, 0, 0x51, 0, 0x30]))
    assert told.left_out
    assert len(told.changes) <= 2 * MOST_CHANGES


def test_of_a_large_bar_the_touched_registers_are_compared(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_SMALL", 2)
    watched.decoder = DeviceDecoder(watched.guest.device)
    assert watched.write(0x10, b"\x01").changes == (Change("regs.wide", "0x0", "0x1"),)
    assert watched.read(0x20, 2).changes == ()


def test_looking_has_no_effect(watched: Watched) -> None:
    function(watched).regs.events = 3
    watched.decoder.look(0, 0, 64, written=False).end()
    assert (function(watched).regs.events, function(watched).drawn) == (3, 0)
    assert watched.guest.device.unmodelled == {}
    assert watched.guest.read(Regs.events) == 3
