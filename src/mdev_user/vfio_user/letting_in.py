"""Whoever takes a step lock again and again lets those in first who wait for it.

A step lock is not fair, since a fair one would make each access wait for a change of threads: who gives it and takes it
again at once is there before a thread that was woken. A guest that writes without end, or a job that always has
something to do, would keep out `show`, `remove`, a migration, or one another, for seconds and minutes.
"""

from time import sleep

from mdev_user.vfio.step_lock import StepLock

_NAP, _NAPS = 0.00002, 12
"""Seconds, in one of which a thread that was woken is there; and how many of them, or somebody who is always there
would keep out the rest."""


def let_in(lock: StepLock) -> None:
    """Before it is taken: let those have it who wait for it, unless somebody has it, who will not be hurried."""
    for _nap in range(_NAPS):
        if not lock.is_wanted() or lock.locked():
            return
        sleep(_NAP)
