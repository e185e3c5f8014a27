"""Listening sockets that somebody else made: ``serve --fd NAME=N``, and systemd's socket activation.

NAME is ``control`` for the control API, or an mdev's UUID for its vfio-user socket. systemd passes names in
$LISTEN_FDNAMES (FileDescriptorName= of a socket unit) for file descriptors from 3 on, to the process whose number is in
$LISTEN_PID (sd_listen_fds(3)).
"""

import os
import socket
import stat
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from mdev_user.errors import ConfigError

CONTROL = "control"
_FIRST = 3
"""0 to 2 are the standard streams."""
_MOST = 1 << 20
_MOST_DIGITS = 7
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


@dataclass(frozen=True)
class Lent:
    """Sockets that are ours to accept from, non-blocking and closed when a program is executed."""

    control: socket.socket | None = None
    mdevs: Mapping[UUID, socket.socket] = field(default_factory=dict)

    def check_places(self, devices: Path) -> None:
        """ConfigError for one that lies where the daemon makes sockets of its own."""
        for uuid, each in self.mdevs.items():
            address = each.getsockname()
            if isinstance(address, str) and Path(address).resolve().is_relative_to(devices.resolve()):
                raise ConfigError(
                    f"the socket {address} given for {uuid} lies in {devices}, where the daemon makes an mdev's own: "
                    "bind it elsewhere; both are served"
                )

    def close(self) -> None:
        for each in (*([self.control] if self.control else []), *self.mdevs.values()):
            each.close()


def take_sockets(given: Sequence[str], environment: MutableMapping[str, str] = os.environ) -> Lent:
    """The sockets of the command line (each NAME=N) and of the environment, which does not name them afterwards.

    ConfigError for a name that is neither, one given twice, what is no listening UNIX stream socket, and one for the
    control API to which anybody may connect.
    """
    found: dict[UUID | None, socket.socket] = {}
    try:
        for where, name, number in [*map(_parse, given), *_activated(environment)]:
            key = None if name == CONTROL else _uuid(where, name)
            if key in found or any(each.fileno() == number for each in found.values()):
                raise ConfigError(f"{where}: {name} or file descriptor {number} is given twice")
            found[key] = _listener(where, number)
            if key is None:
                _check_private(where, found[key])
    except ConfigError:
        for each in found.values():
            each.detach()  # whoever made it may want it back
        raise
    return Lent(found.get(None), {key: each for key, each in found.items() if key is not None})


def _parse(text: str) -> tuple[str, str, int]:
    name, _, number = text.partition("=")
    if not (name and number.isascii() and number.isdecimal() and _FIRST <= _number(number) < _MOST):
        raise ConfigError(
            f"--fd {text[:80]}: expected NAME=N: {CONTROL} or an mdev's UUID, and a file descriptor from 3 on"
        )
    return f"--fd {text}", name, int(number)


def _activated(environment: MutableMapping[str, str]) -> Iterator[tuple[str, str, int]]:
    pid, count, names = (environment.get(name, "") for name in _VARIABLES[:3])
    if pid != str(os.getpid()):
        return
    for name in _VARIABLES:  # whoever we start is not meant
        environment.pop(name, None)
    if not (count.isascii() and count.isdecimal() and _number(count) < _MOST):
        raise ConfigError(f"$LISTEN_FDS: expected a number of file descriptors, given {count!r}")
    named = names.split(":") if names else []
    for at in range(int(count)):
        name = named[at] if at < len(named) else "unknown"
        yield f"$LISTEN_FDNAMES (file descriptor {_FIRST + at})", name, _FIRST + at


def _number(digits: str) -> int:
    return int(digits) if len(digits) <= _MOST_DIGITS else _MOST


def _uuid(where: str, name: str) -> UUID:
    try:
        uuid = UUID(name)
    except ValueError:
        uuid = None
    if uuid is None or str(uuid) != name.lower():
        raise ConfigError(
            f"{where}: expected {CONTROL} or an mdev's UUID, given {name!r}; in a socket unit the name is "
            "FileDescriptorName="
        )
    return uuid


def _listener(where: str, number: int) -> socket.socket:
    try:
        os.set_inheritable(number, False)  # noqa: FBT003 - as os names it
        listener = socket.socket(fileno=number)
    except OSError as error:
        raise ConfigError(f"{where}: expected a listening socket: {error.strerror}") from None
    if (listener.family, listener.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        wrong = "another kind of socket"
    elif not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        wrong = "one that does not listen"
    else:
        listener.setblocking(False)  # noqa: FBT003 - as socket names it
        return listener
    listener.detach()
    raise ConfigError(f"{where}: expected a listening UNIX stream socket, given {wrong}")


def _check_private(where: str, listener: socket.socket) -> None:
    """Whoever may connect can do everything, and systemd lets everybody connect if a unit does not say who may."""
    address = listener.getsockname()
    with suppress(OSError):  # nobody connects by that name
        if isinstance(address, str) and not Path(address).stat().st_mode & stat.S_IWOTH:
            return
        raise ConfigError(
            f"{where}: anybody may connect to the socket {address!r} and control the daemon: make it a file of mode "
            "0600; in a socket unit that is SocketMode=0600"
        )
