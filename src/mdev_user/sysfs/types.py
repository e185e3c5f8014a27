"""A parent's mdev types: mdev_supported_types/<type>/ and its files."""

from collections.abc import Callable
from dataclasses import dataclass

from mdev_user.mdev.bus import Bus
from mdev_user.mdev.parent import MdevParent
from mdev_user.mdev.parsing import parse_uuid
from mdev_user.mdev.types import MdevType
from mdev_user.sysfs.paths import type_path
from mdev_user.sysfs.tree import Rule, Tree


@dataclass(frozen=True, slots=True)
class _Type:
    """The subject of a type's files."""

    bus: Bus
    parent: MdevParent
    type: MdevType
    created: Callable[[], None]


def add_types(bus: Bus, tree: Tree, parent: MdevParent, created: Callable[[], None]) -> None:
    """The directories of all types of a parent; they go with the parent's. ``created``: see `Layout`."""
    for type_id, mdev_type in parent.types.items():
        directory = type_path(parent, type_id)
        of = _Type(bus, parent, mdev_type, created)
        tree.add_directory(f"{directory}/devices")
        for name, rule in _FILES.items():
            tree.add_attribute(f"{directory}/{name}", rule, of)
        if mdev_type.description is not None:  # absent where the driver describes nothing
            tree.add_attribute(f"{directory}/description", _DESCRIPTION, of)


def _name(of: _Type) -> str:
    return f"{of.type.pretty_name or of.type.name}\n"


def _description(of: _Type) -> str:
    return f"{of.type.description}\n"


def _device_api(of: _Type) -> str:
    return f"{of.type.device_api}\n"


def _available_instances(of: _Type) -> str:
    return f"{of.bus.available(of.parent, of.type)}\n"


def _create(of: _Type, data: bytes) -> None:
    """EINVAL unless a UUID (see `parse_uuid`); otherwise what `Bus.create` says."""
    of.bus.create(of.parent, of.parent.type_id(of.type), parse_uuid(data))
    of.created()


_FILES: dict[str, Rule[_Type]] = {
    "available_instances": Rule(0o444, _available_instances),
    "create": Rule(0o200, None, _create),
    "device_api": Rule(0o444, _device_api),
    "name": Rule(0o444, _name),
}
_DESCRIPTION: Rule[_Type] = Rule(0o444, _description)
