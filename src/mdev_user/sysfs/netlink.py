"""Uevents to whoever listens with libudev: messages to the netlink group that systemd-udevd sends to."""

import errno
import socket
from types import TracebackType
from typing import Self

from mdev_user.errors import MdevUserError

_NETLINK_KOBJECT_UEVENT = 15
_UDEV_GROUP = 2
"""Group 1 is the kernel's: listeners take nothing there that a process sent."""


class NotPermitted(MdevUserError):
    """The network namespace is not ours."""

    errno = errno.EPERM


class UdevSender:
    """Sends to the listeners in the network namespace in which it was made, and only to those.

    To send takes CAP_NET_ADMIN in that namespace. A listener believes what comes from uid 0, or from its own uid,
    as it sees that: a process whose user namespace calls itself root sends as root to those inside.
    """

    def __init__(self) -> None:
        """EPERM where the system has no such sockets for us."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_KOBJECT_UEVENT)

    def send(self, message: bytes) -> None:
        """One message (see `udev_message`) to all listeners, if there are any. None of them can make this wait.

        A listener whose buffer is full loses the message and is told so by its own socket (ENOBUFS). OSError ENOBUFS
        here: the system had no memory for the message, nobody got it.
        """
        try:
            self._socket.sendto(message, (0, _UDEV_GROUP))
        except ConnectionRefusedError:  # nobody listens
            return
        except PermissionError:
            raise NotPermitted(
                "sending uevents takes CAP_NET_ADMIN in the network namespace: be root in one of your own"
            ) from None

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self.close()
