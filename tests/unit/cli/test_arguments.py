"""Wrong arguments: what was expected and given, in words of ours."""

import re
from pathlib import Path

import pytest
from typer import Exit
from typer.testing import CliRunner

from mdev_user import cli
from mdev_user.cli import checks, run
from mdev_user.cli.machine import Machine
from unit.daemon.fake_operations import USED


def said(*words: str) -> str:
    """On stderr, on one line, without the box around it."""
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2, result.output
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.stderr).split())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["show", "nonsense"],
            "expected a UUID such as 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 (see `mdev-user list`), given 'nonsense'",
        ),
        (["list", "-o", "xml"], "expected one of 'table', 'json', 'name', given 'xml'"),
        (["serve", "--log-level", "loud"], "expected one of 'debug', 'info', 'warning', 'error', given 'loud'"),
        (["check", "crc", "--examples", "abc"], "expected a whole number, given 'abc'"),
        (["check", "crc", "--examples", "0"], "expected a number of at least 1, given '0'"),
        (["remove", str(USED), "--wait", "nan"], "expected a number of at most 86400, given 'nan'"),
        (["remove", str(USED), "--wait", "soon"], "expected a number, given 'soon'"),
        (["list", "--run-dir", ""], "'--run-dir': expected a folder, given ''"),
        (["serve", "--run-dir", ""], "'--run-dir': expected a folder, given ''"),
        (
            ["qemu-args", str(USED), "--memory", "4T"],
            "'--memory': expected a size in M or G, such as 512M or 4G, given '4T'",
        ),
        (["run", "--run-dir", "", "true"], "'--run-dir': expected a folder, given ''"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_it_is_told_what_was_expected_and_given(words: list[str], text: str) -> None:
    assert text in said(*words)


def test_a_command_that_is_like_none_is_not_guessed() -> None:
    assert "did you mean" not in said("parents")


@pytest.mark.parametrize("command", ["check", "registers"])
def test_an_option_that_a_parent_does_not_have_is_refused(command: str) -> None:
    result = CliRunner().invoke(cli.app, [command, "crc,foo=1"])
    assert result.exit_code == 1
    assert "crc has no option foo; it has: " in result.stderr


def test_an_option_that_a_parent_has_is_taken() -> None:
    assert CliRunner().invoke(cli.app, ["registers", "crc,name=mine"]).exit_code == 0


def test_an_empty_command_is_127(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run, "_IGNORED_BY_PYTHON", ())  # this process goes on
    with pytest.raises(Exit) as ended:
        run._become([""], {})
    assert ended.value.exit_code == 127
    assert capsys.readouterr().err == "mdev-user: cannot run '': No such file or directory\n"


def test_a_script_whose_interpreter_is_not_there_is_126(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "_IGNORED_BY_PYTHON", ())  # this process goes on
    bad = tmp_path / "bad.sh"
    bad.write_text("#!/no/such/interpreter\n")
    bad.chmod(0o755)
    with pytest.raises(Exit) as ended:
        run._become([str(bad)], {})
    assert ended.value.exit_code == 126
    assert capsys.readouterr().err == f"mdev-user: cannot run {bad}: its interpreter is not there\n"


@pytest.mark.parametrize("full", ["lamp.py", "test_lamp.py"])
def test_new_leaves_nothing_on_a_full_disk(full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begin = Path.open

    def opened(path: Path, *arguments: str, **settings: str) -> object:
        file = begin(path, *arguments, **settings)  # type: ignore[call-overload]  # as it was called
        if path.name == full:
            file.close()
            return begin(Path("/dev/full"), "w", encoding="utf-8")
        return file

    monkeypatch.setattr(Path, "open", opened)
    result = CliRunner().invoke(cli.app, ["new", "lamp"])
    assert result.exit_code == 1
    assert f"{full} cannot be written: No space left on device" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_to_do_about_a_wrong_run_directory() -> None:
    answer = checks.CHECKS["run directory"](checks.Subject(Machine(), Path("/" + "x" * 100)))
    assert "give another --run-dir DIR" in answer.cure
