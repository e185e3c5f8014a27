"""Numbers for groups and devices: the lowest that is free, as Linux gives them (ida), reused at once."""

from heapq import heappop, heappush


class Numbers:
    """Lowest-free allocation; the caller holds the bus's lock."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._next = 0

    def get(self) -> int:
        if self._free:
            return heappop(self._free)
        self._next += 1
        return self._next - 1

    def put(self, number: int) -> None:
        heappush(self._free, number)
