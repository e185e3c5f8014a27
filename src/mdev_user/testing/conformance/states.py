"""Saved states by name: in what two of them differ."""

from dataclasses import replace
from math import isclose
from typing import NamedTuple

from mdev_user.driver.saving.snapshot import Snapshot, decoded_snapshot, from_bytes

_ANY_SIZE = 1 << 62


class State(NamedTuple):
    """A saved state for a look inside."""

    snapshot: Snapshot

    @property
    def values(self) -> dict[str, object]:
        """All that differs from a device that was just reset, by name."""
        return dict(self.snapshot.values)


def named_values(state: bytes) -> State:
    return State(decoded_snapshot(from_bytes(state, _ANY_SIZE)))


def difference(one: bytes, other: bytes) -> str:
    """In what ``other`` is not ``one``; empty when in nothing. Sleeps may differ by what a float loses."""
    if one == other:
        return ""
    first, second = named_values(one).snapshot, named_values(other).snapshot
    for name in sorted(first.values.keys() | second.values.keys()):
        wanted, given = first.values.get(name), second.values.get(name)
        if wanted != given and repr(wanted) != repr(given):
            return f"{name} is {_shown(given)}, not {_shown(wanted)}"
    for name in ("config", "levels", "pending", "events", "vectors", "memory"):
        if getattr(first, name) != getattr(second, name):
            return f"the saved {name} differs"
    return _jobs_difference(first, second)


def _jobs_difference(first: Snapshot, second: Snapshot) -> str:
    one, other = ([replace(each, slept=0.0) for each in state.jobs] for state in (first, second))
    if one != other:
        return f"the jobs under way are {_names(second)}, not {_names(first)}"
    for wanted, given in zip(first.jobs, second.jobs, strict=True):
        if not isclose(wanted.slept, given.slept, rel_tol=1e-9, abs_tol=1e-9):
            return f"the job {given.name} has slept {given.slept} s, not {wanted.slept} s"
    return ""


def _names(state: Snapshot) -> str:
    return ", ".join(f"{each.name}({each.arguments})" for each in state.jobs) or "none"


def _shown(value: object) -> str:
    if value is None:
        return "as after a reset"
    return f"{value:#x}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)
