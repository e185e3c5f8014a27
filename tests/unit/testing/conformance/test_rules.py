"""The access rules of the kit against those of the engine: they agree, and a rule that is broken is seen."""

from random import Random

import pytest

from drivers.everything import Card
from mdev_user.drivers.mtty import Mtty
from mdev_user.regs import space
from mdev_user.testing.conformance import drawing
from mdev_user.testing.conformance.rules import Bits, RuleAccess, bar_classes, run_rules
from unit.driver.queues import QueueCard


@pytest.mark.parametrize("parent", [Card, Mtty, QueueCard])
def test_engine_follows_the_rules(parent: type[Card]) -> None:
    for (unit, name), bar in bar_classes(parent).items():
        places = [slot.offset for slot in bar._layout.slots]
        for number in range(60):
            accesses = drawing.accesses(Random(number), bar._size, places)
            assert run_rules(parent, unit, name, accesses) == ""


def test_rules_say_what_each_bit_does() -> None:
    bits = Bits(bar_classes(Card)["Everything", "regs"])
    bits.write(0x00, b"\xff\0\0\0")
    assert bits.read(0x00, 4) == bytes(4)  # done and fault: a one clears; busy: read-only
    bits.set_bits(0, 0, 8, 0x43)
    bits.write(0x00, b"\x01")
    assert bits.read(0x00, 1) == b"\x42"
    bits.write(0x1C, b"\xff" * 4)
    assert bits.read(0x1C, 4) == bytes(4)  # write-only
    bits.write(0x08, b"\x00\x11\x00\x02")
    bits.write(0x08, b"\x01\x22\x00\x04")  # the page is turned before the byte behind it is written
    assert bits.read(0x08, 4) == b"\x01\x22\x00\x06"
    bits.write(0x08, b"\x00")
    assert bits.read(0x09, 1) == b"\x11"


def test_broken_rule_is_told_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "_part", lambda _slot, start, end: (0, (1 << 8 * (end - start)) - 1))
    wrong = run_rules(Card, "Everything", "regs", (RuleAccess("write", 0x11, 0, b"\x05"),))
    assert wrong == "Regs: source is 0x5: expected 0x500, after: write 05 at 0x11"
