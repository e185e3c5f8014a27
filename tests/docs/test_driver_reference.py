"""docs/reference/driver.md says what the source says, and has every name of the API once."""

import importlib.util
from types import ModuleType

import pytest

from docs.page import ROOT
from mdev_user import driver

SCRIPT = ROOT / "scripts/write_driver_reference.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_driver_reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


writer = load()


def test_the_reference_is_up_to_date() -> None:
    if writer.TARGET.read_text() != writer.page():
        pytest.fail(f"{writer.TARGET.relative_to(ROOT)} is not what the source says; run: {writer.COMMAND}")


def test_every_name_of_the_api_is_told_once() -> None:
    assert sorted(writer.names()) == sorted(driver.__all__)


def test_every_name_says_what_it_is_for() -> None:
    """What is told without a word of its own is a number, or one of many classes of one request."""
    silent = [entry.partition("\n")[0] for entry in writer.page().split("\n### ")[1:] if not entry.split("\n\n", 1)[1]]
    assert silent == []


def test_a_change_of_the_source_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = writer.page()
    monkeypatch.setattr(driver.Pool, "__doc__", "Something else.")
    after = writer.page()
    assert after != before
    assert "### Pool\n\n`Pool(total: int, *, homogeneous: bool = False)`\n\nSomething else.\n" in after


def test_a_name_that_is_told_nowhere_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(writer.GROUPS, "Parents", "Parent Profile")
    assert set(driver.__all__) - set(writer.names()) == {"Pool"}
