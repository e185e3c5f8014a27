"""Access kinds: what a guest's read and write do to the bits of a register, one row a kind.

The names are those of data sheets (SystemRDL's ``sw``, ``onwrite`` and ``onread`` properties say the same at length).
They bind the guest only: the driver reads and writes every bit, being the hardware.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Access(Enum):
    """What a guest may do with some bits. Whatever it may not do is ignored, as by hardware."""

    RW = "read and write"
    RO = "read; a write changes nothing (but a driver may be told of it)"
    WO = "write; reads as zero"
    RW1C = "read; writing 1 clears"
    RW1S = "read; writing 1 sets"
    RC = "read, and be cleared by that; a write changes nothing"
    RSVD = "reserved: reads as its reset value; a write changes nothing"
    UNIMPL = "as reserved, and each access is counted: the real device has something here"


RW, RO, WO, RW1C, RW1S, RC, RSVD, UNIMPL = Access


@dataclass(frozen=True, slots=True)
class Masks:
    """A register's bits by what an access does to them; bits in none of the masks keep their reset value."""

    store: int
    clear: int
    put: int
    hidden: int
    once: int
    """Cleared by the read that returned them."""
    missing: int
    """Of kind UNIMPL."""
    reads: bool
    """Whether any bit is for reading; else the register can share its place with one that has such bits."""
    writes: bool


_READABLE = {RW, RO, RW1C, RW1S, RC}
_WRITABLE = {RW, WO, RW1C, RW1S}
GUEST_CHOSEN = {RW, WO, RW1C, RW1S}
"""The kinds of which a guest chooses the value."""


def masks_of(parts: Iterable[tuple[int, Access]]) -> Masks:
    """Compile fields (mask, kind) that do not overlap."""
    kinds = [kind for _mask, kind in parts]

    def mask(*wanted: Access) -> int:
        return sum(bits for bits, kind in parts if kind in wanted)

    return Masks(
        store=mask(RW, WO),
        clear=mask(RW1C),
        put=mask(RW1S),
        hidden=mask(WO),
        once=mask(RC),
        missing=mask(UNIMPL),
        reads=any(kind in _READABLE for kind in kinds),
        writes=any(kind in _WRITABLE for kind in kinds),
    )
