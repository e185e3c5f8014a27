"""The program of a client whose system calls a session ends itself: a seccomp listener, and the program's memory.

The kernel lets whoever holds the two end any of the program's calls and write to all of its memory; to store there may
take as long as the program likes (its memory may be a file of its own). So only who could stop this process anyway may
give them: root, and the user that it runs as. Source: seccomp_unotify(2), proc_pid_mem(5).
"""

import fcntl
import os
import re
from errno import EFAULT, EIO, errorcode
from pathlib import Path
from struct import Struct

from mdev_user.errors import GuestError, NotPermitted
from mdev_user.vfio_user.framing import ERROR, HEADER, Header
from mdev_user.vfio_user.messages import ACCESS, ACCESS_MESSAGE
from mdev_user.vfio_user.transport import close_fds

NOBODY = -1
"""A user who may not."""
_SEND = 0xC018_2101  # SECCOMP_IOCTL_NOTIF_SEND, <linux/seccomp.h>
_ANSWER = Struct("=QqiI")
_LISTENER, _MEMORY = "anon_inode:seccomp notify", re.compile(r".*/\d+/mem")


class Traps:
    """Of one session. Used in its thread only, but for `set`, which is a step of the device."""

    __slots__ = ("_uid", "listener", "memory")

    def __init__(self, uid: int = NOBODY) -> None:
        """``uid`` is the client's."""
        self._uid = uid
        self.listener = self.memory = -1

    def set(self, fds: tuple[int, ...]) -> None:
        """From now on these. Owns them, also on an error: EPERM for another user's, EINVAL for what is none."""
        try:
            if self._uid not in {0, os.geteuid()}:
                raise NotPermitted(f"only root and the user of the server may have traps, given user {self._uid}")
            listener, memory = _checked(fds)
        except BaseException:
            close_fds(fds)
            raise
        self.close()
        self.listener, self.memory = listener, memory

    def close(self) -> None:
        """Forget them."""
        if self.listener >= 0:
            os.close(self.listener)
            os.close(self.memory)
        self.listener = self.memory = -1

    def answer(self, call: int, address: int, reply: bytes) -> None:
        """End a call by what the reply to its access says; a call that is gone meanwhile needs no answer."""
        result, errno = self._stored(address, reply)
        try:
            fcntl.ioctl(self.listener, _SEND, _ANSWER.pack(call, result, -errno, 0))
        except OSError:
            return

    def written(self, call: int, reply: bytes) -> None:
        """As `answer`, of a write."""
        self.answer(call, 0, reply)

    def _stored(self, address: int, reply: bytes) -> tuple[int, int]:
        """What the call returns, and its errno."""
        header = Header.decode(reply)
        if header.flags & ERROR:
            return 0, header.errno if header.errno in errorcode else EIO
        _offset, _region, count = ACCESS.unpack_from(reply, HEADER.size)
        data = reply[ACCESS_MESSAGE.size :]
        try:
            done = not data or os.pwrite(self.memory, data, address) == len(data)
        except (OSError, OverflowError):
            done = False
        return (count, 0) if done else (0, EFAULT)


def _checked(fds: tuple[int, ...]) -> tuple[int, int]:
    if len(fds) == 2:
        listener, memory = fds
        if _link(listener) == _LISTENER and _MEMORY.fullmatch(_link(memory)):
            return listener, memory
    raise GuestError(f"traps: expected a seccomp listener and a /proc/PID/mem, given {[_link(fd) for fd in fds]}")


def _link(fd: int) -> str:
    return str(Path(f"/proc/self/fd/{fd}").readlink())
