"""A guest of one vgpu, without the guest, that updates its picture when it is asked to (`gpu_client`: all the time).

``gpu_rounds.py SOCKET WIDTH HEIGHT PIECE``; ``PIECE`` as there. Each line on stdin is a number of updates, which are
done twice: one after the other, of which each is timed, and `AT_ONCE` at a time, as by a guest that draws the next
picture while one is shown. The answer is a line of JSON: nanoseconds, and how many there were in a second.
"""

import json
import sys
import time
from statistics import quantiles

from gpu_client import Guest, Updates
from typing_extensions import override

AT_ONCE = 2


class Counted(Updates):
    """So many updates, and no more."""

    def __init__(self, guest: Guest, size: tuple[int, int], depth: int, count: int) -> None:
        self._left = count
        super().__init__(guest, *size, depth)
        while len(self.times) < count:
            self.go_on()
        self.seconds = time.monotonic() - self.start

    @override
    def _begin(self) -> None:
        if self._left:
            self._left -= 1
            super()._begin()


def main() -> None:
    path, *numbers = sys.argv[1:]
    width, height, piece = map(int, numbers)
    guest = Guest(path, 4 * width * height, piece)
    guest.show(width, height)
    for line in sys.stdin:
        count = int(line)
        each = Counted(guest, (width, height), 1, count)
        together = Counted(guest, (width, height), AT_ONCE, count)
        parts = quantiles(each.times, n=100, method="inclusive")
        answer = {"p50": parts[49] * 1e6, "p99": parts[98] * 1e6, "per_second": count / together.seconds}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
