"""seccomp user notification (seccomp_unotify(2)): install a filter, receive the system calls it names, answer them.

Numbers and structures are those of <linux/seccomp.h>; x86-64, Linux >= 5.19.
"""

import ctypes
import fcntl
import os
import select
import struct
from collections.abc import Sequence
from contextlib import suppress
from errno import EACCES, EINTR, EIO, ENOENT, errorcode
from typing import NamedTuple

_SECCOMP = 317  # <asm/unistd_64.h>
_SET_MODE_FILTER = 1
_FLAG_NEW_LISTENER = 1 << 3
FLAG_WAIT_KILLABLE_RECV = 1 << 5
"""Linux 5.19: a signal that comes while a call is being answered waits; else the call would be made a second time."""
_PR_SET_NO_NEW_PRIVS = 38  # <linux/prctl.h>

_NOTIF_RECV = 0xC050_2100
_NOTIF_SEND = 0xC018_2101
_NOTIF_ID_VALID = 0x4008_2102
_NOTIF_ADDFD = 0x4018_2103
_NOTIF_SET_FLAGS = 0x4008_2104
_SYNC_WAKE_UP = 1
_FLAG_CONTINUE = 1
_ADDFD_SETFD = 1
_ADDFD_SEND = 2

_NOTIF = struct.Struct("<QIIiIQ6Q")
_RESP = struct.Struct("<QqiI")
_ADDFD = struct.Struct("<QIIII")
_ID = struct.Struct("<Q")
_EMPTY = bytes(_NOTIF.size)

_libc = ctypes.CDLL(None, use_errno=True)


class Instruction(NamedTuple):
    """One of classic BPF: struct sock_filter."""

    code: int
    if_true: int
    if_false: int
    constant: int


class Notification(NamedTuple):
    """A system call that waits for its answer. ``tid`` is the calling thread, in the receiver's PID namespace."""

    id: int
    tid: int
    number: int
    args: tuple[int, ...]


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(program: Sequence[Instruction], flags: int = FLAG_WAIT_KILLABLE_RECV) -> int:
    """Filter this thread's system calls, and those of all that it starts; return the listener, close-on-exec.

    Without the right to do so the thread gives up to gain privileges by exec first (no_new_privs). EBUSY: there is a
    filter with a listener already; EINVAL: the kernel does not know a flag; ENOSYS, EPERM: it is forbidden here.
    """
    code = b"".join(struct.pack("<HBBI", *each) for each in program)
    filter_program = _Program(len(program), code)
    try:
        return _install(filter_program, flags)
    except PermissionError as error:
        if error.errno != EACCES:
            raise
    _check("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    return _install(filter_program, flags)


def _install(program: _Program, flags: int) -> int:
    result: int = _libc.syscall(_SECCOMP, _SET_MODE_FILTER, _FLAG_NEW_LISTENER | flags, ctypes.byref(program))
    return _check("seccomp", result)


def _check(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def wake_synchronously(listener: int) -> None:
    """Let the answer run at once on this processor, where the kernel can (Linux 6.6): 9 us instead of 15."""
    with suppress(OSError):
        fcntl.ioctl(listener, _NOTIF_SET_FLAGS, _SYNC_WAKE_UP)


def receive(listener: int) -> Notification:
    """Wait for the next call. ENOENT when no task is left that has the filter, where Linux says so (from 6.11 on)."""
    while True:
        try:
            found = _NOTIF.unpack(fcntl.ioctl(listener, _NOTIF_RECV, _EMPTY))
        except OSError as error:
            if error.errno not in {EINTR, ENOENT} or _is_abandoned(listener):
                raise
            continue  # ENOENT: the caller was killed before we had it
        return Notification(found[0], found[1], found[3], found[6:])


def _is_abandoned(listener: int) -> bool:
    poll = select.poll()
    poll.register(listener, 0)
    return bool(poll.poll(0))


def respond(listener: int, identifier: int, value: int, errno: int = 0) -> None:
    """Let the call return ``value``, or fail with ``errno``. A caller that was killed meanwhile is no error.

    EIO instead of an errno that no system call has: whoever answers a device's request chooses it, and some numbers
    make the kernel do the call once more (ERESTARTSYS and the like, <linux/errno.h>).
    """
    error = errno if not errno or errno in errorcode else EIO
    _send(listener, _RESP.pack(identifier, value, -error, 0))


def go_on(listener: int, identifier: int) -> None:
    """Let the kernel perform the call."""
    _send(listener, _RESP.pack(identifier, 0, 0, _FLAG_CONTINUE))


def _send(listener: int, answer: bytes) -> None:
    try:
        fcntl.ioctl(listener, _NOTIF_SEND, answer)
    except OSError as error:
        if error.errno != ENOENT:
            raise


def add_fd(listener: int, identifier: int, fd: int, number: int | None, *, cloexec: bool, send: bool) -> int:
    """Give the caller a copy of ``fd`` as ``number``, or as the lowest that is free; ``send`` makes it the answer.

    Returns the number. EBADF where ``number`` is beyond the caller's RLIMIT_NOFILE, EMFILE where none is free,
    ENOENT when the caller is gone.
    """
    flags = (_ADDFD_SETFD if number is not None else 0) | (_ADDFD_SEND if send else 0)
    asked = _ADDFD.pack(identifier, flags, fd, number or 0, os.O_CLOEXEC if cloexec else 0)
    return _ioctl_result(listener, asked)


def _ioctl_result(listener: int, asked: bytes) -> int:
    # fcntl.ioctl() returns the buffer, and here the result counts.
    result: int = _libc.ioctl(listener, ctypes.c_ulong(_NOTIF_ADDFD), ctypes.c_char_p(asked))
    return _check("addfd", result)


def still_valid(listener: int, identifier: int) -> bool:
    """Whether the caller still waits: if so, what was read from its memory since it called was really its own."""
    try:
        fcntl.ioctl(listener, _NOTIF_ID_VALID, _ID.pack(identifier))
    except OSError:
        return False
    return True
