"""The pages of docs/reference that are written from the source say what it says, and have every name once."""

import importlib.util
from types import ModuleType
from typing import Any

import pytest

from docs.page import ROOT
from mdev_user import driver

SCRIPT = ROOT / "scripts/write_reference.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


writer = load()


@pytest.mark.parametrize("reference", writer.REFERENCES, ids=lambda each: each.target.stem)
class TestReference:
    def test_page_is_up_to_date(self, reference: Any) -> None:
        if reference.target.read_text() != reference.page():
            pytest.fail(f"{reference.target.relative_to(ROOT)} is not what the source says; run: {writer.COMMAND}")

    def test_every_name_is_told_once(self, reference: Any) -> None:
        assert sorted(reference.names) == sorted(reference.module.__all__)

    def test_every_name_says_what_it_is_for(self, reference: Any) -> None:
        entries = reference.page().split("\n### ")[1:]
        assert [each.partition("\n")[0] for each in entries if not each.partition("\n")[2].strip()] == []


def test_a_change_of_the_source_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = writer.DRIVER.page()
    monkeypatch.setattr(driver.Pool, "__doc__", "Something else.")
    after = writer.DRIVER.page()
    assert after != before
    assert "### Pool\n\n`Pool(total: int, *, homogeneous: bool = False)`\n\nSomething else.\n" in after


def test_a_name_that_is_told_nowhere_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(writer.DRIVER.groups, "Parents", "Parent Profile Instances")
    assert set(driver.__all__) - set(writer.DRIVER.names) == {"Pool"}
