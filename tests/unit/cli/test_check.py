"""``mdev-user check``: what it prints, and its exit status."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mdev_user.cli import app
from mdev_user.errors import ConfigError
from mdev_user.host.loader import load_parent

BAD = Path(__file__).parents[2] / "drivers" / "bad"

DISK = """
from dataclasses import dataclass
from pathlib import Path

from mdev_user.driver import RO, U32, Bar, Function, Parent, PciId, Pool, Profile


class Regs(Bar, index=0, size=64):
    size = U32(0x00, RO)


@dataclass(frozen=True)
class Slice(Profile):
    sectors: int


class Disk(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=0x0D15, class_code=0x018000)
    regs = Regs()


class Disks(Parent[Slice]):
    function = Disk
    sectors = Pool(8)
    types = {"small": Slice(sectors=1), "large": Slice(sectors=4)}

    def __init__(self, *, file: Path) -> None:
        super().__init__(sectors=len(file.read_bytes()))
"""


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def test_good_driver_passes_and_says_what_was_tried(runner: CliRunner) -> None:
    result = runner.invoke(app, ["check", "crc", "--examples", "3", "--seed", "7"])
    assert result.exit_code == 0
    assert [line.partition(":")[0] for line in result.output.splitlines()] == [
        "access rules", "accounts", "behaviour", "hostile states", "Card",
    ]  # fmt: skip


def test_bad_driver_of_a_file_fails_with_a_script(runner: CliRunner) -> None:
    result = runner.invoke(app, ["check", f"{BAD / 'unbounded.py'}:Card"])
    assert result.exit_code == 1
    assert "bound the length" in result.output
    assert "from unbounded import Card, Regs" in result.output
    assert "guest.write(Regs.go, " in result.output


def test_what_is_no_declared_parent_is_refused(runner: CliRunner) -> None:
    result = runner.invoke(app, ["check", f"{BAD.parents[1] / 'unit' / 'drivers' / 'mtty_by_hand.py'}:Mtty"])
    assert result.exit_code == 1
    assert "expected a Parent with a declared function" in result.output


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """A driver that cannot be made without an option."""
    (tmp_path / "disk.py").write_text(DISK)
    return f"{tmp_path}/disk.py:Disks"


@pytest.mark.parametrize(("sectors", "types"), [(9, 2), (3, 1)])
def test_options_reach_every_parent_that_is_made(
    runner: CliRunner, disk: str, tmp_path: Path, sectors: int, types: int
) -> None:
    image = tmp_path / "one,two.img"
    image.write_bytes(bytes(sectors))
    result = runner.invoke(app, ["check", f"{disk},file={tmp_path}/one,,two.img,name=boot", "--examples", "3"])
    assert result.exit_code == 0, result.output
    assert f"accounts: {types} types" in result.output  # a large one takes four sectors
    assert result.output.splitlines()[-1] == "Disks: nothing found"


def test_options_are_those_of_the_pools_where_a_driver_has_no_others(runner: CliRunner) -> None:
    result = runner.invoke(app, ["check", "crc,lanes=1", "--examples", "3"])
    assert result.exit_code == 0, result.output
    assert "accounts: 1 types" in result.output
    result = runner.invoke(app, ["check", "crc,lanes=0", "--examples", "3"])
    assert result.exit_code == 1
    assert "0 are free: the parent has 0 in all; register it with lanes=1 or more" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fiel": "x"}, "has no option fiel; it has: file"),
        ({}, "needs the option file: "),
        ({"file": "/nowhere"}, "could not be made: FileNotFoundError: "),
    ],
)
def test_wrong_options_are_told_as_serve_tells_them(
    runner: CliRunner, disk: str, options: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as told:
        load_parent(disk, options)  # as a host does for `serve`
    given = "".join(f",{name}={text}" for name, text in options.items())
    result = runner.invoke(app, ["check", f"{disk}{given}"])
    assert result.exit_code == 1
    assert result.stderr == f"mdev-user: {told.value}\n"


def test_a_value_that_is_none_is_told(runner: CliRunner) -> None:
    result = runner.invoke(app, ["check", "crc,lanes=many"])
    text = "mdev-user: crc: option lanes=many: expected an integer, such as 16 or 0x10, given 'many'\n"
    assert (result.exit_code, result.stderr) == (1, text)


def test_usage_is_status_two(runner: CliRunner) -> None:
    assert runner.invoke(app, ["check"]).exit_code == 2
    assert runner.invoke(app, ["check", "crc", "--examples", "none"]).exit_code == 2
