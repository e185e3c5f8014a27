"""Finds a parent driver and makes a parent of it: ours and other packages' by entry point, anybody's by file.

This runs in the host process: no driver code is ever imported by the front.
"""

import importlib.util
import inspect
import logging
import sys
import traceback
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType, ModuleType

import msgspec
from typing_extensions import override

from mdev_user.errors import ConfigError, MdevUserError
from mdev_user.vfio_mdev.ops import MdevParentOps

_log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "mdev_user.parents"
_PREFIX = "mdev_user_parent_"

_imported: dict[str, tuple[int, int]] = {}
"""The drivers' files that `import_again` imported, with their time and size."""


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
    return _make(driver, load_class(driver), options)


def load_again(driver: str, options: dict[str, str]) -> MdevParentOps:
    """A parent of the class that is in the file now; errors as of `load_parent`, which leave the module as it was."""
    file, colon, _name = driver.rpartition(":")
    if not colon:
        raise ConfigError(f"{driver} is installed: expected a driver in a file, FILE.py:CLASS")
    name = _module_name(Path(file))
    before = sys.modules.pop(name, None)
    try:
        return load_parent(driver, options)
    except BaseException:
        if before is not None:
            sys.modules[name] = before
        raise


def _make(driver: str, kind: type[MdevParentOps], options: dict[str, str]) -> MdevParentOps:
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
    name = _module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # as for a script: what lies beside the file can be imported
    loader = _Uncached(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader, origin=str(path))
    assert spec is not None  # noqa: S101 - a loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _failed(f"{path}{_line(error, path)} could not be imported", error) from error
    return module


class _Uncached(SourceFileLoader):
    """Compiles what is in the file now: Python's cache takes two versions of one second and one size for the same."""

    @override
    def get_code(self, _fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _module_name(path: Path) -> str:
    """The path's own, so that two parents of one file share the module (and its classes); a dot means a package."""
    return _PREFIX + str(path.resolve()).replace("%", "%25").replace(".", "%2E")


def import_again(name: str) -> ModuleType:
    """In another process: the module of this name in a host. That of a driver's file is the file as it is now."""
    if not name.startswith(_PREFIX):
        return importlib.import_module(name)
    path = Path(name.removeprefix(_PREFIX).replace("%2E", ".").replace("%25", "%"))
    version = path.stat().st_mtime_ns, path.stat().st_size
    if _imported.setdefault(name, version) != version:
        sys.modules.pop(name, None)
        _imported[name] = version
    return _module(path)


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
