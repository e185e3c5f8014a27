"""The differences that we mean: rows of differences.toml, and what is wrong when a replay does not show just those."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T", "Difference", "Unrecorded")

FILE = Path(__file__).parent / "differences.toml"
MOST = 0.05
"""Of all steps: how many may be in rows."""
MOST_OF_VFIO = 0.2
"""Of those of the VFIO transcript: it asks four devices the same, so a difference is there four times."""


@dataclass(frozen=True)
class Unrecorded:
    """A difference that no step shows."""

    id: str
    title: str
    reason: str
    kernel: str
    ours: str


@dataclass(frozen=True)
class Difference:
    """One row. A step may be in several."""

    id: str
    title: str
    steps: tuple[str, ...]
    parts: tuple[str, ...]
    """Patterns: what of a step's answer may differ. Each part that differs (see `comparing`) must match one."""
    reason: str
    kernel: str
    ours: str

    def has(self, part: str) -> bool:
        return any(re.fullmatch(pattern, part) for pattern in self.parts)


def read(path: Path = FILE) -> list[Difference]:
    """ValueError for a row that is not complete, or an id that is there twice."""
    return _rows(path, "difference", Difference)


def read_vfio(names: Iterable[str], path: Path = FILE) -> list[Difference]:
    """The rows of the VFIO transcript, whose steps are patterns: of which of ``names``, the row then has.

    ValueError for a pattern that matches none, and errors as of `read`.
    """
    return [replace(row, steps=_named(row, list(names))) for row in _rows(path, "vfio", Difference)]


def _named(row: Difference, names: Sequence[str]) -> tuple[str, ...]:
    for pattern in row.steps:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise ValueError(f"row {row.id}: no step is {pattern!r}")
    return tuple(name for name in names if any(re.fullmatch(pattern, name) for pattern in row.steps))


def read_unrecorded(path: Path = FILE) -> list[Unrecorded]:
    """Errors as of `read`."""
    return _rows(path, "unrecorded", Unrecorded)


def _rows(path: Path, table: str, kind: type[_T]) -> list[_T]:
    found = tomllib.loads(path.read_text())[table]
    if len({row.get("id") for row in found}) != len(found):
        raise ValueError(f"{path.name}: an id is there twice")
    return [_row(row, kind) for row in found]


# Any: of the file, which the checks give their types
def _row(row: Mapping[str, Any], kind: type[_T]) -> _T:
    names = [each.name for each in fields(kind)]
    if row.keys() != set(names) or not all(row.values()):
        raise ValueError(f"expected a row with {', '.join(names)}, none of them empty, given {row}")
    told: dict[str, Any] = {  # Any: as above
        name: " ".join(value.split()) if isinstance(value, str) else tuple(value) for name, value in row.items()
    }
    return kind(**told)


def complaints(found: Mapping[str, Sequence[str]], rows: Sequence[Difference], most: float = MOST) -> list[str]:
    """What is wrong; nothing when the rows and what a replay found (parts by step, see `replay.compare`) are one."""
    return [*_without_row(found, rows), *_without_difference(found, rows), *_too_many(found, rows, most)]


def _without_row(found: Mapping[str, Sequence[str]], rows: Sequence[Difference]) -> Iterator[str]:
    for step, parts in found.items():
        of_step = [row for row in rows if step in row.steps]
        untold = [part for part in parts if not any(row.has(part) for row in of_step)]
        if untold:
            told = f"more than {', '.join(row.id for row in of_step)} say" if of_step else "and no row says so"
            yield "\n    ".join([f"{step} differs, {told}:", *untold])


def _without_difference(found: Mapping[str, Sequence[str]], rows: Sequence[Difference]) -> Iterator[str]:
    for row in rows:
        for step in row.steps:
            if not any(row.has(part) for part in found.get(step, ())):
                yield f"{step} is in row {row.id}, but that difference is not there"
        parts = [part for step in row.steps for part in found.get(step, ())]
        for pattern in row.parts:
            if not any(re.fullmatch(pattern, part) for part in parts):
                yield f"the part {pattern!r} of row {row.id} is nowhere"


def _too_many(found: Mapping[str, Sequence[str]], rows: Sequence[Difference], part: float) -> Iterator[str]:
    covered, most = len({step for row in rows for step in row.steps}), int(len(found) * part)
    if covered > most:
        yield f"{covered} of {len(found)} steps are in rows, at most {most} may be"
