"""The values of a declared device by name: all of them, decoded, and nothing happens to the device."""

from collections.abc import Iterator

import pytest

from mdev_user.driver.inspection import live
from mdev_user.errors import NotSupported
from mdev_user.testing import Guest
from mdev_user.vfio.inspection import FieldValue, NamedValue
from mdev_user.vfio.ops import DeviceOps
from unit.driver.panel import Mode, Panel, PanelCard, Regs


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(PanelCard, "1") as guest:
        yield guest


def panel(guest: Guest) -> Panel:
    assert isinstance(guest.device.function, Panel)
    return guest.device.function


def values(guest: Guest) -> dict[str, NamedValue]:
    return {each.name: each for each in guest.device.inspect()}


def test_every_register_is_told_in_the_order_of_its_place(guest: Guest) -> None:
    assert list(values(guest)) == [
        "regs.control", "regs.events", "regs.ticket", "regs.wide", "regs.page", "regs.low", "regs.high", "regs.command",
        "regs.answer", "regs.missing", "regs.cell[0]", "regs.cell[1]", "regs.cell[2]",
        "dials[0].dials.dial", "dials[1].dials.dial",
    ]  # fmt: skip


def test_a_field_has_the_name_of_its_value(guest: Guest) -> None:
    guest.write(Regs.control.mode, Mode.SLOW)
    guest.write(Regs.control.on, True)
    control = values(guest)["regs.control"]
    assert (control.value, control.size, control.region, control.offset) == (0b101, 4, 0, 0)
    assert control.fields == (FieldValue("on", 1), FieldValue("mode", 2, "SLOW"), FieldValue("level", None))


def test_each_element_and_each_part_has_its_own_value(guest: Guest) -> None:
    guest.write(Regs.cell.colour, 5, 1)
    guest.write_bytes(2, 0, b"\x07\0\0\0")
    found = values(guest)
    assert [found[f"regs.cell[{element}]"].value for element in range(3)] == [0, 0x50, 0]
    assert [found[f"dials[{index}].dials.dial"].value for index in range(2)] == [0, 7]
    assert found["dials[1].dials.dial"].region == 2


def test_a_bank_tells_which_of_its_registers_is_seen(guest: Guest) -> None:
    found = values(guest)
    assert (found["regs.low"].bank, found["regs.low"].hidden) == ("", False)
    assert (found["regs.high"].bank, found["regs.high"].hidden) == ("page.high", True)
    guest.write(Regs.low, 1)
    guest.write(Regs.page.high, True)
    guest.write(Regs.high, 2)
    found = values(guest)
    assert (found["regs.low"].value, found["regs.low"].hidden) == (1, True)
    assert (found["regs.high"].value, found["regs.high"].hidden) == (2, False)


def test_registers_of_one_place_for_reading_and_writing_are_both_seen(guest: Guest) -> None:
    guest.write(Regs.command, 3)
    found = values(guest)
    assert [(found[name].value, found[name].hidden) for name in ("regs.command", "regs.answer")] == [
        (3, False),
        (0xBEEF, False),
    ]


def test_looking_runs_no_method_and_clears_nothing(guest: Guest) -> None:
    panel(guest).regs.events = 0xF0
    found = values(guest)
    assert found["regs.events"].value == 0xF0
    assert panel(guest).regs.events == 0xF0
    assert panel(guest).drawn == 0
    assert (found["regs.ticket"].value, found["regs.ticket"].computed) == (None, 0xFFFF_FFFF)
    assert (found["regs.control"].value, found["regs.control"].computed) == (0, 0xF00)
    assert guest.device.unmodelled == {}


def test_a_guest_that_looks_does_have_these_effects(guest: Guest) -> None:
    """The negative control of the test above."""
    panel(guest).regs.events = 0xF0
    assert guest.read(Regs.events) == 0xF0
    assert guest.read(Regs.ticket) == 1
    assert guest.read(Regs.control.level) == 7
    assert (panel(guest).regs.events, panel(guest).drawn) == (0, 101)


def test_the_values_are_those_of_one_moment(guest: Guest) -> None:
    taken = guest.device.inspect()
    guest.write(Regs.wide, (1 << 64) - 1)
    assert {each.name: each.value for each in taken}["regs.wide"] == 0
    assert values(guest)["regs.wide"].value == (1 << 64) - 1


def test_without_the_copy_they_would_be_mixed(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(live, "replace", lambda bar, **_values: bar)
    taken = guest.device.inspect()
    guest.write(Regs.wide, 1)
    assert {each.name: each.value for each in taken}["regs.wide"] == 1


def test_a_closed_device_can_be_looked_at(guest: Guest) -> None:
    guest.write(Regs.wide, 5)
    guest.close()
    assert values(guest)["regs.wide"].value == 5
    guest.open()
    assert values(guest)["regs.wide"].value == 0


def test_a_value_that_its_enumeration_does_not_name_is_a_number(guest: Guest) -> None:
    control = next(slot for slot in Regs._layout.slots if slot.path == "control")
    mode = next(bits for bits in control.fields if bits.name == "mode")
    assert live._member(mode, 3) == "RESERVED_3"
    assert live._member(mode, 9) == ""


def test_a_driver_by_hand_names_nothing_unless_it_says_so() -> None:
    with pytest.raises(NotSupported, match="written by hand and has no inspect"):
        DeviceOps().inspect()
    assert DeviceOps().decoder() is None
