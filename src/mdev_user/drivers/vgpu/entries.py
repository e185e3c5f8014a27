"""Entries: the pieces of a guest's memory that resources have, as the guest lists them; which can be, and how many."""

from mdev_user.drivers.vgpu.commands import ENTRY_SIZE

MOST_PIECES = 1 << 17
"""Of all resources of a guest: how many it names is up to it."""
SMALLEST = 1 << 8
"""Bytes of a piece, but of the first and the last. Memory is pages; smaller ones cost more to find than to copy."""
_ABOVE = (9, 10, 11)
"""Where in an entry the bytes of its length are that smaller ones have not; the length has 32 bits."""


def fault_of(data: bytes) -> str:
    """Why a backing cannot have these; empty when it can. A millisecond for the most that there can be."""
    if len(data) % ENTRY_SIZE:
        return f"{len(data)} bytes of entries: expected a multiple of {ENTRY_SIZE}"
    inner, above = data[ENTRY_SIZE:-ENTRY_SIZE], 0
    for at in _ABOVE:
        above |= int.from_bytes(inner[at::ENTRY_SIZE], "little")
    if 0 in above.to_bytes(len(inner) // ENTRY_SIZE, "little"):
        return f"a piece of less than {SMALLEST} bytes that is neither the first nor the last"
    return ""


class Attached(dict[int, int]):
    """By resource that has a backing, of how many pieces."""

    pieces = 0
    """Of all of them."""

    def add(self, number: int, count: int) -> None:
        self[number] = count
        self.pieces += count

    def drop(self, number: int) -> None:
        """Nothing happens where it has none."""
        self.pieces -= self.pop(number, 0)
