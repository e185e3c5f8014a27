"""Finds a parent driver and makes a parent of it: ours and other packages' by entry point, anybody's by file.

This runs in the host process: no driver code is ever imported by the front. Each version of a file is a module of its
own, so that what an older one still computes is found by its name, whatever is in the file by then.
"""

import hashlib
import importlib.util
import inspect
import logging
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType, ModuleType

import msgspec
from typing_extensions import override

from mdev_user.driver.function import Function
from mdev_user.driver.parent import Parent
from mdev_user.errors import ConfigError, MdevUserError
from mdev_user.mdev.ops import LifecycleOps
from mdev_user.vfio_mdev.ops import MdevParentOps

_log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "mdev_user.parents"
_PREFIX = "mdev_user_parent_"
_SIZE = re.compile(r"(?P<number>[1-9][0-9]{0,8})(?P<unit>[KMGT])(i?B)?", re.IGNORECASE)
"""What many programs take for a number of bytes: an example of what we take has the same value."""
_SHIFTS = {"K": 10, "M": 20, "G": 30, "T": 40}

_versions: dict[int, str] = {}
"""The module of the file that a parent was loaded from, by the parent's `id`: an author's may have no hash."""


def load_class(driver: str) -> type[MdevParentOps]:
    """``driver`` is an entry point's name or ``FILE.py:CLASS``.

    ConfigError for whatever is wrong with it; the traceback of an error in the driver's own code is in the log.
    """
    file, colon, _name = driver.rpartition(":")
    found = _named(driver, _import(_read(Path(file)))) if colon else _from_entry_point(driver)
    return _checked(driver, found)


def _checked(driver: str, kind: object) -> type[MdevParentOps]:
    if not (isinstance(kind, type) and issubclass(kind, MdevParentOps)):
        raise ConfigError(f"{driver}: {_no_parent(driver, kind)}")
    return kind


def _no_parent(driver: str, found: object) -> str:
    """What is said of the wrong name: most often the function's class, which is beside the parent's."""
    if not isinstance(found, type):
        return f"expected a parent driver (a subclass of MdevParentOps), found {found!r}"
    file, colon, _name = driver.rpartition(":")
    parents = ", ".join(f"{file}{colon}{each}" for each in _parents_of(sys.modules.get(found.__module__)))
    if issubclass(found, Function):
        return f"{found.__name__} is a Function; name the Parent that has it" + (f": {parents}" if parents else "")
    hint = f"; there are: {parents}" if parents else ""
    return f"expected a parent driver (a subclass of MdevParentOps), found the class {found.__name__}{hint}"


def _parents_of(module: ModuleType | None) -> list[str]:
    """The names of the parents that are defined in a module of a driver's file."""
    if module is None or not module.__name__.startswith(_PREFIX):
        return []
    return [
        name
        for name, each in vars(module).items()
        if isinstance(each, type) and issubclass(each, MdevParentOps) and each.__module__ == module.__name__
    ]


def load_parent(driver: str, options: dict[str, str]) -> MdevParentOps:
    """A parent of `load_class`; ``options`` are its constructor's keywords, as text. ConfigError likewise.

    The version of the file that it is of stays until it is given to `let_go`.
    """
    if ":" not in driver:
        return _make(driver, load_class(driver), options)
    version = _read(Path(driver.rpartition(":")[0]))
    try:
        module = _import(version)
        parent = _make(driver, _checked(driver, _named(driver, module)), options)
    except BaseException:
        _forget_unless_used(version.name)
        raise
    _versions[id(parent)] = version.name
    sys.modules[version.name] = module  # another parent of it may have been let go meanwhile
    return parent


@contextmanager
def load_again(driver: str, options: dict[str, str]) -> Iterator[MdevParentOps]:
    """A parent of the class that is in the file now, for a block that puts it to use; errors as of `load_parent`.

    Nothing is left of it when the block raises.
    """
    if ":" not in driver:
        raise ConfigError(f"{driver} is installed: expected a driver in a file, FILE.py:CLASS")
    parent = load_parent(driver, options)
    try:
        yield parent
    except BaseException:
        let_go(parent)
        raise


def let_go(parent: LifecycleOps) -> None:
    """Nobody uses a loaded parent any more, nor its version of the file unless another parent is of it.

    Its backend ends. What the driver raises then is in the log: there is no way back.
    """
    if isinstance(parent, Parent):
        try:
            parent.end_backend()
        except (Exception, SystemExit):  # noqa: BLE001 - driver code: anything can come out
            _log.exception("%s: the backend could not be closed", parent.driver_name)
    name = _versions.pop(id(parent), None)
    if name is not None:
        _forget_unless_used(name)


def _forget_unless_used(name: str) -> None:
    if name not in _versions.values():
        sys.modules.pop(name, None)


def _make(driver: str, kind: type[MdevParentOps], options: dict[str, str]) -> MdevParentOps:
    arguments = arguments_of(driver, kind, options)
    try:
        parent = kind(**arguments)
        if isinstance(parent, Parent):
            parent.make_backend()
    except MdevUserError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(f"{driver} could not be made", error) from error
    return parent


def _from_entry_point(name: str) -> object:
    found = {each.name: each for each in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in found:
        raise ConfigError(f"no parent driver {name}; there are: {', '.join(sorted(found)) or 'none'}")
    try:
        return found[name].load()
    except (Exception, SystemExit) as error:
        raise _failed(f"the installed driver {name} ({found[name].value}) could not be imported", error) from error


def _named(driver: str, module: ModuleType) -> object:
    file, _colon, name = driver.rpartition(":")
    if not hasattr(module, name):
        raise ConfigError(f"{file} has no {name}")
    return getattr(module, name)


class _Version(SourceFileLoader):
    """One version of a driver's file. Python's own cache takes two of one second and one size for the same."""

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        super().__init__(name, str(path))
        self.source = source

    @override
    def get_code(self, _fullname: str) -> CodeType:
        return self.source_to_code(self.source, self.path)


def _read(path: Path) -> _Version:
    """What is in the file now; two parents of the same share the module (and its classes)."""
    if not path.is_file():
        raise ConfigError(f"no file {path}")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    escaped = str(path.resolve()).replace("%", "%25").replace(".", "%2E")  # a dot means a package
    return _Version(f"{_PREFIX}{escaped}@{hashlib.sha256(source).hexdigest()[:16]}", path, source)


def _import(version: _Version) -> ModuleType:
    name, path = version.name, Path(version.path)
    if name in sys.modules:
        return sys.modules[name]
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # as for a script: what lies beside the file can be imported
    spec = importlib.util.spec_from_loader(name, version, origin=str(path))
    assert spec is not None  # noqa: S101 - a loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        version.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):
            raise
        raise _failed(f"{path}{_line(error, path)} could not be imported", error) from error
    return module


def source_of(name: str) -> bytes | None:
    """The version of a driver's file that the module of this name is; None of any other module."""
    loader = getattr(sys.modules.get(name), "__loader__", None)
    return loader.source if isinstance(loader, _Version) else None


def import_again(name: str, source: bytes | None = None) -> ModuleType:
    """In another process: the module of this name in a host. Of a driver's file it is ``source``, or the file now."""
    if name in sys.modules:
        return sys.modules[name]
    if not name.startswith(_PREFIX):
        return importlib.import_module(name)
    escaped = name.removeprefix(_PREFIX).rpartition("@")[0]
    path = Path(escaped.replace("%2E", ".").replace("%25", "%"))
    return _import(_Version(name, path, _read(path).source if source is None else source))


def _line(error: BaseException, path: Path) -> str:
    """``:7`` for an error in the seventh line of the file."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}"
    lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == str(path)]
    return f":{lines[-1]}" if lines else ""


def _failed(what: str, error: BaseException) -> ConfigError:
    _log.error("%s", what, exc_info=error)
    return ConfigError(f"{what}: {type(error).__name__}: {error}")


def arguments_of(driver: str, kind: type[MdevParentOps], options: dict[str, str]) -> dict[str, object]:
    """What the class is made with, of options as text. ConfigError for what it does not take, or lacks."""
    check_names(driver, kind, options)
    parameters, hints = _parameters(kind), inspect.get_annotations(kind.__init__, eval_str=True)
    converted: dict[str, object] = {}
    for name, text in options.items():
        try:
            converted[name] = _value_of(text, hints.get(name) or _type_of(parameters[name]))
        except msgspec.ValidationError as error:
            raise ConfigError(f"{driver}: option {name}={text}: {error}") from None
    missing = [name for name, each in parameters.items() if each.default is each.empty and name not in converted]
    if missing:
        raise ConfigError(f"{driver} needs the option {', '.join(missing)}: {driver},{missing[0]}=VALUE")
    return converted


def check_names(driver: str, kind: type[MdevParentOps], options: Iterable[str]) -> None:
    """ConfigError for an option that the class does not have."""
    known = _parameters(kind)
    for name in options:
        if name not in known:
            raise ConfigError(f"{driver} has no option {name}; it has: {', '.join(known) or 'none'}")


def _parameters(kind: type[MdevParentOps]) -> dict[str, inspect.Parameter]:
    """What can be given by its name when one is made."""
    by_name = {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return {name: each for name, each in inspect.signature(kind).parameters.items() if each.kind in by_name}


def _value_of(text: str, kind: type) -> object:
    try:
        return int(text, 0) if kind is int else msgspec.convert(text, kind, strict=False, dec_hook=_from_text)
    except ValueError as error:  # msgspec's are, too
        expected = _expected(text, kind)
        raise msgspec.ValidationError(f"expected {expected}, given {text!r}" if expected else str(error)) from None


def _expected(text: str, kind: type) -> str:
    """What an option of this type looks like; nothing where msgspec's own words have to do."""
    if kind is bool:
        return "true or false"
    if kind is float:
        return "a number, such as 2.5"
    if kind is not int:
        return ""
    size = _SIZE.fullmatch(text)
    number = int(size["number"]) << _SHIFTS[size["unit"].upper()] if size else 16
    return f"an integer, such as {number} or {number:#x}"


def _type_of(parameter: inspect.Parameter) -> type:
    """What a signature that was made says of an option; text where it says nothing."""
    annotation = parameter.annotation
    return annotation if isinstance(annotation, type) and annotation is not parameter.empty else str


def _from_text(kind: type, text: object) -> object:
    """What msgspec does not know: a file's path."""
    if issubclass(kind, Path) and isinstance(text, str):
        return Path(text)
    raise TypeError(f"expected a type that has a text form, the driver says {kind.__name__}")
