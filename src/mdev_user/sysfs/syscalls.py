"""The system calls of namespaces and mounts that Python 3.11 does not have, by ctypes: OSError says which failed."""

import ctypes
import os
from errno import ENOENT, ENOTDIR

CLONE_NEWNS = 0x00020000  # <linux/sched.h>
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

AT_FDCWD = -100  # <linux/fcntl.h>
_AT_RECURSIVE = 0x8000
_OPEN_TREE = 428  # <asm/unistd.h>: the same number on every architecture since they are numbered together
_MOVE_MOUNT = 429
_OPEN_TREE_CLONE = 1  # <linux/mount.h>
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MS_REC = 0x4000
_MS_SLAVE = 0x80000
MS_NOSUID = 2

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave the namespaces of these kinds for new ones. EPERM without CAP_SYS_ADMIN.

    CLONE_NEWUSER needs none, and a process with one thread; ENOSPC or EPERM where the machine forbids it to users.
    """
    _check("unshare", _libc.unshare(flags))


def make_slave(mountpoint: str) -> None:
    """Mounts from now on come in from outside, below ``mountpoint`` and with all that is mounted there, and none goes.

    EINVAL where it is no mount point, as the root of a chroot(2) often is not.
    """
    _check("mount", _libc.mount(None, os.fsencode(mountpoint), None, _MS_REC | _MS_SLAVE, None))


def bind(source: tuple[int, str], target: tuple[int, str]) -> None:
    """Mount what is at ``source``, with all that is mounted below it, over ``target``.

    Each is an open directory, or `AT_FDCWD`, and a path from there. ENOENT where either is absent, ENOTDIR where only
    one is a directory; ENOSYS before Linux 5.2.
    """
    attach(copy_mounts(source), target)


def copy_mounts(source: tuple[int, str]) -> int:
    """The first half of `bind`: what was mounted at ``source`` when this was called, as an fd for `attach`."""
    return _syscall("open_tree", _OPEN_TREE, *_place(source), _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC)


def attach(copied: int, target: tuple[int, str]) -> None:
    """The other half; the fd is closed."""
    try:
        _syscall("move_mount", _MOVE_MOUNT, copied, b"", *_place(target), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(copied)


def bind_if_there(source: tuple[int, str], target: tuple[int, str]) -> None:
    """The same of what was listed: what went, or became something else, since then is left out."""
    try:
        bind(source, target)
    except OSError as error:
        if error.errno not in {ENOENT, ENOTDIR}:
            raise


def mount(source: str, target: str, fstype: str, flags: int, options: str) -> None:
    """Mount a new file system (mount(2))."""
    words = (os.fsencode(each) for each in (source, target, fstype))
    _check("mount", _libc.mount(*words, flags, options.encode()))


def _place(place: tuple[int, str]) -> tuple[int, bytes]:
    fd, path = place
    return fd, os.fsencode(path)


def _syscall(name: str, number: int, *arguments: int | bytes) -> int:
    return _check(name, _libc.syscall(number, *arguments))


def _check(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
