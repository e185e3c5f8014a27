"""The program's eventfds, copied to be given to a device's server."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EBADF, EINVAL
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from mdev_user.uapi.files import refused
from mdev_user.vfio_user.transport import close_fds

if TYPE_CHECKING:
    from mdev_user.uapi.call import Call

_EVENTFD = "anon_inode:[eventfd]"


@contextmanager
def taken(call: "Call", numbers: Sequence[int]) -> Iterator[list[int]]:
    """Copies of the program's eventfds, -1 for none. EBADF for what is no file, EINVAL for what is no eventfd."""
    fds: list[int] = []
    try:
        for number in numbers:
            fds.append(_eventfd(call, number) if number != -1 else -1)  # noqa: PERF401 - what was taken is closed
        yield fds
    finally:
        for fd in fds:
            if fd >= 0:
                os.close(fd)


def _eventfd(call: "Call", number: int) -> int:
    if number < 0:
        raise refused(EBADF)
    fd = call.take_fd(number)
    if str(Path(f"/proc/self/fd/{fd}").readlink()) != _EVENTFD:  # the path of what has a name begins with a slash
        close_fds([fd])
        raise refused(EINVAL)
    return fd


def runs(fds: Sequence[int], most: int) -> Iterator[tuple[int, list[int]]]:
    """Stretches that one message can carry: all there, at most so many, or none there. With where each begins."""
    if not fds:
        yield 0, []
    at = 0
    for there, run in groupby(fds, lambda fd: fd >= 0):
        stretch = list(run)
        step = most if there else len(stretch)
        for start in range(0, len(stretch), step):
            yield at + start, stretch[start : start + step]
        at += len(stretch)
