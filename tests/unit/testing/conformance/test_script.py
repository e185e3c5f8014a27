"""A finding as a script: in the names of the driver where there are some, as bytes where not."""

from pathlib import Path

from drivers.everything import Card
from mdev_user.drivers.mtty import Mtty
from mdev_user.testing.conformance.operations import (
    Advance,
    Copy,
    Finding,
    Listen,
    MappedWrite,
    Operation,
    Poke,
    Read,
    Reopen,
    Reset,
    Run,
    Setting,
    Show,
    Step,
    Store,
    Write,
)
from mdev_user.testing.conformance.script import Names, lines, script

NAMED: dict[Operation, list[str]] = {
    Write(0, 0x1C, b"\x0a\0\0\0"): ["guest.write(Regs.go, 0xa)"],
    Write(0, 0x88, b"\x05\0"): ["guest.write(Regs.queue.tail, 5, element=1)"],
    Write(0, 0x00, b"\x01\0\0\0"): ["guest.write(Regs.status, 1)"],
    Read(0, 0x24, 4): ["guest.read(Regs.result)"],
    Read(0, 0x25, 2): ["guest.read_bytes(0, 0x25, 2)"],
    Write(0, 0x09, b"\x07"): ["guest.write(Regs.low, 7)"],
    Write(0, 0x19, b"\xff"): [r"guest.write_bytes(0, 0x19, b'\xff')"],
    Write(2, 0, b"\x01\0\0\0"): ['guest.part("ports", 0).write(PortRegs.level, 1)'],
    Read(3, 4, 4): ['guest.part("ports", 1).read(PortRegs.count)'],
    Read(1, 0, 4): ["guest.read_bytes(1, 0x0, 4)"],
    Write(7, 4, b"\x07\0"): [r"guest.write_config(0x04, b'\x07\x00')"],
    Read(7, 0, 4): ["guest.read_config(0x00, 4)"],
    Step(2): ["guest.step()", "guest.step()"],
    Run(): ["guest.run()"],
    Advance(1 << 15): ["guest.advance(0.5)"],
    Reset(): ["guest.reset()"],
    Reopen(): ["guest.close()", "guest.open()"],
    Store("pace", "7"): ["guest.store(\"pace\", '7')"],
    Show("pace"): ['guest.show("pace")'],
    Poke(0x1000, b"ab"): ["guest.memory[0x1000 : 0x1002] = b'ab'"],
    Listen(2): ["guest.enable_msix()"],
    MappedWrite(1, 0x10, b"ab"): ["guest.write_mapped(1, 0x10, b'ab')"],
    Copy(4096): ["guest.copy(4096)"],
}


def test_each_operation_is_a_statement() -> None:
    names = Names(Card, Setting("two"))
    for operation, expected in NAMED.items():
        assert lines(names, (operation,)) == expected
    assert names.imports == {"drivers.everything": {"Card", "Regs", "PortRegs"}}


def test_script_does_what_was_done() -> None:
    text = script(Card, Setting("two"), Finding("", tuple(NAMED)))
    exec(compile(text, "script", "exec"), {})


def test_register_of_two_names_is_named_by_the_direction() -> None:
    names = Names(Mtty, Setting("1"))
    assert lines(names, (Read(0, 0, 1), Write(0, 0, b"x"))) == [
        'guest.part("ports", 0).read(Regs.rbr)',
        'guest.part("ports", 0).write(Regs.thr, 0x78)',
    ]


def test_script_of_a_difference_has_both_halves() -> None:
    text = script(Card, Setting("one"), Finding("", (Reset(),), (Reopen(), Read(0, 0x24, 4))))
    assert "def before(guest: Guest) -> None:\n    guest.reset()\n" in text
    assert "    yield (guest.close(), guest.open())\n    yield guest.read(Regs.result)\n" in text
    assert text.endswith('both_ways(Card, "one", before, after)')
    exec(compile(text, "script", "exec"), {})


def test_script_makes_the_parent_with_its_options() -> None:
    setting = Setting("two", {"lanes": "0x7"})
    text = script(Card, setting, Finding("", (Reset(),)))
    assert 'with Guest(Card, "two", lanes=7) as guest:' in text
    exec(compile(text, "script", "exec"), {})
    text = script(Card, setting, Finding("", (Reset(),), (Read(0, 0x24, 4),)))
    assert text.endswith("""both_ways(Card, "two", before, after, {'lanes': '0x7'})""")
    exec(compile(text, "script", "exec"), {})


class Imaged(Card):
    def __init__(self, *, image: Path) -> None:
        super().__init__()
        assert isinstance(image, Path)


def test_script_names_a_path() -> None:
    text = script(Imaged, Setting("one", {"image": "disk.img"}), Finding("", (Reset(),)))
    assert "from pathlib import Path\n" in text
    assert "with Guest(Imaged, \"one\", image=Path('disk.img')) as guest:" in text
