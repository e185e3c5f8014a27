"""How what is tried is made up: hypothesis strategies. Only imported where hypothesis is there."""

from collections.abc import Callable
from typing import TypeAlias

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from mdev_user.testing.accounts import KINDS, Change
from mdev_user.testing.maps import ADDRESSES, Map, Target
from mdev_user.testing.mutations import MUTATIONS, Mutation
from mdev_user.testing.operations import (
    Advance,
    Listen,
    Operation,
    Poke,
    Read,
    Reopen,
    Reset,
    Run,
    Step,
    Store,
    Write,
)
from mdev_user.testing.rules import RuleAccess
from mdev_user.vfio.requests import Region

Operations: TypeAlias = tuple[Operation, ...]
Story: TypeAlias = tuple[Map, Operations, Operations]

WIDEST = 16
"""Bytes of an odd access."""
# No multiple of what a driver is likely to sleep, so that nobody has to care which of two things at one time is first.
_TICKS = (7, 70, 701, 7013, 70123)


def stories(maps: list[Map], before: int = 10, after: int = 5) -> SearchStrategy[Story]:
    """What is done before a device is saved, and what is done then, at most so many things."""
    return st.sampled_from(maps).flatmap(
        lambda found: st.tuples(st.just(found), _listed(found, before, _before), _listed(found, after, _after))
    )


def _listed(found: Map, most: int, kinds: "Kinds") -> SearchStrategy[Operations]:
    return st.lists(st.one_of(kinds(found)), max_size=most).map(
        lambda lists: tuple(each for some in lists for each in some)
    )


Kinds: TypeAlias = Callable[[Map], list[SearchStrategy[Operations]]]


def _before(found: Map) -> list[SearchStrategy[Operations]]:
    steps = st.integers(1, 3).map(Step)
    return [*_after(found), _one(steps), _one(steps)]


def _after(found: Map) -> list[SearchStrategy[Operations]]:
    """Those that are listed more than once come more often; the first is what others shrink to."""
    kinds: list[SearchStrategy[Operations]] = [_one(st.sampled_from(_TICKS).map(Advance))]
    if found.targets:
        access = st.sampled_from(found.targets).flatmap(_access)
        kinds += [_one(access)] * 3
    if found.commands:
        kinds += [_command(found)] * 5
    kinds += [
        _one(_odd_access(found)),
        _one(_config(found)),
        _one(_poke()),
        _one(st.sampled_from([Run(), Reset(), Reopen()])),
        _one(st.sampled_from([Listen(kind) for kind in found.kinds])),
    ]
    if found.attributes:
        kinds.append(_one(st.sampled_from(sorted(found.attributes)).flatmap(lambda name: _store(found, name))))
    return kinds


def _one(strategy: SearchStrategy[Operation]) -> SearchStrategy[Operations]:
    return strategy.map(lambda operation: (operation,))


def _value(target: Target) -> SearchStrategy[int]:
    return st.one_of(
        st.sampled_from(target.values), st.sampled_from(target.values), st.integers(0, (1 << 8 * target.size) - 1)
    )


def _write(target: Target) -> SearchStrategy[Operation]:
    return _value(target).map(lambda value: Write(target.region, target.offset, value.to_bytes(target.size, "little")))


def _access(target: Target) -> SearchStrategy[Operation]:
    return st.one_of(st.just(Read(target.region, target.offset, target.size)), _write(target))


def _command(found: Map) -> SearchStrategy[Operations]:
    """Some registers are written, then one that has a method; and then jobs may run."""
    some = st.lists(st.sampled_from(found.targets).flatmap(_write), max_size=6)
    command = st.sampled_from(found.commands).flatmap(_write)
    steps = st.lists(st.just(Step(1)), max_size=3)
    return st.tuples(some, command, steps).map(lambda parts: (*parts[0], parts[1], *parts[2]))


def _odd_access(found: Map) -> SearchStrategy[Operation]:
    """Of any size and alignment, and a little beyond the end."""
    return st.sampled_from(sorted(found.sizes)).flatmap(lambda region: _odd_in(found, region))


def _odd_in(found: Map, region: int) -> SearchStrategy[Operation]:
    places = [each.offset for each in found.targets if each.region == region] or [0]
    near = st.tuples(st.sampled_from(places), st.integers(0, 8)).map(lambda pair: max(pair[0] - 4 + pair[1], 0))
    offset = st.one_of(near, st.integers(0, found.sizes[region] + 4))
    data = st.binary(min_size=1, max_size=WIDEST)
    return st.one_of(
        st.builds(Read, st.just(region), offset, st.integers(1, WIDEST)),
        st.builds(Write, st.just(region), offset, data),
    )


def _config(found: Map) -> SearchStrategy[Operation]:
    command = st.sampled_from([b"\x07\x00", b"\x07\x04", b"\x03\x00", b"\x00\x00"]).map(
        lambda data: Write(int(Region.CONFIG), 4, data)
    )
    size = found.sizes[int(Region.CONFIG)]
    read = st.integers(0, size // 4 - 1).map(lambda at: Read(int(Region.CONFIG), 4 * at, 4))
    return st.one_of(command, read)


def _poke() -> SearchStrategy[Operation]:
    return st.builds(Poke, st.sampled_from(ADDRESSES[:-2]), st.binary(min_size=1, max_size=64))


def _store(found: Map, name: str) -> SearchStrategy[Operation]:
    return st.sampled_from(found.attributes[name]).map(lambda text: Store(name, text))


# --- the other checks -------------------------------------------------------------------------------------------


def accesses(size: int, places: list[int]) -> SearchStrategy[tuple[RuleAccess, ...]]:
    """To the bare registers of a bar; ``places`` are where registers are."""
    near = st.tuples(st.sampled_from(places or [0]), st.integers(0, 8)).map(lambda pair: max(sum(pair) - 4, 0))
    offset = st.one_of(st.sampled_from(places or [0]), near, st.integers(0, size + 2))
    count = st.one_of(st.sampled_from([1, 2, 4, 8]), st.integers(1, WIDEST))
    data = count.flatmap(
        lambda length: st.one_of(st.just(b"\xff" * length), st.binary(min_size=length, max_size=length))
    )
    read = st.builds(RuleAccess, st.just("read"), offset, count)
    write = st.builds(RuleAccess, st.just("write"), offset, st.just(0), data)
    device = st.builds(RuleAccess, st.just("device"), st.integers(0, max(len(places) - 1, 0)), st.just(0), data)
    return st.lists(st.one_of(read, write, device), max_size=20).map(tuple)


def changes(types: int) -> SearchStrategy[tuple[Change, ...]]:
    """Of a parent's mdevs."""
    kinds = st.sampled_from([*KINDS[:1] * 3, *KINDS])
    return st.lists(st.builds(Change, kinds, st.integers(0, max(types, 4) - 1)), max_size=40).map(tuple)


def mutations() -> SearchStrategy[tuple[Mutation, ...]]:
    """Of a saved state."""
    one = st.builds(
        Mutation,
        st.sampled_from([*MUTATIONS, "odd", "odd", "nudge"]),
        st.integers(0, (1 << 16) - 1),
        st.integers(0, 255),
        st.binary(max_size=24),
    )
    return st.lists(one, min_size=1, max_size=20).map(tuple)
