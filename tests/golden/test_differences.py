"""A row says what differs and nothing else, and its page says what the row does."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from golden.differences import FILE, Difference, complaints, read
from golden.normal import skipped
from golden.transcript import read_steps

ROOT = Path(__file__).resolve().parents[2]
ROW = Difference("row", "A row", ("b",), (r"rc 1 -> \d", "out - x"), "Why.", "That.", "This.")
FOUND = {**{f"same{number}": [] for number in range(40)}, "a": [], "b": ["rc 1 -> 2", "out - x"]}


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_differences", ROOT / "scripts/write_differences.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_and_differences_that_agree_are_no_complaint() -> None:
    assert complaints(FOUND, [ROW]) == []


def test_a_difference_without_a_row_is_named() -> None:
    assert complaints(FOUND, []) == ["b differs, and no row says so:\n    rc 1 -> 2\n    out - x"]


def test_a_difference_that_is_larger_than_its_row_is_named() -> None:
    found = {**FOUND, "b": ["rc 1 -> 2", "out - x", "errno None -> EIO"]}
    assert complaints(found, [ROW]) == ["b differs, more than row say:\n    errno None -> EIO"]


def test_a_step_of_a_row_without_a_difference_is_named() -> None:
    wrong = complaints(FOUND, [replace(ROW, steps=("a", "b"))])
    assert wrong == ["a is in row row, but that difference is not there"]


def test_a_step_of_a_row_that_was_not_compared_is_named() -> None:
    wrong = complaints(FOUND, [replace(ROW, steps=("b", "gone"))])
    assert wrong == ["gone is in row row, but that difference is not there"]


def test_a_row_without_a_difference_is_named() -> None:
    wrong = complaints({**FOUND, "b": []}, [ROW])
    assert wrong[0] == "b is in row row, but that difference is not there"
    assert len(wrong) == 3  # and each of its patterns


def test_a_pattern_without_a_difference_is_named() -> None:
    assert complaints({**FOUND, "b": ["out - x"]}, [ROW]) == [r"the part 'rc 1 -> \\d' of row row is nowhere"]


def test_more_than_a_twentieth_in_rows_is_too_many() -> None:
    found = {f"{number}": ["out - x"] for number in range(40)}
    steps = ("0", "1", "2")
    row = replace(ROW, steps=steps, parts=("out - x",))
    assert complaints({**found, **{name: [] for name in found if name not in steps}}, [row]) == [
        "3 of 40 steps are in rows, at most 2 may be"
    ]


def test_a_row_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "differences.toml"
    path.write_text(FILE.read_text().replace("reason =", "because =", 1))
    with pytest.raises(ValueError, match="expected a row with"):
        read(path)


def test_rows_name_steps_that_are_compared() -> None:
    compared = {step.name for step in read_steps() if skipped(step) is None}
    assert [step for row in read() for step in row.steps if step not in compared] == []


def test_page_is_up_to_date() -> None:
    writer = load()
    if writer.TARGET.read_text() != writer.page():
        pytest.fail(f"{writer.TARGET.relative_to(ROOT)} is not what the rows say; run: {writer.COMMAND}")
