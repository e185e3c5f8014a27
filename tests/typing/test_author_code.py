"""The product's face: what type checkers say of author code, and what only the creation of the class says."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mdev_user.errors import DriverError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MISTAKE = "# mistake: "
SECONDS = 200


@pytest.fixture
def author(tmp_path: Path) -> Path:
    """A folder with the author's files, in which no mistake is hidden from a checker."""
    for name in ("good.py", "bad.py", "undeclared.py"):
        text = (HERE / name).read_text()
        (tmp_path / name).write_text(text.replace("# mypy: ignore-errors", "#", 1))
    return tmp_path


def mistakes(path: Path) -> dict[int, str]:
    """What is wrong in a file, by line."""
    lines = enumerate(path.read_text().splitlines(), 1)
    return {number: line.partition(MISTAKE)[2] for number, line in lines if MISTAKE in line}


def near(reported: set[int], expected: dict[int, str]) -> set[int]:
    """Reports as the line of the mistake: that of a decorated function may be reported at its def."""
    return {line - 1 if line not in expected and line - 1 in expected else line for line in reported}


def check(name: str, reported: dict[str, set[int]]) -> None:
    expected = mistakes(HERE / name)
    found = near(reported.get(name, set()), expected)
    missed = {line: expected[line] for line in expected.keys() - found}
    assert not missed, f"{name}: not reported: {missed}"
    assert found == expected.keys(), f"{name}: reported without being a mistake: lines {found - expected.keys()}"


def mypy(folder: Path) -> dict[str, set[int]]:
    """The lines that mypy --strict reports, by file."""
    options = ["--config-file", "", "--strict", "--python-version", "3.11"]
    files = sorted(path.name for path in folder.glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--cache-dir", str(ROOT / ".mypy_cache" / "author"), *files],
        cwd=folder,
        env={"MYPYPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    reported: dict[str, set[int]] = {}
    for found in re.finditer(r"^(?P<file>\S+?):(?P<line>\d+): error: ", done.stdout, re.MULTILINE):
        reported.setdefault(found["file"], set()).add(int(found["line"]))
    return reported


def pyright(folder: Path) -> dict[str, set[int]]:
    """The lines that pyright reports in its strict mode, by file."""
    program = shutil.which("pyright") or shutil.which("pyright", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("pyright is not installed (pip install pyright; it brings a node program of its own)")
    settings = {
        "typeCheckingMode": "strict",
        "extraPaths": [str(ROOT / "src")],
        "pythonVersion": "3.11",
        "reportUnusedExpression": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [program, "--outputjson", "--pythonpath", sys.executable],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    reported: dict[str, set[int]] = {}
    for found in json.loads(done.stdout)["generalDiagnostics"]:
        if found["severity"] == "error":
            reported.setdefault(Path(found["file"]).name, set()).add(found["range"]["start"]["line"] + 1)
    return reported


def test_mypy_reports_every_mistake_and_nothing_else(author: Path) -> None:
    reported = mypy(author)
    check("bad.py", reported)
    check("good.py", reported)


def test_pyright_reports_every_mistake_and_nothing_else(author: Path) -> None:
    reported = pyright(author)
    check("bad.py", reported)
    check("good.py", reported)


def test_there_are_as_many_mistakes_as_promised() -> None:
    assert len(mistakes(HERE / "bad.py")) >= 16


def test_mypy_reports_nothing_where_the_mistakes_are_mended(author: Path) -> None:
    """Negative control: a mended line is missed by `check`, so a report that is always there would be seen."""
    (author / "bad.py").write_text((author / "bad.py").read_text().replace("dev.scratch = 1", "dev.frames = 1"))
    with pytest.raises(AssertionError, match=r"not reported: .*undeclared state"):
        check("bad.py", mypy(author))


def test_good_code_makes_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    _import("good")


def test_state_set_in_a_method_is_an_error_when_the_class_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    with pytest.raises(DriverError, match=r"in Counting.count: Counting has no ticks: .* did you mean tick"):
        _import("undeclared")


def _import(name: str) -> None:
    spec = importlib.util.spec_from_file_location(f"author_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
