"""Finds a parent driver and makes a parent of it: ours and other packages' by entry point, anybody's by file.

This runs in the host process: no driver code is ever imported by the front.
"""

import importlib.util
import inspect
import logging
import sys
import traceback
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import msgspec

from mdev_user.errors import ConfigError, MdevUserError
from mdev_user.vfio_mdev.ops import MdevParentOps

_log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "mdev_user.parents"


def load_class(driver: str) -> type[MdevParentOps]:
    """``driver`` is an entry point's name or ``FILE.py:CLASS``.

    ConfigError for whatever is wrong with it; the traceback of an error in the driver's own code is in the log.
    """
    kind = _from_file(driver) if ":" in driver else _from_entry_point(driver)
    if not (isinstance(kind, type) and issubclass(kind, MdevParentOps)):
        raise ConfigError(f"{driver}: expected a parent driver (a subclass of MdevParentOps), found {kind!r}")
    return kind


def load_parent(driver: str, options: dict[str, str]) -> MdevParentOps:
    """A parent of `load_class`; ``options`` are its constructor's keywords, as text. ConfigError likewise."""
    kind = load_class(driver)
    arguments = _convert(driver, kind, options)
    try:
        return kind(**arguments)
    except MdevUserError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(f"{driver} could not be made", error) from error


def _from_entry_point(name: str) -> object:
    found = {each.name: each for each in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in found:
        raise ConfigError(f"no parent driver {name}; there are: {', '.join(sorted(found)) or 'none'}")
    try:
        return found[name].load()
    except (Exception, SystemExit) as error:
        raise _failed(f"the installed driver {name} ({found[name].value}) could not be imported", error) from error


def _from_file(driver: str) -> object:
    file, _colon, name = driver.rpartition(":")
    module = _module(Path(file))
    if not hasattr(module, name):
        raise ConfigError(f"{file} has no {name}")
    return getattr(module, name)


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"no file {path}")
    # The name is the path's own, so that two parents of one file share the module (and its classes).
    name = f"mdev_user_parent_{path.resolve()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _failed(f"{path}{_line(error, path)} could not be imported", error) from error
    return module


def _line(error: BaseException, path: Path) -> str:
    """``:7`` for an error in the seventh line of the file."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}"
    lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == str(path)]
    return f":{lines[-1]}" if lines else ""


def _failed(what: str, error: BaseException) -> ConfigError:
    _log.error("%s", what, exc_info=error)
    return ConfigError(f"{what}: {type(error).__name__}: {error}")


def _convert(driver: str, kind: type[MdevParentOps], options: dict[str, str]) -> dict[str, object]:
    parameters = {
        name: each
        for name, each in inspect.signature(kind).parameters.items()
        if each.kind in {each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD}
    }
    hints = inspect.get_annotations(kind.__init__, eval_str=True)
    converted: dict[str, object] = {}
    for name, text in options.items():
        if name not in parameters:
            raise ConfigError(f"{driver} has no option {name}; it has: {', '.join(parameters) or 'none'}")
        try:
            converted[name] = msgspec.convert(text, hints.get(name, str), strict=False, dec_hook=_from_text)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{driver}: option {name}={text}: {error}") from None
    missing = [name for name, each in parameters.items() if each.default is each.empty and name not in converted]
    if missing:
        raise ConfigError(f"{driver} needs the option {', '.join(missing)}: {driver},{missing[0]}=VALUE")
    return converted


def _from_text(kind: type, text: object) -> object:
    """What msgspec does not know: a file's path."""
    if issubclass(kind, Path) and isinstance(text, str):
        return Path(text)
    raise TypeError(f"expected a type that has a text form, the driver says {kind.__name__}")
