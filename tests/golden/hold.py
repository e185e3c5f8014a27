"""The steps that were run while somebody had a device open, and what happened beside them."""

from collections.abc import Callable, Mapping
from threading import Timer
from time import monotonic, sleep
from uuid import UUID

from golden.machine import Machine
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.vfio_user.client import Client

HELD = UUID("12345678-9abc-def0-1234-56789abcdef0")
_WRITER = ("hold-group-remove-blocking", f"/sys/bus/mdev/devices/{HELD}/remove", "1")
_HELD_SECONDS = 0.5  # the recorder's were two
_PATIENCE = 10.0
_TICK = 0.01


class Holder:
    """Opens and closes the device, and has the writer that waits for it; the order is the recording's.

    A group that is open while its device is not (hold-groupfd-*) has no counterpart: nobody connects.
    """

    def __init__(self, machine: Machine, daemon: RunningDaemon) -> None:
        self._machine = machine
        self._daemon = daemon
        self._user: Client | None = None
        self._closing: Timer | None = None

    def before(self, step: str) -> None:
        """What was done before a step of this name."""
        if step in _BEFORE:
            _BEFORE[step](self)

    def after(self, step: str) -> None:
        if step in _AFTER:
            _AFTER[step](self)

    def close(self) -> None:
        """End the use of the device; nothing when it is not used."""
        if self._closing is not None:
            self._closing.join()
        if self._user is not None:
            self._user.close()
        self._user = None

    def open(self) -> None:
        self._user = self._daemon.guest(HELD)

    def start_remove(self) -> None:
        self._machine.ask("start-writer", *_WRITER)
        self._wait(lambda: not self._is_there(f"bus/mdev/devices/{HELD}"))

    def terminate_remove(self) -> None:
        """The recorder gave it time to end, which it cannot: it waits for the device's user."""
        self._machine.ask("terminate-writer")
        self._wait(lambda: self._machine.ask("writer-state").out != "S")

    def end_remove(self) -> None:
        self.close()
        self._machine.ask("end-writer")

    def close_later(self) -> None:
        """While the next step waits, which its answer shows."""
        if self._user is not None:
            self._closing = Timer(_HELD_SECONDS, self._user.close)
            self._closing.start()

    def _is_there(self, path: str) -> bool:
        return (self._daemon.sys / path).is_symlink()

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Until it is so, or for so long that the comparison will tell what is not."""
        deadline = monotonic() + _PATIENCE
        while not condition() and monotonic() < deadline:
            sleep(_TICK)


_BEFORE: Mapping[str, Callable[[Holder], None]] = {
    "hold-group-state": Holder.start_remove,
    "hold-group-after-sigterm": Holder.terminate_remove,
    "hold-group-remove-times": Holder.end_remove,
    "hold-unbind": Holder.close_later,
}
_AFTER: Mapping[str, Callable[[Holder], None]] = {
    "hold-group-create": Holder.open,
    "holdu-create": Holder.open,
    "hold-unbind": Holder.close,
}
