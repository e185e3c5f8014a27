"""A parent as it is asked for: ``DRIVER[,key=value...]`` or ``FILE.py:CLASS[,key=value...]``, parsed and checked.

Only the text is looked at: the driver's code is found and run by the parent's host process.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path

from msgspec import Struct

from mdev_user.errors import ConfigError
from mdev_user.host.loader import ENTRY_POINT_GROUP

_FORM = "DRIVER[,key=value...] or FILE.py:CLASS[,key=value...]"
_DRIVER = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_CLASS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"[a-z][a-z0-9_]*")
# A parent's name is a file name in sysfs, the first word of mdevctl's commands, and often a PCI address.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_MOST_TEXT = 4096
LONGEST_BUSY_POLL = 10_000
"""Microseconds. Who waits longer for a guest's next access gains nothing that is worth a core."""


class ParentSpecification(Struct, frozen=True, kw_only=True):
    """Which driver, under which name, in which host process, with which options."""

    driver: str
    """The name of an entry point, or ``/absolute/FILE.py:CLASS``."""
    name: str
    """The parent's name on the bus; by default the driver's own name, in lower case for a class."""
    host: str
    """Parents of the same host share a process; by default the parent's own name, so that it has one for itself."""
    options: dict[str, str]
    busy_poll: int = 0
    """Microseconds for which an mdev's thread looks for the next access before it sleeps; 0: it sleeps at once."""

    @property
    def file(self) -> Path | None:
        """The driver's file, None for an installed driver."""
        file, colon, _class = self.driver.rpartition(":")
        return Path(file) if colon else None

    @property
    def text(self) -> str:
        """The specification that parses to this value."""
        default = _default_name(self.driver)
        pairs = {
            **({"name": self.name} if self.name != default else {}),
            **({"host": self.host} if self.host != self.name else {}),
            **({"busy_poll": str(self.busy_poll)} if self.busy_poll else {}),
            **self.options,
        }
        return ",".join([_escape(self.driver), *(f"{key}={_escape(value)}" for key, value in pairs.items())])


def parse_parent(text: str, folder: Path | None = None) -> ParentSpecification:
    """The parent that ``text`` asks for; a relative FILE.py is one of ``folder`` (default: the working directory).

    A comma within a path or a value is written twice. ConfigError when the text is wrong, the file is not there, or no
    such driver is installed.
    """
    if len(text) > _MOST_TEXT or not text.isprintable():
        raise ConfigError(f"expected a parent, {_FORM}, of at most {_MOST_TEXT} printable characters")
    driver, *pairs = [each.replace("\0", ",") for each in text.replace(",,", "\0").split(",")]
    return make_parent(driver, _parse_pairs(text, pairs), folder)


def make_parent(driver: str, settings: Mapping[str, str], folder: Path | None = None) -> ParentSpecification:
    """The parent with this driver; ``name``, ``host`` and ``busy_poll`` are ours, all others the driver's options."""
    driver = _check_file(driver, folder) if ":" in driver or driver.endswith(".py") else _check_driver(driver)
    options = dict(settings)
    name = _check_name("name", options.pop("name", _default_name(driver)))
    host = _check_name("host", options.pop("host", name))
    busy_poll = _check_busy_poll(name, options.pop("busy_poll", "0"))
    for key in options:
        if not _KEY.fullmatch(key):
            raise ConfigError(
                f"parent {name}: expected an option's key of lower-case letters, digits and _ (the first a letter), "
                f"given {key!r}{_in_lower_case(key)}"
            )
    return ParentSpecification(driver=driver, name=name, host=host, options=options, busy_poll=busy_poll)


def installed_drivers() -> list[str]:
    """The names of the parent drivers that packages of this environment offer; none of them is imported."""
    return sorted({each.name for each in entry_points(group=ENTRY_POINT_GROUP)})


def likeliest(given: str, known: Iterable[str]) -> str:
    """``; did you mean 'mtty'?`` for a text close to one that is known, else nothing."""
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _parse_pairs(text: str, pairs: Iterable[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"parent {text!r}: expected key=value after each comma, given {pair!r}; the form is {_FORM}"
            )
        if key in settings:
            raise ConfigError(f"parent {text!r}: {key} is given twice")
        settings[key] = value
    return settings


def _in_lower_case(key: str) -> str:
    """``; did you mean 'ports'?`` for ``PORTS``, else nothing."""
    return f"; did you mean {key.lower()!r}?" if _KEY.fullmatch(key.lower()) else ""


def _check_driver(driver: str) -> str:
    if not _DRIVER.fullmatch(driver):
        raise ConfigError(f"expected a parent, {_FORM}, given {driver!r}")
    known = installed_drivers()
    if driver not in known:
        raise ConfigError(
            f"no parent driver {driver!r} is installed{likeliest(driver, known)} "
            f"(there are: {', '.join(known) or 'none'}; a file's is given as FILE.py:CLASS)"
        )
    return driver


def _check_file(driver: str, folder: Path | None) -> str:
    file, _colon, class_name = driver.rpartition(":")
    if not file.endswith(".py") or not _CLASS.fullmatch(class_name):
        raise ConfigError(f"expected FILE.py:CLASS, given {driver!r}")
    path = ((folder or Path.cwd()) / Path(file).expanduser()).absolute()
    if not path.is_file():
        raise ConfigError(f"parent {driver!r}: there is no file {path}")
    return f"{path}:{class_name}"


def _check_name(key: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"expected a parent's {key} to be 1 to 64 letters, digits and . _ : - (the first a letter or a digit), "
            f"given {name!r}"
        )
    return name


def _check_busy_poll(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6 or int(text) > LONGEST_BUSY_POLL:
        raise ConfigError(
            f"parent {name}: busy_poll: expected 0 to {LONGEST_BUSY_POLL} microseconds, given {text!r:.40}"
        )
    return int(text)


def _default_name(driver: str) -> str:
    _file, colon, class_name = driver.rpartition(":")
    return class_name.lower().lstrip("_") if colon else driver


def _escape(text: str) -> str:
    return text.replace(",", ",,")
