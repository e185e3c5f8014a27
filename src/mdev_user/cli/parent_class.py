"""The class of a parent that is looked at without being made, and what is said of options that it does not have."""

import inspect
from collections.abc import Iterable

from mdev_user.daemon.specification import parse_parent
from mdev_user.errors import ConfigError
from mdev_user.host.loader import load_class
from mdev_user.vfio_mdev.ops import MdevParentOps

_BY_NAME = {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}


def class_of(parent: str) -> type[MdevParentOps]:
    """That of ``DRIVER[,key=value...]``; ConfigError for what `register` would refuse by the options' names."""
    specification = parse_parent(parent)
    kind = load_class(specification.driver)
    if specification.options:
        _check_names(specification.driver, kind, specification.options)
    return kind


def _check_names(driver: str, kind: type[MdevParentOps], names: Iterable[str]) -> None:
    known = [each.name for each in inspect.signature(kind).parameters.values() if each.kind in _BY_NAME]
    for name in names:
        if name not in known:
            raise ConfigError(f"{driver} has no option {name}; it has: {', '.join(known) or 'none'}")
