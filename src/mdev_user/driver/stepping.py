"""Stepping: a job's coroutine, performed as steps of its device from one await to the next.

Everything that a step did is settled before the guest can see any of it, and what a job has slept is counted.
"""

from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Protocol

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


class Host(Protocol):
    """What steps need of the device that they are steps of."""

    settle_step: Callable[[], None]
    """Settles what the step that runs has done so far."""

    def jobs_clock(self) -> float:
        """Seconds, as `Slept` counts them."""

    def was_counted(self, error: GuestError) -> None:
        """The host has counted a guest's error, and throws it in."""


@coroutine
def stepped(
    work: Coroutine[object, object, None], slept: Slept, device: Host, settle: Callable[[], None]
) -> Generator[object, object, None]:
    """To be awaited: a driver's coroutine with what belongs to the end of each of its steps."""
    send, outcome = work.send, None
    thrown: Exception | None = None
    while True:
        device.settle_step = settle  # anew in each step: other jobs run in between
        try:
            request = send(outcome) if thrown is None else work.throw(thrown)
        except StopIteration:
            return
        settle()
        if isinstance(request, Sleep) and request.seconds > 0:
            request = Sleep(slept.begin(request.seconds, device.jobs_clock()))
        thrown = None
        try:
            outcome = yield request
        except GeneratorExit:
            work.close()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for the driver's code
            slept.break_off()
            thrown = _told(error, device)
        else:
            slept.end()


def _told(error: Exception, device: Host) -> Exception:
    if isinstance(error, GuestError):
        device.was_counted(error)
    return error
