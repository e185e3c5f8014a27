"""How what is tried is made up: at random, with what is likely to matter more often; the same for the same number.

By hand, and not by hypothesis: of 80 stories that it drew for a device with five registers nine wrote the register that
mattered, with two values in all (its generator makes new cases mostly by changing old ones, and a case costs us
milliseconds). What is lost is its shrinking; see `search`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import TypeAlias

from mdev_user.testing.conformance.accounts import KINDS, Change
from mdev_user.testing.conformance.maps import ADDRESSES, Map, Target
from mdev_user.testing.conformance.mutations import MUTATIONS, Mutation
from mdev_user.testing.conformance.operations import (
    Advance,
    Copy,
    Listen,
    MappedWrite,
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
from mdev_user.testing.conformance.rules import RuleAccess
from mdev_user.testing.conformance.streams import DAMAGES, FORGERIES, Tampering
from mdev_user.units import PAGE, MiB
from mdev_user.vfio.requests import Region

Operations: TypeAlias = tuple[Operation, ...]
Story: TypeAlias = tuple[Map, Operations, Operations]
Maker: TypeAlias = Callable[[Random, Map], Sequence[Operation]]

WIDEST = 16
"""Bytes of an odd access."""
# No multiple of what a driver is likely to sleep, so that nobody has to care which of two things at one time is first.
_TICKS = (7, 701, 7013, 70123, 701_113)
_COMMANDS = (b"\x07\x00", b"\x07\x00", b"\x07\x04", b"\x03\x00", b"\x00\x00")
"""For the register of that name in config space."""
_MUTE = Write(int(Region.CONFIG), 4, b"\x03\x00")
"""Without bus mastering messages wait."""
_NO_PIN = Write(int(Region.CONFIG), 4, b"\x07\x04")
_COPIES = (100, PAGE, MiB, MiB)
"""Bytes that are copied at once."""
_HEADER = (0x00, 0x08, 0x0C, 0x10, 0x2C, 0x34, 0x3C)


def story(random: Random, maps: Sequence[Map], before: int = 8, after: int = 6) -> Story:
    """What is done before a device is saved, and what is done then, about so many things.

    Mostly the last thing before is a command, so that a job is under way, and the device is being copied.
    """
    whole = random.choice(maps)
    found = _focus(random, whole) if random.random() < 0.75 else whole
    first = [*_beginning(random, found)]
    first += [each for _ in range(random.randint(0, before)) for each in _something(random, found)]
    if found.commands and random.random() < 0.8:
        first += _command(random, found)
    then = [each for _ in range(random.randint(0, after)) for each in _something(random, found)]
    return whole, tuple(_copied(random, whole, first)), tuple(_painted(random, whole, then))


def _beginning(random: Random, found: Map) -> Sequence[Operation]:
    """The kind of interrupt that is used, and whether the device may reach the guest's memory, also with messages."""
    listen = [Listen(found.kinds[-1])] if random.random() < 0.4 else []
    return [*listen, random.choice((_MUTE, _NO_PIN))] if random.random() < 0.25 else listen


def _focus(random: Random, whole: Map) -> Map:
    """A few of the registers, so that what is done has more to do with each other."""
    commands = random.sample(whole.commands, min(len(whole.commands), random.randint(1, 2)))
    others = [each for each in whole.targets if each not in commands]
    some = random.sample(others, min(len(others), random.randint(2, 6)))
    return replace(whole, targets=[*commands, *some], commands=commands)


def _copied(random: Random, whole: Map, operations: Sequence[Operation]) -> Iterator[Operation]:
    """With pre-copy begun at some moment, and memory that is written before and after it was read."""
    begin = random.randint(0, len(operations)) if random.random() < 0.7 else len(operations) + 1
    for number, each in enumerate(_painted(random, whole, operations)):
        if number == begin or (number > begin and random.random() < 0.4):
            yield Copy(random.choice(_COPIES))
        yield each
    if begin <= len(operations):
        yield Copy(random.choice(_COPIES))
        yield from _painted(random, whole, ())


def _painted(random: Random, whole: Map, operations: Sequence[Operation]) -> Iterator[Operation]:
    """With writes to the memory that the guest maps in between, to few of its pages."""
    for each in (*operations, None):
        if whole.memories and random.random() < 0.4:
            region, start, size = random.choice(whole.memories)
            page = random.choice((0, 1, 2, -1)) % (size // PAGE)
            data = random.choice((bytes(8), random.randbytes(random.randint(1, 8))))
            yield MappedWrite(region, start + page * PAGE + random.choice((0, 100, PAGE - 8)), data)
        if each is not None:
            yield each


def _something(random: Random, found: Map) -> Sequence[Operation]:
    makers = [maker for maker, needed in _MAKERS if getattr(found, needed)]
    weights = [_MAKERS[maker, needed] for maker, needed in _MAKERS if getattr(found, needed)]
    return random.choices(makers, weights)[0](random, found)


def _access(random: Random, found: Map) -> Sequence[Operation]:
    target = random.choice(found.targets)
    if random.random() < 0.4:
        return [Read(target.region, target.offset, target.size)]
    return [_write(random, target)]


def _write(random: Random, target: Target) -> Operation:
    value = random.choice(target.values) if random.random() < 0.75 else random.getrandbits(8 * target.size)
    return Write(target.region, target.offset, value.to_bytes(target.size, "little"))


def _command(random: Random, found: Map) -> Sequence[Operation]:
    """Some registers are written, then one that has a method; and then jobs may run."""
    command = random.choice(found.commands)
    beside = [each for each in found.targets if each.region == command.region] or found.targets
    some = random.sample(beside, random.randint(0, min(len(beside), 6)))
    then: list[Operation] = [Step(1)] * random.choice((0, 1, 1, 2, 3, 4))
    then += random.choice(((), (), (Run(),), (Run(),), (Advance(random.choice(_TICKS)),), (Reset(),)))
    return [*(_write(random, target) for target in some), _write(random, command), *then]


def _odd_access(random: Random, found: Map) -> Sequence[Operation]:
    """Of any size and alignment, and a little beyond the end."""
    region = random.choice(sorted(found.sizes))
    offset = _offset(random, found.sizes[region], [each.offset for each in found.targets if each.region == region])
    if random.random() < 0.5:
        return [Read(region, offset, random.randint(1, WIDEST))]
    return [Write(region, offset, _bytes(random, random.randint(1, WIDEST)))]


def _offset(random: Random, size: int, places: Sequence[int]) -> int:
    if places and random.random() < 0.8:
        return max(random.choice(places) + random.choice((0, 0, 0, 1, 2, 4, -1, -2, -4)), 0)
    return random.randint(0, size + 4)


def _bytes(random: Random, size: int) -> bytes:
    return random.choice((b"\xff" * size, random.randbytes(size), random.randbytes(size)))


def _config(random: Random, found: Map) -> Sequence[Operation]:
    kind = random.choice(("command", "command", "write", "read"))
    if kind == "command":
        return [Write(int(Region.CONFIG), 4, random.choice(_COMMANDS))]
    if kind == "write":
        return [Write(int(Region.CONFIG), random.choice(_HEADER), random.randbytes(4))]
    return [Read(int(Region.CONFIG), 4 * random.randrange(found.sizes[int(Region.CONFIG)] // 4), 4)]


def _poke(random: Random, _found: Map) -> Sequence[Operation]:
    return [Poke(random.choice(ADDRESSES[:-2]), random.randbytes(random.choice((1, 16, 64))))]


def _store(random: Random, found: Map) -> Sequence[Operation]:
    name = random.choice(sorted(found.attributes))
    return [Store(name, random.choice(found.attributes[name]))]


_MAKERS: dict[tuple[Maker, str], int] = {
    # how it is made, what of a map it needs, how often
    (_access, "targets"): 5,
    (_command, "commands"): 6,
    (_odd_access, "sizes"): 2,
    (_config, "sizes"): 1,
    (_poke, "sizes"): 2,
    (_store, "attributes"): 1,
    (lambda random, _found: [Step(random.randint(1, 3))], "sizes"): 3,
    (lambda random, _found: [Advance(random.choice(_TICKS))], "sizes"): 2,
    (lambda random, _found: [random.choice((Run(), Reset(), Reset(), Reopen()))], "sizes"): 1,
    (lambda random, found: [Listen(random.choice(found.kinds))], "sizes"): 1,
}


# --- the other checks -------------------------------------------------------------------------------------------


def accesses(random: Random, size: int, places: Sequence[int]) -> tuple[RuleAccess, ...]:
    """To the bare registers of a bar; ``places`` are where registers are."""
    return tuple(_rule_access(random, size, places) for _ in range(random.randint(1, 24)))


def _rule_access(random: Random, size: int, places: Sequence[int]) -> RuleAccess:
    kind = random.choice(("read", "write", "write", "device", "field"))
    count = random.choice((1, 2, 4, 4, 8, random.randint(1, WIDEST)))
    if kind in {"device", "field"} and places:
        return RuleAccess(kind, random.randrange(len(places)), random.randrange(8), _bytes(random, 8))
    data = _bytes(random, count) if kind == "write" else b""
    return RuleAccess(kind, _offset(random, size, places), count, data)


def changes(random: Random, types: int) -> tuple[Change, ...]:
    """Of a parent's mdevs."""
    kinds = (*KINDS[:1] * 3, *KINDS)
    return tuple(Change(random.choice(kinds), random.randrange(max(types, 4))) for _ in range(random.randint(1, 40)))


def mutations(random: Random) -> tuple[Mutation, ...]:
    """Of a saved state."""
    return tuple(_mutation(random) for _ in range(20))


def tamperings(random: Random) -> tuple[Tampering, ...]:
    """With a migration stream; once, none."""
    kinds = ["leave it", *(random.choice((*DAMAGES, *FORGERIES)) for _ in range(10))]
    return tuple(Tampering(kind, _mutation(random)) for kind in kinds)


def _mutation(random: Random) -> Mutation:
    kind = random.choice((*MUTATIONS, "odd", "odd", "nudge"))
    return Mutation(kind, random.getrandbits(16), random.getrandbits(8), random.randbytes(random.randint(0, 24)))
