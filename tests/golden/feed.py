"""The daemon's uevents, read by number as the replay goes on."""

from collections.abc import Callable, Iterable
from contextlib import suppress

from golden.normal import Uevent
from mdev_user.daemon.client import Client, NoDaemon
from mdev_user.daemon.views import UeventLine


class Feed:
    """What came since it was last asked."""

    def __init__(self, control: Client) -> None:
        self._control = control
        self._number = 0
        self._rest: list[Uevent] = []

    def take(self) -> list[Uevent]:
        """Empty where no daemon is (any more), but for what `take_rest` found."""
        rest, self._rest = self._rest, []
        try:
            with self._control.events(self._number, follow=False) as lines:
                return [*rest, *self._uevents(lines)]
        except NoDaemon:
            return rest

    def take_rest(self, end: Callable[[], int]) -> int:
        """End the daemon, and keep what it says until then. Returns what ``end`` does."""
        self._rest += self.take()
        with self._control.events(self._number, follow=True) as lines:
            status = end()
            with suppress(NoDaemon):  # which is how it ends
                self._rest += self._uevents(lines)
        return status

    def _uevents(self, lines: Iterable[UeventLine]) -> Iterable[Uevent]:
        for line in lines:
            if line.kind == "uevent":
                self._number = line.number
                yield {"ACTION": line.action, "DEVPATH": line.devpath, "SUBSYSTEM": line.subsystem, **line.properties}
            elif line.kind == "lost":
                raise RuntimeError(f"{line.count} uevents before number {line.number} are lost")
