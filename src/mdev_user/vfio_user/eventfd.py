"""An eventfd of the guest's: how an interrupt reaches it, and how it tells that it has dealt with one."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, final

from mdev_user.errors import GuestError
from mdev_user.vfio_user.shares import Share
from mdev_user.vfio_user.signalling import Signal, signal_of
from mdev_user.vfio_user.transport import close_fds

_LINK = "anon_inode:[eventfd]"
_SIZE = 8


class Watcher(Protocol):
    """Who looks at eventfds for us.

    ``signalled`` is to be called as a step of the device, under its step lock, when ``fd`` has been signalled. The
    step reads the eventfd: whoever watches it needs to be told once per signal (edge-triggered) and never reads it.
    """

    def add(self, fd: int, signalled: Callable[[], None]) -> None: ...

    def remove(self, fd: int) -> None: ...


class Eventfds:
    """The eventfds that one session holds for its client; used under the step lock.

    ``failed`` is told what a driver raised in a step that a watched eventfd started.
    """

    def __init__(self, watcher: Watcher, failed: Callable[[Exception, str], None], share: Share | None = None) -> None:
        self.watcher = watcher
        self.share = share or Share()
        self.failed = failed
        self.held: set[GuestEventfd] = set()

    def adopt(self, numbers: Sequence[int]) -> tuple["GuestEventfd", ...]:
        """Own these fds as eventfds. Refused, all of them are closed.

        EINVAL when one of them is something else, ENOSPC when the host can keep no more open.
        """
        try:
            if not all(_is_eventfd(number) for number in numbers):
                raise GuestError("SET_IRQS: expected eventfds, one of the file descriptors is something else")
            self.share.take_files(len(numbers))
        except GuestError:
            close_fds(numbers)
            raise
        return tuple(GuestEventfd(number, self) for number in numbers)

    def close_all(self) -> None:
        for eventfd in tuple(self.held):
            eventfd.close()


@final
class GuestEventfd:
    """One eventfd; implements `mdev_user.vfio.requests.Eventfd`. Closing it twice is harmless."""

    __slots__ = ("_fd", "_owner", "_signalled", "signal")

    signal: Signal
    """Never waits, whatever the client does with its eventfd (see `signalling`); nothing once it is closed."""

    def __init__(self, fd: int, owner: Eventfds) -> None:
        self._fd = fd
        self._owner = owner
        self._signalled: Callable[[], None] | None = None
        self.signal = signal_of(fd)
        owner.held.add(self)

    def watch(self, signalled: Callable[[], None]) -> None:
        self._signalled = signalled
        self._owner.watcher.add(self._fd, self._step)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        self.signal = _nothing
        self._owner.held.discard(self)
        if self._signalled is not None:
            self._owner.watcher.remove(fd)
        os.close(fd)
        self._owner.share.give_files(1)

    def _step(self) -> None:
        if self._fd < 0 or self._signalled is None:  # closed since it was signalled
            return
        self._consume()
        try:
            self._signalled()
        except Exception as error:  # noqa: BLE001 - in a thread that serves others too: the session is told instead
            self._owner.failed(error, "unmask")

    def _consume(self) -> None:
        # RWF_NOWAIT because another reader may have been faster and the fd may be a blocking one.
        with suppress(BlockingIOError):
            os.preadv(self._fd, [bytearray(_SIZE)], -1, os.RWF_NOWAIT)


def _nothing() -> None:
    """The signal of one that is closed."""


def _is_eventfd(number: int) -> bool:
    try:
        return str(Path(f"/proc/self/fd/{number}").readlink()) == _LINK
    except OSError:
        return False
