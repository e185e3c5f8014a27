"""The daemon's configuration: a TOML file and the command line, checked, as one value.

```toml
run_dir = "/run/mdev-user"
log_level = "info"          # debug, info, warning or error
restart = "always"          # what happens to a host process that ended: always or never
reload = "never"            # whether a driver's file is loaded again when it changes: changed or never
autostart = "mdevctl"       # who starts the mdevs that are defined for a parent when it is registered: mdevctl or never

[[parent]]
driver = "mtty"             # an installed driver, or FILE.py:CLASS (a relative file is one of this file's folder)
name = "mtty"               # default: the driver's own name
host = "serial"             # parents of the same host share a process; default: a process for itself
busy_poll = 50              # microseconds to look for a guest's next access before sleeping; default: 0
# every other key is an option of the driver
```
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from mdev_user.daemon.run_dir import default_run_dir
from mdev_user.daemon.specification import ParentSpecification, likeliest, make_parent, parse_parent
from mdev_user.errors import ConfigError


class Restart(StrEnum):
    """What happens when a host process ends, which it does only by failing or by being killed."""

    ALWAYS = "always"
    NEVER = "never"


class Reload(StrEnum):
    """Whether a parent goes on with what is in its driver's file now."""

    CHANGED = "changed"
    NEVER = "never"


class Autostart(StrEnum):
    """Who starts a parent's defined mdevs when it is registered: mdevctl, where that is installed, or nobody."""

    MDEVCTL = "mdevctl"
    NEVER = "never"


class LogLevel(StrEnum):
    """The least severe message that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Config(Struct, frozen=True, kw_only=True):
    """What ``serve`` is to do. The parents' names are all different."""

    run_dir: Path
    log_level: LogLevel
    restart: Restart
    reload: Reload
    autostart: Autostart
    parents: tuple[ParentSpecification, ...]


class Given(Struct, frozen=True, kw_only=True):
    """What the command line says; None where it says nothing."""

    run_dir: Path | None = None
    log_level: LogLevel | None = None
    reload: Reload | None = None
    parents: Sequence[str] = ()


def load_config(file: Path | None, given: Given) -> Config:
    """The file's configuration (or the defaults), with the command line's words over it.

    A parent on the command line replaces the file's parent of the same name. ConfigError names the file, the key, what
    was expected and what was given.
    """
    table = {} if file is None else _read(file)
    where = "" if file is None else f"{file}: "
    keys: dict[str, object] = {key: table.pop(key) for key in _KEYS if key in table}
    _refuse_unknown(where, table, _KEYS)
    folder = Path.cwd() if file is None else file.absolute().parent
    # The file is checked as a whole, also where the command line is over it.
    run_dir = _take(where, keys, "run_dir", lambda value: folder / value)
    log_level = _take(where, keys, "log_level", LogLevel)
    reload = _take(where, keys, "reload", Reload)
    from_file = _parents(where, keys.get("parent", []), folder)
    from_arguments = _by_name("", [parse_parent(text) for text in given.parents])
    return Config(
        run_dir=(given.run_dir or run_dir or default_run_dir()).absolute(),
        log_level=given.log_level or log_level or LogLevel.INFO,
        restart=_take(where, keys, "restart", Restart) or Restart.ALWAYS,
        reload=given.reload or reload or Reload.NEVER,
        autostart=_take(where, keys, "autostart", Autostart) or Autostart.MDEVCTL,
        parents=tuple((from_file | from_arguments).values()),
    )


# Each top-level key, and what it takes in words.
_KEYS: Mapping[str, str] = {
    "run_dir": "the path of a folder",
    "log_level": "one of " + ", ".join(LogLevel),
    "restart": "one of " + ", ".join(Restart),
    "reload": "one of " + ", ".join(Reload),
    "autostart": "one of " + ", ".join(Autostart),
    "parent": "[[parent]] tables",
}

_T = TypeVar("_T")


def _read(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: expected UTF-8 text, given byte {error.object[error.start]:#04x}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: expected TOML: {error}") from None


def _refuse_unknown(where: str, table: Mapping[str, object], known: Mapping[str, str]) -> None:
    for key in table:
        raise ConfigError(f"{where}unknown key {key!r}{likeliest(key, known)} (there are: {', '.join(known)})")


def _take(where: str, keys: Mapping[str, object], key: str, convert: Callable[[str], _T]) -> _T | None:
    if key not in keys:
        return None
    try:
        return convert(_text(keys[key]))
    except ValueError:
        value = keys[key]
        hint = likeliest(value, _choices(key)) if isinstance(value, str) else ""
        raise ConfigError(f"{where}{key}: expected {_KEYS[key]}, given {_shown(value)}{hint}") from None


def _choices(key: str) -> list[str]:
    choices: Mapping[str, type[StrEnum]] = {
        "log_level": LogLevel,
        "restart": Restart,
        "reload": Reload,
        "autostart": Autostart,
    }
    return [each.value for each in choices[key]] if key in choices else []


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(value)
    return value


def _parents(where: str, value: object, folder: Path) -> dict[str, ParentSpecification]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ConfigError(f"{where}parent: expected {_KEYS['parent']}, given {_shown(value)}")
    return _by_name(where, [_parent(f"{where}parent {number}: ", each, folder) for number, each in enumerate(value, 1)])


def _parent(where: str, table: Mapping[str, object], folder: Path) -> ParentSpecification:
    settings = {key: _setting(where, key, value) for key, value in table.items()}
    driver = settings.pop("driver", None)
    if driver is None:
        close = likeliest("driver", settings).replace("did you mean", "is it meant by")
        raise ConfigError(f"{where}expected the key 'driver', given {', '.join(settings) or 'nothing'}{close}")
    try:
        return make_parent(driver, settings, folder)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None


def _setting(where: str, key: str, value: object) -> str:
    # As text, like those of the command line: the driver's own annotations say what it becomes.
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigError(f"{where}{key}: expected a text, a number, true or false, given {_shown(value)}")


def _by_name(where: str, parents: Sequence[ParentSpecification]) -> dict[str, ParentSpecification]:
    named: dict[str, ParentSpecification] = {}
    for parent in parents:
        if parent.name in named:
            raise ConfigError(
                f"{where}two parents are named {parent.name!r} ({named[parent.name].text} and {parent.text}); "
                "give one of them another name="
            )
        named[parent.name] = parent
    return named


def _shown(value: object) -> str:
    kinds: tuple[tuple[type, str], ...] = ((dict, "a table"), (list, "an array"))
    return next((words for kind, words in kinds if isinstance(value, kind)), repr(value))
