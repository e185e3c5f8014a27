# ruff: noqa: SLF001 - declarations know each other's underscored names
"""Resets: a device that was reset, or opened again, is as one that was just made, but for what is declared to stay."""

from typing import Any, TypeAlias

from mdev_user.driver.attributes import Attribute
from mdev_user.driver.members import declarations
from mdev_user.driver.parent import Parent
from mdev_user.driver.shares import Share
from mdev_user.driver.state import Kept
from mdev_user.testing.conformance.operations import Operation, Reopen, Reset, Setting
from mdev_user.testing.conformance.player import Broken, Player
from mdev_user.testing.conformance.states import named_values

_AnyParent: TypeAlias = type[Parent[Any, Any]]  # Any: of whatever profile


class Resets:
    """Compares a device after each reset with one that nobody has used."""

    def __init__(self, parent: _AnyParent, setting: Setting, player: Player) -> None:
        self._parent, self._setting, self._player = parent, setting, player
        self._staying, self._own = _staying(player), _own(player)
        self._kept: dict[str, object] = {}

    def before(self, operation: Operation) -> None:
        if isinstance(operation, Reset | Reopen):
            self._kept = self._values(self._player)

    def after(self, operation: Operation) -> None:
        """`Broken` when anything is left over, or lost, that must not be."""
        if isinstance(operation, Reset | Reopen):
            staying = self._own if isinstance(operation, Reopen) else self._own | self._staying
            self._compare(operation, staying)

    def _compare(self, operation: Operation, staying: set[str]) -> None:
        if self._player.guest.device.jobs:
            raise Broken("jobs are under way right after a reset")
        fresh = Player(self._parent, self._setting)
        for name, text in self._player.settings().items():
            fresh.guest.store(name, text)
        fresh.play(operation)
        expected, given = self._values(fresh), self._values(self._player)
        what = "opened again" if isinstance(operation, Reopen) else "reset"
        for name in sorted(expected.keys() | given.keys() | (self._kept.keys() & staying)):
            wanted = self._kept.get(name) if name in staying else expected.get(name)
            if name in staying and name not in self._kept and name in expected:
                continue  # what a driver's own reset puts there
            if given.get(name) != wanted:
                raise Broken(
                    f"{name} is {_shown(given, name)} in a device that was {what}: expected {_shown_value(wanted)}"
                )

    def _values(self, player: Player) -> dict[str, object]:
        return named_values(player.guest.device.save()).values


def _staying(player: Player) -> set[str]:
    """What survives the resets that a guest asks for: registers and members that are sticky."""
    found: set[str] = set()
    for place, bar in player.bars():
        prefix = f"{place.name}.{bar._name}.".removeprefix(".")
        found |= {prefix + slot.name for slot in bar._layout.slots if slot.sticky}
    for place in player.guest.places():
        for name, member in declarations(place.kind).items():
            if isinstance(member, Kept) and member._sticky:
                found.add(f"{place.name}.{name}".removeprefix("."))
    return found


def _own(player: Player) -> set[str]:
    """What survives users too: attributes that the driver sets."""
    members = declarations(type(player.guest.device.function))
    return {
        name
        for name, each in members.items()
        if isinstance(each, Share) or (isinstance(each, Attribute) and not each._writable)
    }


def _shown(values: dict[str, object], name: str) -> str:
    return _shown_value(values.get(name))


def _shown_value(value: object) -> str:
    return "as after a reset" if value is None else repr(value)
