"""``mdev-user check``: what it prints, and its exit status."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mdev_user.cli import app

BAD = Path(__file__).parents[2] / "drivers" / "bad"


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


def test_usage_is_status_two(runner: CliRunner) -> None:
    assert runner.invoke(app, ["check"]).exit_code == 2
    assert runner.invoke(app, ["check", "crc", "--examples", "none"]).exit_code == 2
