"""Stepping: a job's coroutine, performed as steps of its device from one await to the next.

Everything that a step did is settled before the guest can see any of it, and what a job has slept is counted.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator

from typing_extensions import override

from mdev_user.errors import GuestError
from mdev_user.vfio.work import Sleep


class Slept:
    """How long a job has slept, in seconds of its own time.

    A job that is loaded begins anew and has a *credit*: it sleeps so much less. Thus it is where it was when it was
    saved, and what it waits for comes when it would have come.
    """

    __slots__ = ("_asked", "_credit", "_done", "_since")

    def __init__(self, credit: float = 0.0) -> None:
        self._credit, self._done = credit, 0.0
        self._since = self._asked = 0.0

    def begin(self, seconds: float, now: float) -> float:
        """The job sleeps: what of it is still to be slept."""
        credit = min(max(self._credit - self._done, 0.0), seconds)
        self._done += credit
        self._since, self._asked = now, seconds - credit
        return self._asked

    def end(self) -> None:
        """The sleep is over; it counts as long as it was meant to be."""
        self._done, self._asked = self._done + self._asked, 0.0

    def forget(self) -> None:
        """The job runs once more, from its start."""
        self._credit = self._done = self._asked = 0.0

    def break_off(self) -> None:
        """There was no sleep: the host refused it."""
        self._asked = 0.0

    def seconds(self, now: float) -> float:
        """So far, the sleep that it is in included."""
        return max(self._credit, self._done + min(max(now - self._since, 0.0), self._asked))


class Stepped(Awaitable[None]):
    """A driver's coroutine with what belongs to the end of each of its steps."""

    def __init__(
        self,
        work: Coroutine[object, object, None],
        slept: Slept,
        clock: Callable[[], float],
        settle: Callable[[], None],
        counted: Callable[[GuestError], None],
    ) -> None:
        """``counted`` is told of a guest's error that the host has counted and throws in."""
        self._work, self._slept, self._clock = work, slept, clock
        self._settle, self._counted = settle, counted

    @override
    def __await__(self) -> Generator[object, object, None]:
        work, outcome = self._work, None
        send, thrown = work.send, None
        while True:
            try:
                request = send(outcome) if thrown is None else work.throw(thrown)
            except StopIteration:
                return
            self._settle()
            if isinstance(request, Sleep):
                request = self._begin_sleep(request)
            thrown = None
            try:
                outcome = yield request
            except GeneratorExit:
                work.close()
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it is for the driver's code
                thrown = self._failed(error)
            else:
                self._slept.end()

    def _begin_sleep(self, asked: Sleep) -> Sleep:
        return Sleep(self._slept.begin(asked.seconds, self._clock())) if asked.seconds > 0 else asked

    def _failed(self, error: Exception) -> Exception:
        self._slept.break_off()
        if isinstance(error, GuestError):
            self._counted(error)
        return error
