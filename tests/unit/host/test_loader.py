"""Finding a parent driver and giving it its options, as text."""

import sys
from pathlib import Path

import pytest

from mdev_user.errors import ConfigError, NoSpace
from mdev_user.host.loader import load_parent

PARENT = """
from pathlib import Path
from mdev_user.driver import DeviceOps, MdevParentOps, MdevType, NoSpace

class Shape(MdevParentOps):
    driver_name = "shape"
    mdev_types = (MdevType("1"),)

    def __init__(self, *, count: int, scale: float = 1.0, bright: bool = False, file: Path | None = None, text="x"):
        if count > 100:
            raise NoSpace("there is room for 100")
        if count < 0:
            raise ValueError("a negative count")
        self.values = (count, scale, bright, file, text)

    def create(self, mdev):
        return DeviceOps()

    def remove(self, mdev):
        pass

class Abstract(MdevParentOps):
    driver_name = "abstract"
    mdev_types = (MdevType("1"),)

class Hexagon:
    pass

number = 5
"""

FUNCTION = """
from mdev_user.driver import Function, Instances, Parent, PciId, Profile
from mdev_user.drivers.crc import Crc as Another

class Lamp(Function[Profile]):
    identity = PciId(vendor=0x1234, device=1, class_code=0xFF0000)
"""
LAMPS = """
class Lamps(Parent[Profile]):
    function = Lamp
    count = Instances(4)
    types = {"one": Profile()}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "shape.py"
    file.write_text(PARENT)
    return file


def values(source: Path, **options: str) -> object:
    return load_parent(f"{source}:Shape", options).values  # type: ignore[attr-defined]  # of the class in the file


def test_options_become_what_the_annotations_say(file: Path) -> None:
    assert values(file, count="3", scale="2.5", bright="true", file="/dev/null", text="7") == (
        3,
        2.5,
        True,
        Path("/dev/null"),
        "7",
    )
    assert values(file, count="16") == (16, 1.0, False, None, "x")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"count": "many"}, "option count=many: expected an integer, such as 16 or 0x10, given 'many'$"),
        ({"count": "1G"}, "count=1G: expected an integer, such as 1073741824 or 0x40000000, given '1G'$"),
        ({"count": "2kib"}, "count=2kib: expected an integer, such as 2048 or 0x800, given '2kib'$"),
        ({"count": "1", "bright": "maybe"}, "option bright=maybe: expected true or false, given 'maybe'$"),
        ({"count": "1", "scale": "big"}, "option scale=big: expected a number, such as 2.5, given 'big'$"),
        ({"count": "1", "color": "red"}, "has no option color; it has: count, scale, bright, file, text"),
        ({}, "needs the option count"),
        ({"count": "-1"}, "could not be made: ValueError: a negative count"),
    ],
)
def test_a_wrong_option_is_named(file: Path, options: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=f".*shape.py:Shape.*{text}"):
        load_parent(f"{file}:Shape", options)


def test_an_error_of_ours_from_a_constructor_stays_what_it_is(file: Path) -> None:
    with pytest.raises(NoSpace):
        values(file, count="101")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Missing", "has no Missing"),
        ("number", "expected a parent driver .a subclass of MdevParentOps., found 5"),
        ("DeviceOps", r"expected .*, found the class DeviceOps$"),
        ("Hexagon", r"found the class Hexagon; there are: .*/shape\.py:Shape, .*/shape\.py:Abstract$"),
        ("Abstract", "could not be made: TypeError: Can't instantiate abstract class"),
    ],
)
def test_what_is_no_parent_driver_is_refused(file: Path, name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_parent(f"{file}:{name}", {})


@pytest.mark.parametrize(("source", "hint"), [(FUNCTION, "$"), (FUNCTION + LAMPS, r": .*/lamp\.py:Lamps$")])
def test_whoever_names_the_function_is_told_the_parents(tmp_path: Path, source: str, hint: str) -> None:
    file = tmp_path / "lamp.py"
    file.write_text(source)
    with pytest.raises(ConfigError, match=rf"Lamp is a Function; name the Parent that has it{hint}"):
        load_parent(f"{file}:Lamp", {})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*nowhere\.py"):
        load_parent(f"{tmp_path}/nowhere.py:X", {})


def test_a_file_that_cannot_be_imported_names_the_line_and_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "late.py"
    file.write_text("import os\n\ndef f():\n    raise KeyError('k')\n\nf()\n")
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=r"late\.py:4 could not be imported: KeyError: 'k'"):
        load_parent(f"{file}:X", {})
    assert not {each for each in set(sys.modules) - before if "late" in each}


def test_two_parents_of_one_file_share_its_classes(file: Path) -> None:
    one, two = (load_parent(f"{file}:Shape", {"count": each}) for each in "12")
    assert type(one) is type(two)


def test_an_installed_driver_is_found_by_name() -> None:
    assert load_parent("mtty", {"ports": "6"}).driver_name == "mtty"
    with pytest.raises(ConfigError, match=r"no parent driver mty; there are: .*mtty"):
        load_parent("mty", {})


def test_a_driver_may_import_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_the_driver.py").write_text("from mdev_user.drivers.crc import Card\n")
    (tmp_path / "driver.py").write_text("from beside_the_driver import Card\n")
    try:
        assert load_parent(f"{tmp_path / 'driver.py'}:Card", {}).driver_name == "crc"
    finally:
        sys.modules.pop("beside_the_driver", None)
