"""A supervisor beside a program: started before the program is, it answers its VFIO system calls until the last ends.

Three processes. This one becomes the program. The supervisor is nobody's child to it and has none of its files. The
guard, the supervisor's parent, has a copy of the listener: were the supervisor to die, every call that the filter names
would fail in the program from then on, its open() of any file too; so the guard tells what happened, and ends it.
"""

import array
import ctypes
import os
import platform
import resource
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from errno import EBUSY, EINVAL, ENOSYS, EPERM
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Final, NoReturn

from mdev_user.errors import MdevUserError
from mdev_user.uapi import filter as call_filter
from mdev_user.uapi import guard, seccomp
from mdev_user.uapi.processes import begin_session, let_go
from mdev_user.uapi.program import Program

_OK = b"ok"
_MOST = 4096
_HELLO = struct.Struct("<QQIIi")
_PR_SET_DUMPABLE = 4  # <linux/prctl.h>
_BASE = 4000
_LIMIT = 8192
LEAST_LIMIT = 256
"""Open files that a program must be allowed to have."""
_OF_GROUPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What is sent to all processes of a service that is to end: the program needs its devices while it ends."""
_PASSED_ON = signal.SIGTERM
_INSTEAD = (
    "`mdev-user run --sysfs-only` shows it all and opens no device, and QEMU 10.1 or later uses an mdev by its socket "
    "(`mdev-user qemu-args`)"
)

_libc = ctypes.CDLL(None, use_errno=True)


class CannotServe(MdevUserError):
    """This machine or this process cannot have its VFIO calls answered; the message says what works instead."""

    errno = ENOSYS

    def __init__(self, reason: str) -> None:
        super().__init__(f"no VFIO devices can be offered here: {reason}; {_INSTEAD}")


@dataclass(frozen=True)
class Numbers:
    """Which numbers descriptors of ours have in the program: [``base``, ``limit``)."""

    base: int
    limit: int


Serve = Callable[[int, Numbers], NoReturn]
"""The supervisor's work: it serves the listener, and ends the process."""
Work = Callable[[], Serve]
"""What takes long in getting ready for it: done while the program is still getting into its namespaces."""


def agree_numbers() -> Numbers:
    """Raise this process's limit of open files, as far as it may, and choose from the upper half of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(soft, min(hard, _LIMIT))
    if limit < LEAST_LIMIT:
        raise CannotServe(f"expected RLIMIT_NOFILE of at least {LEAST_LIMIT} open files, given {limit}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    limit = min(limit, _LIMIT)
    return Numbers(min(_BASE, limit - limit // 4), limit)


class Launch:
    """A supervisor that waits for its program. Make it while this process has one thread, then `begin` or `close`."""

    def __init__(self, work: Work) -> None:
        """CannotServe on a machine of another architecture."""
        if platform.machine() != "x86_64":
            raise CannotServe(f"expected an x86-64 machine, this is {platform.machine()}")
        try:
            self._numbers: Final = agree_numbers()
            self._to_guard, guards = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._to_supervisor, supervisors = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            program = os.pidfd_open(os.getpid())
        except (OSError, ValueError) as error:  # ValueError: setrlimit is not permitted
            raise CannotServe(f"a system call that it takes is forbidden, as in some containers ({error})") from None
        between = os.fork()
        if not between:
            begin_session(lambda: _stand_by(guards, supervisors, program, work))
        for each in (guards, supervisors):
            each.close()
        os.close(program)
        os.waitpid(between, 0)

    def begin(self, served_already: Callable[[], bool]) -> None:
        """From here on this thread's calls, and those of all that it becomes or starts, are answered.

        Where another supervisor of ours does so (``served_already`` tells), it goes on. CannotServe says what is in the
        way.
        """
        try:
            listener = _install(self._numbers, served_already)
            if listener is None:
                return
            try:
                self._introduce(listener)
            finally:
                os.close(listener)
        finally:
            self.close()

    def close(self) -> None:
        """A supervisor that has no program yet ends."""
        self._to_guard.close()
        self._to_supervisor.close()

    def _introduce(self, listener: int) -> None:
        # Entering a user namespace made this process one that nobody may look into; exec would end that anyway.
        _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        probe = ctypes.create_string_buffer(_OK, 8)
        hello = _HELLO.pack(ctypes.addressof(probe), self._numbers.base, self._numbers.limit, os.getpid(), listener)
        for each in (self._to_guard, self._to_supervisor):
            _send(each, hello, listener)
        answer = _answer(self._to_supervisor)
        if answer != _OK:
            raise CannotServe(answer.decode(errors="replace") or "its supervisor died")


def is_served() -> bool:
    """Whether a supervisor of ours answers this process's calls: an open that no kernel answers so succeeds."""
    try:
        fd = os.open("/dev/vfio/vfio", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink()).startswith("/memfd:")
    finally:
        os.close(fd)


def _install(numbers: Numbers, served_already: Callable[[], bool]) -> int | None:
    program = call_filter.assemble(call_filter.rules(numbers.base))
    try:
        return seccomp.install(program)
    except OSError as error:
        if error.errno == EBUSY and served_already():
            return None
        raise CannotServe(_reason(error)) from None


def _reason(error: OSError) -> str:
    if error.errno == EINVAL:
        return f"expected Linux 5.19 or later, with seccomp filters, this is {platform.release()}"
    if error.errno == EBUSY:
        return "another program answers system calls of this one already (seccomp allows one listener)"
    if error.errno in {ENOSYS, EPERM}:
        return f"seccomp(2) is forbidden, as in some containers ({error.strerror})"
    return str(error)


# --- the guard and the supervisor ------------------------------------------------------------------------------------


def _stand_by(guards: socket.socket, supervisors: socket.socket, program: int, work: Work) -> NoReturn:
    let_go(guards.fileno(), supervisors.fileno(), program)
    for each in _OF_GROUPS:
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {_PASSED_ON})  # before there are threads
    ourselves = os.pidfd_open(os.getpid())
    supervisor = os.fork()
    if not supervisor:
        guards.close()
        guard.tell_through(program)
        _supervise(supervisors, work, guard.end_without(ourselves, program))
    supervisors.close()
    _hello, listener = _receive(guards)
    guards.close()
    guard.watch(supervisor, listener, program)


def _supervise(link: socket.socket, work: Work, known: SimpleQueue[int]) -> NoReturn:
    """``known`` is told of the listener."""
    serve = work()
    hello, listener = _receive(link)
    if listener is None:
        os._exit(0)
    known.put(listener)
    address, base, limit, pid, number = _HELLO.unpack(hello)
    try:
        program = Program(pid)
        if program.read(address, len(_OK)) != _OK:
            raise OSError(EPERM, "its memory is another's")
        os.close(program.take_fd(number))
    except OSError as error:
        link.send(f"expected the right to trace programs of one's own (ptrace(2)), given: {error}".encode()[:_MOST])
        os._exit(0)
    link.send(_OK)
    link.close()
    _pass_on(os.pidfd_open(pid))
    serve(listener, Numbers(base, limit))


def _pass_on(program: int) -> None:
    """Whoever is told who has an mdev is told of us, and means the program (a pidfd)."""
    signal.signal(_PASSED_ON, signal.SIG_DFL)  # one that is ignored would not be heard of; no thread takes it

    def listen() -> NoReturn:
        while True:
            signal.sigwait({_PASSED_ON})
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(program, _PASSED_ON)

    Thread(target=listen, name="pass on", daemon=True).start()


def _send(link: socket.socket, data: bytes, fd: int) -> None:
    with suppress(BrokenPipeError):  # it died: that is seen where its answer is awaited
        link.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])


def _answer(link: socket.socket) -> bytes:
    try:
        return link.recv(_MOST)
    except ConnectionResetError:  # it died before it had read anything
        return b""


def _receive(link: socket.socket) -> tuple[bytes, int | None]:
    data, fds, _flags, _address = socket.recv_fds(link, _HELLO.size, 1)
    return data, fds[0] if fds else None
