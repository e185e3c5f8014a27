"""``mdev-user registers``: golden files in each form, headers that compile, and what is said of other drivers."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from mdev_user import cli
from mdev_user.cli import register_header
from mdev_user.driver import MdevParentOps
from mdev_user.driver.inspection.register_map import RegisterMap, register_map
from mdev_user.drivers.crc import Card
from unit.driver.queues import QueueCard

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).with_name("golden")
PARENTS = {"crc": "crc", "mbochs": "mbochs", "queues": f"{ROOT / 'tests/unit/driver/queues.py'}:QueueCard"}
FORMS = {"md": "markdown", "h": "c", "json": "json"}

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["registers", *arguments])


@pytest.mark.parametrize("name", PARENTS)
@pytest.mark.parametrize("suffix", FORMS)
def test_what_is_printed_is_the_golden_file(name: str, suffix: str) -> None:
    result = run(PARENTS[name], "-o", FORMS[suffix])
    assert result.exit_code == 0, result.output
    assert result.stdout == (GOLDEN / f"{name}.{suffix}").read_text()


def test_markdown_is_the_default() -> None:
    assert run("crc").stdout == (GOLDEN / "crc.md").read_text()


def test_json_is_the_map() -> None:
    assert msgspec.json.decode(run("crc", "-o", "json").stdout, type=RegisterMap) == register_map(Card)


def test_every_row_of_a_table_has_as_many_cells_as_its_headings() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", run(PARENTS["queues"]).stdout, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


# --- the header -------------------------------------------------------------------------------------------------


def compile_c(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "user.c"
    file.write_text(source)
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def facts(found: RegisterMap, function: str) -> Iterator[str]:
    """What must be true in C of each register and field; written out here, not by the code under test."""
    for bar in found.bars:
        for register in bar.registers if bar.is_bar else ():
            name = f"{function}_{bar.name}_{register.name.replace('.', '_')}".upper()
            if name == "QUEUES_REGS_QUEUE_COUNT":  # the count of the array queue has this name
                name += "_"
            for number in range(register.array.count if register.array else 1):
                stride = register.array.stride if register.array else 0
                macro = f"{name}(0 + {number})" if register.array else name
                yield f"{macro} * 1 == {register.offset + number * stride}"
            for field in register.fields:
                bits = f"{name}_{field.name.upper()}"
                yield f"{bits}_MASK >> {bits}_SHIFT == {(1 << field.width) - 1}"
                yield from (f"{bits}_{member} == {value}" for member, value in field.values.items())


def program(header: str, facts: list[str]) -> str:
    checks = [f"extern char fact_{number}[({fact}) ? 1 : -1];" for number, fact in enumerate(facts)]
    return "\n".join([header, header, *checks, ""])  # twice: as if included twice


@needs_cc
@pytest.mark.parametrize(("name", "parent"), [("crc", Card), ("queues", QueueCard)])
def test_the_header_compiles_and_says_what_the_map_says(name: str, parent: type[MdevParentOps], tmp_path: Path) -> None:
    true = list(facts(register_map(parent), name))
    assert len(true) > 10
    done = compile_c(program((GOLDEN / f"{name}.h").read_text(), true), tmp_path)
    assert done.returncode == 0, done.stderr


@needs_cc
def test_a_header_that_says_otherwise_does_not_compile(tmp_path: Path) -> None:
    header = (GOLDEN / "crc.h").read_text()
    wrong = header.replace("CRC_REGS_STATUS 0x04", "CRC_REGS_STATUS 0x05")
    assert wrong != header
    assert compile_c(program(wrong, list(facts(register_map(Card), "crc"))), tmp_path).returncode != 0


@needs_cc
def test_without_the_care_for_comments_the_header_would_not_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register_header, "_comment", lambda text: f"/* {text} */")
    assert compile_c(program(register_header.header(register_map(QueueCard)), []), tmp_path).returncode != 0


@needs_cc
def test_without_the_care_for_names_the_header_would_not_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = register_header._written

    def careless(lines: Iterator[register_header._Line], taken: set[str]) -> Iterator[str]:
        return (text for line in lines for text in written(iter([line]), set()))

    monkeypatch.setattr(register_header, "_written", careless)
    assert compile_c(program(register_header.header(register_map(QueueCard)), []), tmp_path).returncode != 0


@pytest.mark.parametrize(
    ("name", "macro"),
    [("QueueTail", "QUEUE_TAIL"), ("queue.tail", "QUEUE_TAIL"), ("V2", "V2"), ("4q-vram", "4Q_VRAM"), ("_Crc", "CRC")],
)
def test_names_are_those_of_c(name: str, macro: str) -> None:
    assert register_header._name(name) == macro


# --- what has no registers --------------------------------------------------------------------------------------

BY_HAND = """
from mdev_user.driver import DeviceOps, MdevParentOps, MdevType

class ByHand(MdevParentOps):
    driver_name = "by-hand"
    mdev_types = (MdevType("1"),)

    def create(self, mdev):
        return DeviceOps()

    def remove(self, mdev):
        pass
"""

WRONG_REGISTER = """
from mdev_user.driver import U32, Bar

class Regs(Bar, index=0, size=16):
    last = U32(0x10)
"""


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (BY_HAND, "mdev-user: by-hand declares no registers"),
        ("import nothing_of_this_name", r"driver\.py:1 could not be imported: ModuleNotFoundError"),
        ("class ByHand(", r"driver\.py:1 could not be imported: SyntaxError"),
        ("raise SystemExit(3)", r"driver\.py:1 could not be imported: SystemExit: 3"),
        (WRONG_REGISTER, r"driver\.py:4 could not be imported: DriverError: Regs\.last ends at 0x14"),
        ("class Other: pass", r"driver\.py has no ByHand"),
        ("class ByHand: pass", r"expected a parent driver \(a subclass of MdevParentOps\)"),
    ],
)
def test_a_file_without_registers_is_told_in_a_line(source: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "driver.py"
    file.write_text(source)
    result = run(f"{file}:ByHand")
    assert (result.exit_code, result.stdout) == (1, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("mdev-user: "), result.stderr
    assert re.search(text, last), last


def test_an_unknown_driver_is_answered_with_the_likeliest() -> None:
    result = run("crcc")
    assert result.exit_code == 1
    assert "did you mean 'crc'?" in result.stderr


def test_an_unknown_form_is_wrong_usage() -> None:
    assert run("crc", "-o", "yaml").exit_code == 2
