"""Mutations of inputs, by a `random.Random`: what a run without coverage guidance uses, and mutators with structure."""

from collections.abc import Sequence
from random import Random

EDGES = (0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 4095, 4096, 65535, 65536)
TOPS = tuple((1 << bits) - back for bits in (16, 20, 31, 32, 40, 63, 64) for back in (0, 1, 2, 16, 4096))


def number(chance: Random) -> int:
    """One of those at which code decides, or any; of at most 64 bits."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.choice(TOPS) & 0xFFFF_FFFF_FFFF_FFFF
    if kind == 1:
        return chance.getrandbits(chance.choice((8, 16, 32, 64)))
    return chance.choice(EDGES)


def mutated(data: bytes, chance: Random) -> bytes:
    """The bytes with a few pieces changed."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5))):
        _change(made, chance)
    return bytes(made)


def _change(made: bytearray, chance: Random) -> None:
    at = chance.randrange(len(made) + 1)
    match chance.randrange(6):
        case 0:
            made[at:at] = chance.randbytes(chance.choice((1, 2, 4, 8)))
        case 1:
            del made[at : at + chance.choice((1, 2, 4, 8, 16))]
        case 2 | 3 if at < len(made):
            made[at] ^= 1 << chance.randrange(8)
        case 4:
            size = chance.choice((1, 2, 4, 8))
            at -= at % size
            made[at : at + size] = (number(chance) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        case _ if at < len(made):
            made[at] = chance.randrange(256)


def crossed(one: bytes, other: bytes, chance: Random) -> bytes:
    """The beginning of one and the end of another."""
    return one[: chance.randrange(len(one) + 1)] + other[chance.randrange(len(other) + 1) :]


def inputs(seeds: Sequence[bytes], chance: Random, count: int) -> list[bytes]:
    """The seeds, then ``count`` mutations of them."""
    made = list(seeds)
    for _ in range(count):
        base = chance.choice(seeds)
        if chance.randrange(4) == 0:
            base = crossed(base, chance.choice(seeds), chance)
        made.append(mutated(base, chance))
    return made
