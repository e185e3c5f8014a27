"""The attributes that a parent driver has of its own: files of its mdevs, and of the parent itself."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from mdev_user.mdev.device import Mdev
from mdev_user.mdev.parent import MdevParent
from mdev_user.mdev.types import MdevAttribute
from mdev_user.sysfs.tree import Rule, Tree

S = TypeVar("S")


class VendorAttributes:
    """One rule for all files of a kind, however many mdevs have one."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._rules: dict[MdevAttribute, Rule[Mdev]] = {}

    def add(self, directory: str, mdev: Mdev) -> None:
        """Those of an mdev."""
        for attribute in mdev.parent.ops.attributes:
            if attribute not in self._rules:
                self._rules[attribute] = _rule_of_mdevs(attribute)
            self._add(directory, attribute, self._rules[attribute], mdev)

    def remove(self, directory: str, attributes: Sequence[MdevAttribute]) -> None:
        for attribute in attributes:
            self._tree.remove(f"{directory}/{attribute.group or attribute.name}")

    def add_to_parent(self, directory: str, parent: MdevParent) -> None:
        """Those of a parent; they go with its directory."""
        for attribute in parent.ops.parent_attributes:
            self._add(directory, attribute, _rule_of_parents(attribute), parent)

    def _add(self, directory: str, attribute: MdevAttribute, rule: Rule[S], subject: S) -> None:
        if attribute.group:
            directory = f"{directory}/{attribute.group}"
            self._tree.add_directory(directory)
        self._tree.add_attribute(f"{directory}/{attribute.name}", rule, subject)


def _rule_of_mdevs(attribute: MdevAttribute) -> Rule[Mdev]:
    def show(mdev: Mdev) -> str:
        return mdev.parent.ops.show(mdev, attribute)

    def store(mdev: Mdev, data: bytes) -> None:
        mdev.parent.ops.store(mdev, attribute, data)

    return _rule(attribute, show, store)


def _rule_of_parents(attribute: MdevAttribute) -> Rule[MdevParent]:
    def show(parent: MdevParent) -> str:
        return parent.ops.show_parent(attribute)

    def store(parent: MdevParent, data: bytes) -> None:
        parent.ops.store_parent(attribute, data)

    return _rule(attribute, show, store)


def _rule(attribute: MdevAttribute, show: Callable[[S], str], store: Callable[[S, bytes], None]) -> Rule[S]:
    mode = 0o444 * attribute.readable | 0o200 * attribute.writable
    return Rule(mode, show if attribute.readable else None, store if attribute.writable else None)
