"""Which branches the fuzzers reach: every input of the corpora once more, under coverage.py.

``python -m fuzz.reached [TARGET ...]`` prints a table of modules, and every branch that was not reached and for which
`unreached.toml` has no reason.
"""

import ast
import json
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import coverage

from fuzz.run import BUILD, ROOT
from fuzz.targets import MODULES, target_of

REASONS = Path(__file__).with_name("unreached.toml")


def replay(names: Sequence[str]) -> dict[str, Any]:  # Any: what coverage.py's JSON says of each file
    """The files of its report, by path."""
    measured = coverage.Coverage(data_file=None, branch=True, include=[str(ROOT / "src" / "*")])
    measured.start()
    try:
        for name in names:
            print(f"{name}: {_play(name)} inputs", flush=True)
    finally:
        measured.stop()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        measured.json_report(outfile=file.name)
        report: dict[str, Any] = json.loads(Path(file.name).read_text())  # Any: as above
    return {str((Path.cwd() / path).resolve()): each for path, each in report["files"].items()}


def _play(name: str) -> int:
    target = target_of(name)
    corpus = BUILD / "corpus" / name
    inputs = [*target.seeds(), *(path.read_bytes() for path in sorted(corpus.glob("*")))]
    for data in inputs:
        target.one(data)
    return len(inputs)


def functions(path: Path) -> dict[int, str]:
    """In which function or class each line is."""
    found: dict[int, str] = {}

    def visit(node: ast.AST, names: tuple[str, ...]) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = (*names, node.name)
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                found[line] = ".".join(names)
        for child in ast.iter_child_nodes(node):
            visit(child, names)

    visit(ast.parse(path.read_text()), ())
    return found


def unreached(path: Path, arcs: Sequence[Sequence[int]]) -> Iterator[tuple[str, int, str]]:
    """Of each branch that was not reached: the function, the line and its text."""
    names, lines = functions(path), path.read_text().splitlines()
    for start, end in arcs:
        text = lines[abs(start) - 1].strip()
        yield names.get(abs(start), ""), abs(start), f"{text}  -> {'end' if end < 0 else end}"


def main(arguments: Sequence[str]) -> int:
    names = arguments or list(MODULES)
    files = replay(names)
    reasons = tomllib.loads(REASONS.read_text())
    modules = sorted({module for name in names for module in target_of(name).covers})
    unexplained: list[str] = []
    for module in modules:
        spec = find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        unexplained += _row(module, Path(spec.origin), files.get(spec.origin, {}), reasons.get(module, {}))
    print(f"\n{len(unexplained)} branches are not reached for no known reason")
    print("\n".join(unexplained))
    return 1 if unexplained else 0


def _is_of(branch: tuple[str, int, str], name: str) -> bool:
    """Whether it is of that function or class, or of its line that begins so: ``function: line``."""
    function, _line, text = branch
    return f"{function}.".startswith(f"{name}.") or f"{function}: {text}".startswith(name)


# Any: what coverage.py's JSON says of a file
def _row(module: str, path: Path, file: dict[str, Any], reasons: dict[str, str]) -> list[str]:
    summary = file.get("summary", {})
    total, reached = summary.get("num_branches", 0), summary.get("covered_branches", 0)
    missing = list(unreached(path, file.get("missing_branches", [])))
    unknown = [each for each in missing if not any(_is_of(each, name) for name in reasons)]
    idle = [name for name in reasons if not any(_is_of(each, name) for each in missing)]
    if idle:
        print(f"{module}: no reason is needed for {', '.join(idle)}", file=sys.stderr)
    share = 100 * reached / total if total else 100
    print(f"| `{module}` | {total} | {reached} | {share:.0f} % | {len(missing) - len(unknown)} | {len(unknown)} |")
    return [f"{module}:{line} {name}: {text}" for name, line, text in unknown]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
