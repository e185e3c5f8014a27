"""Drivers to load states into: one whose state has changed since, one with state of every type, one with sets in it."""

from dataclasses import dataclass, replace

from mdev_user.driver import PAGE, U32, Bar, Function, Instances, Memory, Parent, PciId, Profile, Saved, Snapshot
from unit.driver.stateful import Machine


class Regs(Bar, index=0, size=64):
    value = U32(0)


class _First:
    """Where the class of the first version lies: it has the same name."""

    class Grown(Function[Profile]):
        identity = PciId(vendor=0x1DE5, device=0x0EED, class_code=0x120000)
        regs, ram, total = Regs(), Memory(index=1, size=4 * PAGE), Saved(0)


class Grown(Function[Profile]):
    """Counts in two pieces what the first version counted in one, and has more memory."""

    identity = PciId(vendor=0x1DE5, device=0x0EED, class_code=0x120000)
    regs, ram, low, high = Regs(), Memory(index=1, size=8 * PAGE), Saved(0), Saved(0)
    state_version = 2

    @staticmethod
    def _split(old: Snapshot) -> Snapshot:
        values = dict(old.values)
        total = values.pop("total", 0)
        if not isinstance(total, int):
            raise TypeError(f"total is {total!r}")
        return replace(old, values={**values, "low": total & 0xFFFF_FFFF, "high": total >> 32})

    upgrades = {1: _split}


class BeforeParent(Parent[Profile]):
    function = _First.Grown
    instances = Instances(16)
    types = {"1": Profile()}


class GrownParent(Parent[Profile]):
    function = Grown
    instances = Instances(16)
    types = {"1": Profile()}


class StatefulParent(Parent[Profile]):
    """A piece of state of every type that there is."""

    function = Machine
    instances = Instances(16)
    types = {"1": Profile()}


Ids = frozenset[tuple[int, ...]]
"""What a stranger can fill with values of one hash."""


@dataclass(frozen=True)
class Tree:
    ids: Ids = frozenset()
    inner: "Tree | None" = None


class Sets(Function[Profile]):
    """Sets wherever one can be."""

    identity = PciId(vendor=0x1DE5, device=0x0EEE, class_code=0x120000)
    regs, tree = Regs(), Saved(Tree())
    ids, maybe = Saved[Ids](frozenset()), Saved[Ids | None](None)
    rows, pair = Saved[tuple[Ids, ...]](()), Saved[tuple[int, Ids]]((0, frozenset()))
    nested = Saved[frozenset[Ids]](frozenset())


class SetsParent(Parent[Profile]):
    function = Sets
    instances = Instances(16)
    types = {"1": Profile()}
