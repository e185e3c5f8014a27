"""Guards of the house that no tool of `make check` has: sizes, reasons, what no file may name, links that lead nowhere.

Each guard is a function of a file and has a test in which it finds something.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
FILE_LINES = 500
FUNCTION_LINES = 50
HIDDEN = {".ci", ".github"}
BUILT = {"__pycache__", "build", "dist", "results"}

_IGNORE = re.compile(r"#\s*type:\s*ignore(\[[\w, -]+\])?(?P<reason>.*)")
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)[^)]*\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_NAMED = [
    # in pieces, so that this file does not name them
    *(r"\.".join(name) for name in (("pypi", "org"), ("files", "python" + "hosted"), ("npm" + "js", "org"))),
    *(r"\.".join(name) for name in (("crates", "io"), ("rubygems", "org"), ("proxy", "golang"), ("quay", "io"))),
    r"(?<![\w.$}~-])/wo" + r"rk/",
    r"/tmp/br" + r"ief",
    r"\bfa" + r"rm-[a-z]+",
]
_FORBIDDEN = re.compile("|".join(_NAMED))


# --- the guards: what is wrong in a file ------------------------------------------------------------------------


def long_file(path: Path) -> Iterator[str]:
    lines = path.read_text().count("\n")
    if lines > FILE_LINES:
        yield f"{lines} lines, at most {FILE_LINES}: one concept per file"


def long_function(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"line {node.lineno}: {node.name} has {lines} lines, at most {FUNCTION_LINES}"


def ignore_without_reason(path: Path) -> Iterator[str]:
    for token in _tokens(path):
        found = _IGNORE.search(token.string) if token.type == tokenize.COMMENT else None
        if found and not re.search(r"\w{2}", found["reason"]):
            yield f"line {token.start[0]}: type: ignore without a reason beside it"


def any_without_reason(path: Path) -> Iterator[str]:
    tokens = list(_tokens(path))
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    for token in tokens:
        if (token.type, token.string) != (tokenize.NAME, "Any") or re.match(r"\s*(from|import)\s", token.line):
            continue
        line = token.start[0]
        if line not in comments and "Any" not in comments.get(line - 1, ""):
            yield f"line {line}: Any without a reason beside it, or right above it in a comment that names it"


def forbidden_name(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_bytes().decode(errors="replace").splitlines(), 1):
        if found := _FORBIDDEN.search(line):
            yield f"line {number}: names {found[0]!r}"


def dead_link(path: Path) -> Iterator[str]:
    for link in _LINK.finditer(_CODE.sub("", path.read_text())):
        target = link["target"].partition("#")[0]
        if target and "://" not in target and not target.startswith("mailto:") and not (path.parent / target).exists():
            yield f"links to {target}, which is not there"


def _tokens(path: Path) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(path.read_text()).readline)


# --- the files --------------------------------------------------------------------------------------------------


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def tree(folder: Path = ROOT) -> Iterator[Path]:
    """Every file of ours: not what tools keep in hidden folders, nor what is built."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        if path.is_file():
            yield path
        elif path.name not in BUILT and (path.name in HIDDEN or not path.name.startswith(".")):
            yield from tree(path)


def check(guard: Callable[[Path], Iterator[str]], paths: list[Path]) -> None:
    findings = [f"{path.relative_to(ROOT)}: {finding}" for path in paths for finding in guard(path)]
    assert not findings, "\n".join(findings)


def test_no_source_file_is_long() -> None:
    check(long_file, python_files(SOURCE))


def test_no_function_is_long() -> None:
    check(long_function, python_files(SOURCE))


def test_every_type_ignore_has_its_reason() -> None:
    check(ignore_without_reason, python_files(SOURCE, ROOT / "tests"))


def test_every_any_has_its_reason() -> None:
    check(any_without_reason, python_files(SOURCE))


def test_no_file_names_a_registry_or_a_machine_path() -> None:
    check(forbidden_name, list(tree()))


def test_links_of_the_documents_lead_somewhere() -> None:
    check(dead_link, documents())


# --- negative controls: each guard finds what it is for ---------------------------------------------------------


BODY = "    pass\n"


@pytest.mark.parametrize(
    ("guard", "good", "bad"),
    [
        (long_file, "x = 1\n" * 500, "x = 1\n" * 501),
        (long_function, "def f():\n" + BODY * 49, "def f():\n" + BODY * 50),
        (long_function, "class C:\n" + BODY * 80, "class C:\n    async def f():\n" + ("    " + BODY) * 50),
        (ignore_without_reason, "x = y  # type: ignore[misc]  # the library is wrong\n", "x = y  # type: ignore\n"),
        (ignore_without_reason, "x = '# type: ignore'\n", "x = y  # type: ignore[misc, arg-type]\n"),
        (ignore_without_reason, "x = y  # type: ignore[misc] - untyped library\n", "x = y  # type: ignore[misc] #\n"),
        (any_without_reason, "from typing import Any\nx: Any = 1  # from JSON\n", "x: dict[str, Any] = {}\n"),
        (any_without_reason, "# Any: from JSON\nx: Any = 1\n", "# from JSON\nx: Any = 1\n"),
        (any_without_reason, "x: AnyStr = 'Any'\n", "def f(\n    x: int,  # fine\n    y: Any,\n): ...\n"),
        (forbidden_name, "see https://docs.kernel.org/ and the/wo" + "rk/dir\n", "see https://py" + "pi.org/simple\n"),
        (forbidden_name, "a network/wo" + "rk/life\n", "cd /wo" + "rk/main\n"),
        (forbidden_name, "a farm\n", "ask fa" + "rm-submit\n"),
        (dead_link, "[here](file.txt) [there](https://x.org/a) [top](#a) [a](file.txt#b)\n", "[gone](gone.md)\n"),
        (dead_link, "```\nx[int](1)\n```\n`x[int](1)` [`here`](file.txt)\n", "`x` [`gone`](gone.md) `x`\n"),
        (dead_link, "[here](file.txt 'title')\n", "![picture](gone.svg)\n"),
    ],
)
def test_guard_finds_what_it_is_for(
    guard: Callable[[Path], Iterator[str]], good: str, bad: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.txt"
    path.write_text(good)
    assert list(guard(path)) == []
    path.write_text(bad)
    assert len(list(guard(path))) == 1


def test_guards_see_the_whole_tree() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in tree()}
    assert {"pyproject.toml", "Makefile", ".gitignore", "src/mdev_user/errors.py", "tests/unit/test_house.py"} <= files
    assert not any(path.startswith((".git/", ".venv/")) for path in files)
    assert SOURCE / "mdev_user" / "errors.py" in python_files(SOURCE)
