"""What guests access and nobody declared, as registers that can be pasted into the bar's class."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdev_user import driver
from mdev_user.cli.missing_registers import declaration
from mdev_user.driver import RO, RW1C, U8, U16, U32, U64, UNIMPL, Bar, Each, Flag, Register, RegisterFile
from mdev_user.driver.inspection.unmodelled import MOST_SUGGESTED, Access, suggestions, unmodelled
from mdev_user.driver.watch import MOST_UNMODELLED
from mdev_user.regs.layout import Layout
from mdev_user.testing import Guest
from mdev_user.vfio.inspection import MissingRegisters, Suggestion, Unmodelled
from unit.driver.panel import PanelCard, Regs

SIZE = 64


class Page(Register, size=1):
    high = Flag(7)


class Pair(RegisterFile):
    one, other = U8(0), U16(2)


class Declared(Bar, index=0, size=SIZE):
    first = U32(0x00)
    status = U8(0x07, RW1C)
    page = Page.at(0x08)
    overlay = U32(0x10, bank=Page.high)
    pair = Each(Pair, at=0x18, count=2)
    known_missing = U64(0x20, UNIMPL)
    unknown_0x30 = U8(0x3F, RO)


def suggested(*accesses: tuple[int, int]) -> list[tuple[int, int]]:
    found = suggestions(Declared._layout, [Access(offset, size, False, 1) for offset, size in accesses])
    return [(each.offset, each.size) for each in found]


@pytest.mark.parametrize(
    ("accesses", "registers"),
    [
        ([(0x28, 4)], [(0x28, 4)]),
        ([(0x28, 4), (0x29, 1), (0x2A, 2)], [(0x28, 4)]),
        ([(0x28, 4), (0x28, 8)], [(0x28, 8)]),
        ([(0x28, 1), (0x2A, 2), (0x2C, 4)], [(0x28, 1), (0x2A, 2), (0x2C, 4)]),
        ([(0x29, 4)], [(0x29, 1), (0x2A, 2), (0x2C, 1)]),  # not aligned
        ([(0x29, 4), (0x2A, 2)], [(0x29, 1), (0x2A, 2), (0x2C, 1)]),
        ([(0x28, 3)], [(0x28, 2), (0x2A, 1)]),  # no register's size
        ([(0x00, 8)], [(0x04, 2), (0x06, 1)]),  # beside what is declared
        ([(0x10, 4)], [(0x10, 4)]),  # below an overlay
        ([(0x18, 8)], [(0x19, 1), (0x1D, 1)]),  # between the registers of an array
        ([(0x20, 8)], []),  # declared as unimplemented
        ([(0x28, 16)], [(0x28, 4), (0x2C, 4), (0x30, 4), (0x34, 4)]),
        ([(0x28, 16), (0x30, 8)], [(0x28, 4), (0x2C, 4), (0x30, 8)]),
        ([], []),
    ],
)
def test_accesses_are_merged_into_registers(accesses: list[tuple[int, int]], registers: list[tuple[int, int]]) -> None:
    assert suggested(*accesses) == registers


def test_a_register_counts_every_access_that_touched_it() -> None:
    accesses = [Access(0x28, 4, False, 12), Access(0x29, 1, True, 3), Access(0x2A, 4, False, 5)]
    assert list(suggestions(Declared._layout, accesses)) == [
        Suggestion("unknown_0x28", 0x28, 4, 17, 3),
        Suggestion("unknown_0x2c", 0x2C, 2, 5, 0),
    ]


def test_a_name_that_is_taken_is_not_taken_twice() -> None:
    [found] = suggestions(Declared._layout, [Access(0x30, 4, False, 1)])
    assert found.name == "unknown_0x30_"


def pasted(layout: Layout, accesses: Iterable[Access]) -> type[Bar]:
    """The class with what is printed in its body: a paste into the author's file."""
    registers = list(suggestions(layout, accesses))
    found = Unmodelled([MissingRegisters("Declared", registers, False)], len(registers), False)
    text = "\n".join(["class Pasted(Declared):", *declaration(found), "    pass"])
    scope: dict[str, object] = {**vars(driver), "Declared": Declared}
    exec(text, scope)
    kind = scope["Pasted"]
    assert isinstance(kind, type)
    assert issubclass(kind, Bar)
    return kind


ACCESSES = st.lists(
    st.builds(Access, st.integers(0, SIZE - 1), st.integers(1, SIZE), st.booleans(), st.integers(1, 9)), max_size=12
).map(lambda found: [each for each in found if each.offset + each.size <= SIZE])


@settings(max_examples=150)
@given(ACCESSES)
def test_what_is_printed_is_a_declaration_of_every_byte_that_was_missing(accesses: list[Access]) -> None:
    def free(layout: Layout) -> set[int]:
        slots = [slot for slot in layout.slots if slot.selected is None]
        return set(range(SIZE)) - {byte for slot in slots for byte in range(slot.offset, slot.end)}

    touched = {byte for each in accesses for byte in range(each.offset, each.offset + each.size)}
    layout = pasted(Declared._layout, accesses)._layout
    assert free(layout) == free(Declared._layout) - touched
    for slot in layout.slots[len(Declared._layout.slots) :]:
        assert slot.offset % slot.size == 0


def test_a_paste_that_overlaps_is_refused_by_the_class() -> None:
    """The negative control of the test above: had an access been taken as it was, the class would say so."""
    with pytest.raises(driver.DriverError, match="status at 0x7 overlaps unknown_0x6 at 0x6"):
        type("Pasted", (Declared,), {"unknown_0x6": U16(0x06)})


# --- of a device ------------------------------------------------------------------------------------------------


def count(guest: Guest) -> Unmodelled:
    return unmodelled(guest.device, dict(guest.device.unmodelled), MOST_UNMODELLED)


def test_a_devices_accesses_are_told_by_bar_class() -> None:
    with Guest(PanelCard, "1") as guest:
        for _ in range(12):
            guest.read_bytes(0, 0x40, 4)
        guest.write_bytes(0, 0x48, b"\1\0")
        guest.read_bytes(1, 4, 4)  # the same register, of two parts
        guest.write_bytes(2, 4, b"\1\0\0\0")
        guest.read(Regs.missing)
        assert list(declaration(count(guest))) == [
            "# class Regs; from mdev_user.driver import U16, U32, UNIMPL, WO",
            "    unknown_0x40 = U32(0x40, UNIMPL)  # read 12 times",
            "    unknown_0x48 = U16(0x48, WO)  # written once",
            "# class Dials; from mdev_user.driver import U32",
            "    unknown_0x4 = U32(0x4)  # read once, written once",
        ]


def test_nothing_missing_is_said_in_a_comment() -> None:
    with Guest(PanelCard, "1") as guest:
        guest.read(Regs.wide)
        assert list(declaration(count(guest))) == [
            "# Nothing is missing: every access was to something that is declared."
        ]
        guest.read(Regs.missing)
        assert list(declaration(count(guest))) == ["# class Regs: only what is declared as UNIMPL was accessed."]


def test_a_guest_that_reads_everything_gets_a_bounded_list() -> None:
    with Guest(PanelCard, "1") as guest:
        guest.read_bytes(0, 0, 4096)
        found = count(guest)
        assert len(found.bars[0].registers) == MOST_SUGGESTED
        assert found.bars[0].left_out
        assert list(declaration(found))[-1] == "    # and more: 128 are told at a time"


def test_a_guest_that_tries_every_access_is_remembered_up_to_a_bound() -> None:
    with Guest(PanelCard, "1") as guest:
        for offset in range(0x40, 0x40 + 2 * MOST_UNMODELLED):
            guest.read_bytes(0, offset, 1)
        found = count(guest)
        assert (found.accesses, found.forgotten) == (MOST_UNMODELLED, True)
        assert "more different accesses than are remembered" in list(declaration(found))[-1]


def test_a_paste_into_the_authors_file_makes_the_registers(tmp_path: Path) -> None:
    """As an author does it: the lines go into the class, and the next access is no longer unmodelled."""
    source = (Path(__file__).parents[1] / "panel.py").read_text()
    with Guest(PanelCard, "1") as guest:
        guest.read_bytes(0, 0x40, 4)
        lines = "\n".join(declaration(count(guest)))
    marker = "    cell = Each(Cell, at=0x20, count=3)\n"
    assert marker in source
    (tmp_path / "panel.py").write_text(source.replace(marker, f"{marker}{lines}\n"))
    code = (
        "from panel import PanelCard, Regs; from mdev_user.testing import Guest\n"
        "guest = Guest(PanelCard, '1'); guest.read(Regs.unknown_0x40)\n"
        "print(guest.device.unmodelled)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "{(0, 64, 4, False): 1}\n", done.stderr  # UNIMPL goes on being counted
