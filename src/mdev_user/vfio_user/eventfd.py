"""An eventfd of the guest's: how an interrupt reaches it, and how it tells that it has dealt with one."""

import os
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, final

from mdev_user.errors import GuestError
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

    def __init__(self, watcher: Watcher, failed: Callable[[Exception, str], None]) -> None:
        self.watcher = watcher
        self.failed = failed
        self.held: set[GuestEventfd] = set()

    def adopt(self, numbers: Sequence[int]) -> tuple["GuestEventfd", ...]:
        """Own these fds as eventfds. EINVAL when one of them is something else; then all of them are closed."""
        if not all(_is_eventfd(number) for number in numbers):
            close_fds(numbers)
            raise GuestError("SET_IRQS: expected eventfds, one of the file descriptors is something else")
        return tuple(GuestEventfd(number, self) for number in numbers)

    def close_all(self) -> None:
        for eventfd in tuple(self.held):
            eventfd.close()


@final
class GuestEventfd:
    """One eventfd; implements `mdev_user.vfio.requests.Eventfd`. Closing it twice is harmless."""

    __slots__ = ("_fd", "_owner", "_room", "_signalled")

    def __init__(self, fd: int, owner: Eventfds) -> None:
        self._fd = fd
        self._owner = owner
        self._signalled: Callable[[], None] | None = None
        self._room = select.poll()
        self._room.register(fd, select.POLLOUT)
        owner.held.add(self)

    def signal(self) -> None:
        """Never blocks: a full counter means that its reader has been woken and has yet to look.

        The fd may be a blocking one, and its flags are the client's to choose, so they are not changed; a client that
        fills the counter between the two calls here can still make a step of its own mdev wait for itself.
        """
        if self._fd >= 0 and self._room.poll(0):
            with suppress(BlockingIOError):
                os.eventfd_write(self._fd, 1)

    def watch(self, signalled: Callable[[], None]) -> None:
        self._signalled = signalled
        self._owner.watcher.add(self._fd, self._step)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        self._owner.held.discard(self)
        if self._signalled is not None:
            self._owner.watcher.remove(fd)
        close_fds((fd,))

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


def _is_eventfd(number: int) -> bool:
    try:
        return str(Path(f"/proc/self/fd/{number}").readlink()) == _LINK
    except OSError:
        return False
