"""A log of uevents of which some reach nobody: their numbers are used up, and no reader is given them."""

from collections.abc import Callable
from time import monotonic

from typing_extensions import override

from mdev_user.daemon.events import EventLog
from mdev_user.daemon.views import UeventLine
from mdev_user.sysfs.uevents import Uevent


class LossyLog(EventLog):
    """What is there (`snapshot`) stays true: only the telling is lost."""

    def __init__(self, loses: Callable[[str, str, str], bool]) -> None:
        """``loses`` is asked of each uevent, by action, subsystem and devpath, whether it is lost."""
        super().__init__()
        self._loses = loses
        self._lost: set[int] = set()

    @override
    def read(self, after: int, seconds: float) -> list[UeventLine]:
        deadline = monotonic() + seconds
        while True:
            lines = super().read(after, max(0.0, deadline - monotonic()))
            kept = [each for each in lines if each.kind != "uevent" or each.number not in self._lost]
            if kept or not lines:
                return kept
            after = lines[-1].number

    @override
    def _append(self, uevent: Uevent) -> None:
        super()._append(uevent)
        if self._loses(uevent.action, uevent.subsystem, uevent.devpath):
            self._lost.add(self._last)
