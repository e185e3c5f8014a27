"""Numbers for groups and devices: the lowest that is free, as Linux gives them (ida), reused at once."""

from collections.abc import Collection
from heapq import heappop, heappush


class Numbers:
    """Lowest-free allocation that skips the numbers which are ``taken``; the caller holds the bus's lock."""

    def __init__(self, taken: Collection[int] = ()) -> None:
        self._taken = frozenset(taken)
        self._free: list[int] = []
        self._next = 0

    def get(self) -> int:
        if self._free:
            return heappop(self._free)
        while self._next in self._taken:
            self._next += 1
        self._next += 1
        return self._next - 1

    def put(self, number: int) -> None:
        heappush(self._free, number)
