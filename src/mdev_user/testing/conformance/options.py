"""A parent's options as `check` has them: as text, which reaches another interpreter whatever becomes of it there."""

from collections.abc import Mapping
from typing import Any

from mdev_user.driver.parent import Parent
from mdev_user.host.loader import arguments_of


def values_of(parent: type[Parent[Any, Any]], options: Mapping[str, str]) -> dict[str, object]:  # Any: of any profile
    """What the parent's constructor gets, as in a host; ConfigError for what it cannot be."""
    return arguments_of(parent.__name__, parent, dict(options)) if options else {}
