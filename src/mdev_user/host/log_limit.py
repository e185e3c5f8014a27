"""How much one mdev may say in a host's log: a few lines at once, then one a second, and how many were left out.

A guest, or who connects to an mdev's socket, decides how often something happens that is worth a line. The threads of
an mdev are known by their names, the thread of jobs says whose job it runs; so this holds for what a driver logs, too.
"""

import logging
from collections.abc import Callable
from threading import Lock
from time import monotonic

from typing_extensions import override

from mdev_user.host.job_thread import JOBS

MDEV_LINES, MDEV_PACE = 20, 1.0
"""Lines of one mdev at once, and seconds until another one is due."""
OTHER_LINES, OTHER_PACE = 200, 0.05
"""The same for all that is no mdev's: calls of the front, the threads that serve everybody."""
_FEW = 1024
"""Accounts that are not worth looking through."""


class _Account:
    __slots__ = ("left_out", "pace", "room", "seen")

    def __init__(self, lines: int, pace: float, now: float) -> None:
        self.room = float(lines)
        self.pace = pace
        self.seen = now
        self.left_out = 0

    def take(self, most: int, now: float) -> bool:
        self.room = min(most, self.room + (now - self.seen) / self.pace)
        self.seen = now
        if self.room < 1:
            self.left_out += 1
            return False
        self.room -= 1
        return True


class LogLimit(logging.Filter):
    """A filter of the host's log handler. A line after some that were left out says how many."""

    def __init__(self, working_for: Callable[[], str], clock: Callable[[], float] = monotonic) -> None:
        """``working_for``: the mdev whose job the thread of jobs runs, in that thread."""
        super().__init__()
        self._working_for = working_for
        self._clock = clock
        self._lock = Lock()
        self._accounts: dict[str, _Account] = {}

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        name = record.threadName or ""
        whose = name if name.startswith("mdev ") else self._working_for() if name == JOBS else ""
        lines, pace = (MDEV_LINES, MDEV_PACE) if whose else (OTHER_LINES, OTHER_PACE)
        now = self._clock()
        with self._lock:
            account = self._accounts.get(whose) or self._open(whose, lines, pace, now)
            if not account.take(lines, now):
                return False
            left_out, account.left_out = account.left_out, 0
        if left_out:
            about = whose or "this host"
            record.msg = f"{record.msg} [before it {left_out} lines of {about} were left out]"
        return True

    def _open(self, whose: str, lines: int, pace: float, now: float) -> _Account:
        if len(self._accounts) >= _FEW:  # those that would be as new
            self._accounts = {
                name: each
                for name, each in self._accounts.items()
                if each.left_out or each.room + (now - each.seen) / each.pace < MDEV_LINES
            }
        account = self._accounts[whose] = _Account(lines, pace, now)
        return account
