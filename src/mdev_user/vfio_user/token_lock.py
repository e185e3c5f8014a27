"""The step lock of the loop in Python: a token in a deque, which costs a fifth of a `threading.Lock` to take and give.

A guest's processor waits for every access, and nearly always nobody else has the token. Each operation of a deque is
atomic; who finds the token gone puts a gate of its own into the queue and looks once more before it waits there, so
that whoever gives the token back in the meantime sees either the look or the gate.
"""

from collections import deque
from contextlib import suppress
from threading import Lock
from time import monotonic

TOKEN = True


class TokenLock:
    """As `threading.Lock`. ``token`` has one element while nobody holds the lock; the loop takes it by itself."""

    __slots__ = ("queue", "token", "waiting")

    def __init__(self) -> None:
        self.token = deque([TOKEN])
        self.queue: deque[Lock] = deque()
        """Whoever gives the token back calls `wake` if there is something in it."""
        self.waiting: deque[bool] = deque()
        """As long as there are threads that wait: one that was woken is not in the queue, and has not got it yet."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002 - as Lock's
        """False when it was held for all of ``timeout`` seconds; -1 for no end."""
        if self._take():
            return True
        return blocking and self._wait(None if timeout < 0 else monotonic() + timeout)

    def release(self) -> None:
        """RuntimeError when nobody holds it."""
        if self.token:
            raise RuntimeError("the step lock is not held")
        self.token.append(TOKEN)
        if self.queue:
            self.wake()

    def locked(self) -> bool:
        return not self.token

    def is_wanted(self) -> bool:
        return bool(self.waiting)

    def __enter__(self) -> bool:
        return self._take() or self._wait(None)

    def __exit__(self, *_error: object) -> None:
        self.release()

    def wake(self) -> None:
        """Let the first of those who wait look again."""
        with suppress(IndexError):  # it has found the token itself
            self.queue.popleft().release()

    def _take(self) -> bool:
        try:
            return self.token.pop()
        except IndexError:
            return False

    def _wait(self, end: float | None) -> bool:
        self.waiting.append(True)
        try:
            return self._queue_up(end)
        finally:
            self.waiting.pop()

    def _queue_up(self, end: float | None) -> bool:
        while True:
            gate = Lock()
            gate.acquire()
            self.queue.append(gate)
            taken = woken = False
            try:
                taken = self._take()
                woken = not taken and gate.acquire(timeout=-1 if end is None else max(0.0, end - monotonic()))
            finally:
                if not woken:
                    self._withdraw(gate)
            if taken or (woken and self._take()):
                return True
            if not woken:
                return False

    def _withdraw(self, gate: Lock) -> None:
        try:
            self.queue.remove(gate)
        except ValueError:  # woken just now: that was for somebody who still waits
            self.wake()
