"""Pacing: how long somebody waits so that he has no more than so much in a second, whatever that is counted in."""

from collections.abc import Callable
from contextlib import suppress

from mdev_user.errors import NoDevice
from mdev_user.vfio.work import Spent

TICK = 1e-6
"""Seconds that are not worth a sleep; also what a turn costs at least."""
_SLACK = 0.02
"""Seconds by which an mdev may be ahead of its part before it sleeps, and behind without having less in the end.

To sleep after each turn would take as long as many turns do; and no sleep ends on time.
"""
_LUMP = 0.25
"""Seconds of the jobs' work between two turns that are paid. Whoever works for longer does not work for turns."""


class Pace:
    """What one mdev may have of something, with a rate that may change at any time.

    What it has had is paid for at the rate that is in force by then: after a change nobody waits for what an older
    rate would have taken.
    """

    __slots__ = ("_amount", "_since")

    def __init__(self) -> None:
        self._since = float("-inf")
        """Seconds of the caller's clock, from which on the amount is paid."""
        self._amount = 0.0

    def wait(self, now: float, rate: float) -> float:
        """Seconds until it may have more, at ``rate`` in a second; 0 or less: at once."""
        return self._since + self._amount / rate - now

    def spend(self, now: float, amount: float, rate: float, slack: float) -> None:
        """It has so much from ``now`` on. Up to ``slack`` seconds that it came late are made up for."""
        self._since = max(self._since + self._amount / rate, now - slack)
        self._amount = amount

    def add(self, amount: float) -> None:
        """It has had so much more since then."""
        self._amount += amount


class TimePace:
    """What one mdev may have of an engine's time, of which it pays all that its jobs take, in turns and between them.

    Nobody else's job can do anything while one runs. A stretch of one is paid by its processor time, since a machine
    that stands still is nobody's fault; what a turn awaits meanwhile (a process, memory), by the clock.
    """

    __slots__ = ("_pace", "_paid", "_spent")

    def __init__(self, spent: Callable[[], Spent]) -> None:
        """``spent`` is what the jobs took; asked only while something is to be paid. NoDevice: there are none."""
        self._pace, self._spent = Pace(), spent
        self._paid: float | None = None
        """Of the jobs' processor time; None while nothing is to be paid."""

    def forget(self) -> None:
        """What the jobs did since the last payment, and do until the next turn, is not paid."""
        self._paid = None

    def begin(self) -> None:
        """The jobs begin or go on, for another user perhaps: what they took is counted anew."""
        if self._paid is not None:
            self._paid = self._spent().processor

    def end(self) -> None:
        """The jobs stand still, or are gone."""
        if self._paid is not None:
            with suppress(NoDevice):
                self.pay_between()

    def wait(self, now: float, part: float) -> float:
        """Seconds until it may have more, which is ``part`` of the time; 0: at once."""
        left = self._pace.wait(now, part)
        return left if left > _SLACK else 0.0

    def ran(self) -> float:
        """Seconds of the clock that stretches took, for `pay_turn`."""
        return self._spent().clock

    def pay_between(self) -> None:
        """Pay what the jobs did since the last payment."""
        used = self._spent().processor
        if self._paid is not None:
            self._pace.add(min(max(0.0, used - self._paid), _LUMP))
        self._paid = used

    def pay_turn(self, since: float, seconds: float, ran: float, part: float) -> None:
        """Pay a turn that was held for so long, when ``ran`` was what it is now, from ``since`` on."""
        try:
            spent = self._spent()
        except NoDevice:  # its user is gone
            return
        awaited = max(0.0, seconds - (spent.clock - ran))
        worked = 0.0 if self._paid is None else max(0.0, spent.processor - self._paid)
        self._pace.spend(since, max(awaited + worked, TICK), part, _SLACK)
        self._paid = spent.processor
