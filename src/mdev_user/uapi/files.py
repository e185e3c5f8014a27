"""Our files in the programs that are served: what answers their system calls, and when the last copy of one is closed.

A file is the inode of a memfd, so a copy is known whatever its number is and however it came there. What a program
gets is a description of its own (open(2) through /proc) that holds a lock on the inode (F_OFD_SETLK, fcntl(2)). The
kernel lets go of the lock when the last descriptor and the last mapping of that description are gone, in every
process, and inotify(7) tells that something was closed: so a file is released when Linux would call its release().
It tells before it lets go (__fput in fs/file_table.c), so a file of which something was closed is looked at again.
"""

# ruff: noqa: ARG002 - the handlers of a file that answers nothing

import ctypes
import fcntl
import logging
import os
import struct
from errno import EBUSY, EINVAL, ENODEV, ENOTTY, ESPIPE
from stat import S_IFCHR
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdev_user.uapi.call import Call, Given
    from mdev_user.uapi.program import Program
    from mdev_user.uapi.receiver import Begun
    from mdev_user.vfio_user._native import Line

_log = logging.getLogger(__name__)

Identity = tuple[int, int]
"""st_dev and st_ino."""

_OFD_GETLK, _OFD_SETLK = 36, 37  # <asm-generic/fcntl.h>
_FLOCK = struct.Struct("hhqqi4x")
_LOCKED_BYTE = (1 << 63) - 2
"""Behind all data, since regions begin at 1 << 62 and are at most 32 TiB."""
_SHARED_LOCK = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _LOCKED_BYTE, 1, 0)
_WHO_LOCKS = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCKED_BYTE, 1, 0)

_IN_CLOSE = 0x8 | 0x10  # IN_CLOSE_WRITE | IN_CLOSE_NOWRITE, <sys/inotify.h>
_EVENT = struct.Struct("=iIII")
_EVENTS_SIZE = 64 << 10
_CLOCK_MONOTONIC = 1  # <linux/time.h>
_TIMER = struct.Struct("4l")
"""struct itimerspec: every so many seconds and nanoseconds, after so many."""
_PAUSE_S, _LONGEST_CLOSE_S = 0.001, 10.0
"""Until a file of which something was closed is looked at again, first, and for how long it is."""

_libc = ctypes.CDLL(None, use_errno=True)


class File:
    """One file of ours. Every handler raises an OSError or an error of ours for the errno that the program gets.

    ``fd`` is the memfd, which the file owns; ``mode`` and ``rdev`` are what fstat(2) tells.
    """

    mode = S_IFCHR | 0o600
    line: "Line | None" = None
    """Of a device, for the native receiver."""

    def __init__(self, name: str, rdev: int = 0, fd: int = -1) -> None:
        """A new, empty memfd with this name, seen in /proc/PID/fd; or ``fd``, another memfd, which is owned."""
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) if fd < 0 else fd
        self.rdev = rdev

    def ioctl(self, call: "Call", command: int, argument: int) -> "int | Given":
        """What the call returns, or a new descriptor to be given."""
        raise refused(ENOTTY)

    def answers_alone(self, _command: int) -> bool:
        """Whether this ioctl needs no other file: then it is made without the supervisor's lock of tables."""
        return False

    def read(self, call: "Call", address: int, count: int, offset: int | None) -> int:
        """Copy into the program's memory; ``offset`` is None for a call without one. Returns how many bytes."""
        raise refused(EINVAL)

    def write(self, call: "Call", address: int, count: int, offset: int | None) -> int:
        """Take what lies in the program's memory; ``offset`` is None for a call without one. Returns how many bytes."""
        raise refused(EINVAL)

    def finish(self, call: "Call", begun: "Begun") -> int:
        """The end of a read or write that the native receiver began. Returns how many bytes."""
        raise refused(EINVAL)

    def is_trapped(self, program: "Program") -> bool:
        """Whether a device's server ends this process's accesses itself. Never waits."""
        return False

    def seek(self, _call: "Call") -> int:
        """The result of lseek(2)."""
        raise refused(ESPIPE)

    def mmap(self, call: "Call", length: int, protection: int, flags: int, offset: int) -> None:
        """Raise to refuse; else the kernel maps the memfd."""
        raise refused(ENODEV)

    def released(self) -> None:
        """The last copy is closed; the memfd is closed afterwards."""


class Files:
    """All files that programs of one supervisor have. Used under its lock of tables."""

    def __init__(self) -> None:
        self.inotify = _checked("inotify_init1", _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        """Readable when something was closed: then call `settle`."""
        self.alarm = _checked("timerfd_create", _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK))
        """Readable when it is time to call `settle` though nothing was closed."""
        self._by_identity: dict[Identity, File] = {}
        self._by_watch: dict[int, File] = {}
        self._unsettled: dict[File, float] = {}
        """What nobody may have any more, and since when."""

    def add(self, file: File) -> File:
        """From here on the file is found; it is released when the last description of it is gone.

        Give it to a program (`new_description`), or `remove` it. ENOSPC when the user may have no more inotify watches
        (fs.inotify.max_user_watches), EBUSY for an inode that another file is: then it is released already.
        """
        try:
            if _identity(file.fd) in self._by_identity:
                raise refused(EBUSY)
            watch = _checked("inotify_add_watch", _libc.inotify_add_watch(self.inotify, _proc_path(file.fd), _IN_CLOSE))
        except OSError:
            _release(file)
            raise
        self._by_watch[watch] = file
        self._by_identity[_identity(file.fd)] = file
        return file

    def find(self, device: int, inode: int) -> File | None:
        return self._by_identity.get((device, inode))

    def new_description(self, file: File) -> int:
        """A new open description, to be given to a program and closed here. A file that has no other is released then.

        Also where there cannot be one (EMFILE).
        """
        try:
            fd = os.open(_proc_path(file.fd), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self._unsettled[file] = monotonic()  # nothing will be closed
            self._set_alarm()
            raise
        try:
            fcntl.fcntl(fd, _OFD_SETLK, _SHARED_LOCK)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def settle(self) -> None:
        """Release every file of which the last copy was closed until now."""
        while events := self._events():
            now = monotonic()
            self._unsettled |= {self._by_watch[watch]: now for watch in events if watch in self._by_watch}
            self._look()
        self._look()
        self._set_alarm()

    def _look(self) -> None:
        now = monotonic()
        for file, since in list(self._unsettled.items()):
            if file not in self._unsettled:  # it went with another
                continue
            if not _in_use(file.fd):
                self.remove(file)
            elif now - since > _LONGEST_CLOSE_S:
                del self._unsettled[file]

    def _set_alarm(self) -> None:
        """The longer something is in use the less it is looked at. Who closes it may get no processor for long."""
        now = monotonic()
        pauses = [min(max(now - since, _PAUSE_S), 1.0) for since in self._unsettled.values()]
        nanoseconds = int(1e9 * min(pauses, default=0.0))
        _libc.timerfd_settime(self.alarm, 0, _TIMER.pack(0, 0, *divmod(nanoseconds, 10**9)), None)

    def remove(self, file: File) -> None:
        """Release a file that nobody has, because giving it failed. Nothing happens when it was released already."""
        for watch, found in self._by_watch.items():
            if found is file:
                self._release(watch, file)
                return

    def close(self) -> None:
        """Release everything: no program is left."""
        for watch, file in list(self._by_watch.items()):
            self._release(watch, file)
        os.close(self.inotify)
        os.close(self.alarm)

    def _events(self) -> set[int]:
        """The watches of the files of which a copy was closed; empty when there are no more events."""
        try:
            data = os.read(self.inotify, _EVENTS_SIZE)
        except BlockingIOError:
            return set()
        watches = set()
        at = 0
        while at < len(data):
            watch, _mask, _cookie, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            watches.add(watch)
        # More events were lost than the queue has room for (watch -1): any file may be meant.
        return set(self._by_watch) if -1 in watches else watches

    def _release(self, watch: int, file: File) -> None:
        if self._by_watch.pop(watch, None) is None:
            return
        del self._by_identity[_identity(file.fd)]
        self._unsettled.pop(file, None)
        _libc.inotify_rm_watch(self.inotify, watch)
        _release(file)


def _release(file: File) -> None:
    try:
        file.released()
    except Exception:  # noqa: BLE001 - whoever notices that it was closed has nothing to do with it
        _log.exception("%s: its release", type(file).__name__)
    finally:
        os.close(file.fd)


def refused(errno: int) -> OSError:
    """The error for ``errno``."""
    return OSError(errno, os.strerror(errno))


def _in_use(fd: int) -> bool:
    """Whether a description other than that of ``fd`` has the lock."""
    kind: int = _FLOCK.unpack(fcntl.fcntl(fd, _OFD_GETLK, _WHO_LOCKS))[0]
    return kind != fcntl.F_UNLCK


def _identity(fd: int) -> Identity:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _proc_path(fd: int) -> bytes:
    return b"/proc/self/fd/%d" % fd


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
