"""``mdev-user new``: a complete small driver and its test, to begin with."""

import keyword
import re
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from mdev_user.cli.output import print_line
from mdev_user.errors import AlreadyExists, ConfigError

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_CLASS_NAMES = re.compile(r"\b[A-Z]\w*")
_OTHERS = {"mdev_user", "conftest", "pytest"}


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The driver's name: a lower-case identifier.")],
) -> None:
    """Write NAME.py, a complete parent driver, and test_NAME.py, its test, into the current folder."""
    _check(name)
    written = {Path(f"{name}.py"): "driver.py.txt", Path(f"test_{name}.py"): "test_driver.py.txt"}
    for path in written:
        if path.exists() or path.is_symlink():
            raise AlreadyExists(f"{path} is there already and is not overwritten; choose another name or folder")
    _write({path: _filled(template, name) for path, template in written.items()})
    for path in written:
        print_line(str(path))
    print_line(f"Next: pytest test_{name}.py; mdev-user serve ./{name}.py:{_class_names(name)[1]}")


def _write(texts: Mapping[Path, str]) -> None:
    """All of them or, on a full disk, none: what was begun would be in the way of the next try."""
    begun: list[Path] = []
    for path, text in texts.items():
        try:
            with path.open("x", encoding="utf-8") as file:
                begun.append(path)
                file.write(text)
        except OSError as error:
            for each in begun:
                each.unlink(missing_ok=True)
            raise ConfigError(f"{path.absolute()} cannot be written: {error.strerror}") from None


def _check(name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(
            f"expected a name of lower-case letters, digits and _, the first a letter, that Python does not use "
            f"itself, such as lamp; given {name!r}"
        )
    if name.startswith("test_"):
        raise ConfigError(f"{name}.py would be taken for a test; choose a name that does not begin with test_")
    if name in sys.stdlib_module_names or name in _OTHERS:
        raise ConfigError(f"{name}.py would hide the module {name} from every program here; choose another name")


def _filled(template: str, name: str) -> str:
    function, parent = _class_names(name)
    return Template(_text(template)).substitute(name=name, function=function, parent=parent)


def _class_names(name: str) -> tuple[str, str]:
    """``RingLamp`` and its parent, ``RingLamps``, for ring_lamp; names that the file or Python has are made longer."""
    found = "".join(word.capitalize() for word in name.split("_"))
    taken = {*_CLASS_NAMES.findall(_text("driver.py.txt")), *keyword.kwlist}
    function = f"{found}Device" if taken & {found, _plural(found)} else found
    return function, _plural(function)


def _plural(word: str) -> str:
    """What a parent is called, which is the whole of what its mdevs are slices of."""
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    return re.sub(r"(?<![aeiou])y$", "ie", word) + "s"


def _text(template: str) -> str:
    return files("mdev_user.cli").joinpath("templates", template).read_text(encoding="utf-8")
