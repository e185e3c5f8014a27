"""``mdev-user new``: what it writes is a driver that passes a type checker and its own test; it overwrites nothing."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mdev_user import cli
from mdev_user.host.loader import load_parent

SRC = Path(__file__).parents[3] / "src"
Run = Callable[[str], Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``mdev-user new`` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda name: CliRunner().invoke(cli.app, ["new", name])


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MYPYPATH": str(SRC), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def mypy(folder: Path, *files: str) -> subprocess.CompletedProcess[str]:
    cache = str(SRC.parent / ".mypy_cache" / "new")
    return python(folder, "mypy", "--config-file", "", "--strict", "--cache-dir", cache, *files)


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(folder, "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *arguments)


def test_what_is_written_passes_a_type_checker_and_its_own_test(run: Run, tmp_path: Path) -> None:
    result = run("ring_lamp")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[:2] == ["ring_lamp.py", "test_ring_lamp.py"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ring_lamp.py", "test_ring_lamp.py"]
    checked = mypy(tmp_path, "ring_lamp.py", "test_ring_lamp.py")
    assert checked.returncode == 0, checked.stdout
    tested = pytest_in(tmp_path, "test_ring_lamp.py")
    assert tested.returncode == 0, tested.stdout
    assert "3 passed" in tested.stdout


@pytest.mark.parametrize(
    ("correct", "wrong", "complaint"),
    [
        ("self.regs.total = sum(data)", "self.regs.total = sum(data) + 1", "test_adds_up_the_bytes_and_interrupts"),
        ("self.regs.status.done = True", "pass", "test_adds_up_the_bytes_and_interrupts"),
        ("self.regs.status.fault = True", "pass", "test_an_address_without_memory_is_a_fault"),
    ],
)
def test_the_test_finds_a_driver_that_is_wrong(
    run: Run, tmp_path: Path, correct: str, wrong: str, complaint: str
) -> None:
    run("lamp")
    driver = tmp_path / "lamp.py"
    assert correct in driver.read_text()
    driver.write_text(driver.read_text().replace(correct, wrong))
    tested = pytest_in(tmp_path, "test_lamp.py", "-k", "not conforms")  # which may find it, too, and takes its time
    assert tested.returncode == 1
    assert complaint in tested.stdout


def test_a_type_checker_finds_a_driver_that_is_wrong(run: Run, tmp_path: Path) -> None:
    run("lamp")
    driver = tmp_path / "lamp.py"
    driver.write_text(driver.read_text().replace("self.regs.status.done", "self.regs.status.doen"))
    assert mypy(tmp_path, "lamp.py").returncode == 1


def test_what_is_written_is_a_parent_that_a_host_takes(run: Run, tmp_path: Path) -> None:
    run("lamp")
    parent = load_parent(f"{tmp_path / 'lamp.py'}:Lamps", {})
    assert parent.driver_name == "lamp"
    assert [each.name for each in parent.mdev_types] == ["small", "large"]


@pytest.mark.parametrize(
    ("name", "function", "parent"),
    [
        ("lamp", "Lamp", "Lamps"),
        ("frame_grabber", "FrameGrabber", "FrameGrabbers"),
        ("uart16550", "Uart16550", "Uart16550s"),
        ("glow_box_", "GlowBox", "GlowBoxes"),
        ("relay", "Relay", "Relays"),
        ("battery", "Battery", "Batteries"),
    ],
)
def test_the_classes_are_named_after_the_driver(
    run: Run, tmp_path: Path, name: str, function: str, parent: str
) -> None:
    result = run(name)
    assert result.stdout.splitlines()[-1] == f"Next: pytest test_{name}.py; mdev-user serve ./{name}.py:{parent}"
    driver, test = ((tmp_path / each).read_text() for each in (f"{name}.py", f"test_{name}.py"))
    assert f"class {function}(Function[Slice]):" in driver
    assert f"mdev-user serve ./{name}.py:{parent}`" in driver
    assert f"from {name} import {parent}, Regs" in test
    assert "Card" not in driver + test
    assert type(load_parent(f"{tmp_path / name}.py:{parent}", {})).__name__ == parent


@pytest.mark.parametrize("name", ["status", "slice", "u32", "dma_fault", "flag", "reg", "statu", "none", "true"])
def test_a_name_that_is_taken_already_makes_classes_of_another_name(run: Run, tmp_path: Path, name: str) -> None:
    assert run(name).exit_code == 0
    parent = "".join(word.capitalize() for word in name.split("_")) + "Devices"
    assert len(load_parent(f"{tmp_path / name}.py:{parent}", {}).mdev_types) == 2


@pytest.mark.parametrize("there", ["lamp.py", "test_lamp.py"])
def test_what_is_there_is_not_overwritten(run: Run, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine\n")
    result = run("lamp")
    assert result.exit_code == 1
    assert f"{there} is there already and is not overwritten" in result.stderr
    assert (tmp_path / there).read_text() == "mine\n"
    assert [each.name for each in tmp_path.iterdir()] == [there]


def test_a_link_to_nowhere_is_not_followed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "lamp.py").symlink_to(tmp_path / "elsewhere")
    assert run("lamp").exit_code == 1
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Lamp", "expected a name of lower-case letters"),
        ("2lamps", "expected a name of lower-case letters"),
        ("ring-lamp", "expected a name of lower-case letters"),
        ("../lamp", "expected a name of lower-case letters"),
        ("lämp", "expected a name of lower-case letters"),
        ("lamp\n", "expected a name of lower-case letters"),
        ("", "expected a name of lower-case letters"),
        ("class", "expected a name of lower-case letters"),
        ("json", "would hide the module json"),
        ("mdev_user", "would hide the module mdev_user"),
        ("test_lamp", "would be taken for a test"),
    ],
)
def test_a_wrong_name_is_refused(run: Run, tmp_path: Path, name: str, text: str) -> None:
    result = run(name)
    assert result.exit_code == 1
    assert text in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/proc")
    result = run("lamp")
    assert result.exit_code == 1
    assert "/proc/lamp.py cannot be written: " in result.stderr
