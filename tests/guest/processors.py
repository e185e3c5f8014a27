"""How much of the machine's processors was left to a test by all others: what it can ask of its own speed."""

import os
from collections.abc import Iterable
from pathlib import Path

_IDLE = slice(3, 5)
"""Of the numbers of a processor in /proc/stat: idle, and waiting for a disk."""
_GUEST = 8
"""From here on they are counted twice."""


class Processors:
    """Counts from its making on; ``pids`` are the processes of the test."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = [os.getpid(), *pids]
        self._all, self._idle = _machine()
        self._own = self._used()

    def left(self) -> float:
        """The part of all processors' time that no other process had; 1 on a machine that does nothing else."""
        total, idle = _machine()
        others = (total - self._all) - (idle - self._idle) - (self._used() - self._own)
        return min(1.0, max(0.0, 1 - others / max(1, total - self._all)))

    def _used(self) -> int:
        return sum(map(_of, self._pids))


def _machine() -> tuple[int, int]:
    """Ticks of all processors since the machine's start, and those in which they had nothing to do."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:]][:_GUEST]
    return sum(ticks), sum(ticks[_IDLE])


def _of(pid: int) -> int:
    """Ticks of a process, in user space and in the kernel (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
