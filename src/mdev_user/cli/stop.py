"""``mdev-user stop``: end the daemon of a run directory, and return when it has ended."""

import errno
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mdev_user.cli.output import RunDirOption
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir
from mdev_user.errors import MdevUserError


class NotStopped(MdevUserError):
    """A daemon that is not ours to end."""

    errno = errno.EPERM


def stop(run_dir: RunDirOption = None) -> None:
    """End the daemon, its parents and its mdevs, and return when it has ended. Who uses an mdev is disconnected."""
    place = RunDir(run_dir)
    with suppress(ProcessLookupError), _process(place) as process:  # it has ended by itself meanwhile
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
        except PermissionError:
            raise NotStopped(f"the daemon at {place.path} is another user's: its owner or root may end it") from None
        _wait(process)


@contextmanager
def _process(place: RunDir) -> Iterator[int]:
    """A pidfd of the daemon. A pid alone may be another process's by the time that it is used.

    ProcessLookupError where it ends at this moment.
    """
    client = Client(place)
    pid = _pid(client, place)
    process = os.pidfd_open(pid)
    try:
        if _pid(client, place) != pid:  # what listens still is alive, so the pidfd is not of one that came after it
            raise NotStopped(f"another daemon has begun at {place.path} meanwhile; try again")
        yield process
    finally:
        os.close(process)


def _pid(client: Client, place: RunDir) -> int:
    listener, holder = client.listener(), place.holder()
    if listener != holder:  # a socket that was lent is its maker's, systemd's say, and must never end that
        raise NotStopped(
            f"the daemon at {place.path} cannot be ended from here: process {listener} made its control socket, "
            f"and its lock names process {holder or 'none'}; end it by what started it"
        )
    return listener


def _wait(process: int) -> None:
    """The control socket goes before the process does."""
    ended = select.poll()
    ended.register(process, select.POLLIN)
    ended.poll()
