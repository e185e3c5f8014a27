"""The accounts of a parent, kept the plain way: what is free is what there is less what everybody has."""

from collections.abc import Mapping
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

import mdev_user.driver.parent as parent_module
from mdev_user.driver.parent import Parent
from mdev_user.driver.pools import NO_END, Pool
from mdev_user.errors import NoSpace
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.parent import MdevParent
from mdev_user.testing.conformance.options import values_of

_AnyParent: TypeAlias = type[Parent[Any, Any]]  # Any: of whatever profile


class Change(msgspec.Struct, frozen=True):
    """Create one of type ``number``; or remove that one; or create one that fails half-way."""

    kind: str
    number: int


KINDS = ("create", "remove", "fail")


class Ledger:
    """Who has what."""

    def __init__(self, parent: _AnyParent, options: Mapping[str, str] | None = None) -> None:
        values = values_of(parent, options or {})
        self.parent = parent(**values)  # type: ignore[arg-type]  # an author's own __init__ takes what it takes
        self.types = list(MdevParent("parent", self.parent).types.values())
        self.holders: list[Mdev] = []
        self._pools: dict[str, Pool] = dict(self.parent._accounts._pools)  # noqa: SLF001 - our own
        self._profiles = dict(parent.types)
        self._made = 0

    def available(self, type_name: str) -> int:
        rooms = (self._room(name, pool, type_name) for name, pool in self._pools.items() if self._need(name, type_name))
        return min(rooms, default=NO_END)

    def _room(self, name: str, pool: Pool, type_name: str) -> int:
        others = {each.type.name for each in self.holders if self._need(name, each.type.name)} - {type_name}
        if pool.homogeneous and others:
            return 0
        free = pool.total - sum(self._need(name, each.type.name) for each in self.holders)
        return free // self._need(name, type_name)

    def _need(self, pool: str, type_name: str) -> int:
        need: int = getattr(self._profiles[type_name], pool)
        return need

    def mdev(self, number: int) -> Mdev:
        self._made += 1
        kind = self.types[number % len(self.types)]
        return Mdev(UUID(int=self._made), MdevParent("parent", self.parent), kind)

    def difference(self) -> str:
        """What the parent says otherwise; empty when nothing."""
        for each in self.types:
            given, expected = self.parent.get_available(each), self.available(each.name)
            if given != expected or given < 0:
                return f"available_instances of {each.name} is {given}: expected {expected}"
        return ""


def run_changes(parent: _AnyParent, changes: tuple[Change, ...], options: Mapping[str, str] | None = None) -> str:
    """What is wrong in the parent's accounts; empty when nothing."""
    ledger, story = Ledger(parent, options), []
    everything = [*changes, *(Change("remove", 0) for _ in range(len(changes)))]
    for change in everything:
        told = _CHANGES[change.kind](ledger, change.number)
        story.append(told)
        wrong = told if told.startswith("!") else ledger.difference()
        if wrong:
            done = "; ".join(each for each in story if each)
            return f"{wrong.removeprefix('!')}, after: {done.replace('!', '')}"
    return ""


def _create(ledger: Ledger, number: int) -> str:
    mdev = ledger.mdev(number)
    expected = ledger.available(mdev.type.name)
    try:
        mdev.drvdata = ledger.parent.create(mdev)
    except NoSpace:
        return f"!create {mdev.type.name} is NoSpace: {expected} were available" if expected else ""
    if not expected:
        return f"!create {mdev.type.name} was done: none was available"
    ledger.holders.append(mdev)
    return f"create {mdev.type.name}"


def _remove(ledger: Ledger, number: int) -> str:
    if not ledger.holders:
        return ""
    mdev = ledger.holders.pop(number % len(ledger.holders))
    ledger.parent.remove(mdev)
    return f"remove {mdev.type.name}"


class _HalfWay(Exception):
    """A create that could not be finished."""


def _fail(ledger: Ledger, number: int) -> str:
    mdev = ledger.mdev(number)

    def refuse(*_arguments: object) -> object:
        raise _HalfWay

    kept = vars(parent_module)["Device"]
    vars(parent_module)["Device"] = refuse  # for this one call, in a process of our own
    try:
        ledger.parent.create(mdev)
    except (_HalfWay, NoSpace):
        return f"create {mdev.type.name} that fails"
    finally:
        vars(parent_module)["Device"] = kept
    return ""


_CHANGES = {"create": _create, "remove": _remove, "fail": _fail}
