"""The guard: when the supervisor of a program dies, the program is told why, and ends."""

import logging
import os
import select
import signal
import syslog
from contextlib import suppress
from errno import EAGAIN
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import NoReturn

from typing_extensions import override

from mdev_user.uapi import seccomp
from mdev_user.uapi.program import Program, take_from

_STDERR = 2
_PATIENCE_MS = 1000
"""How long what the program's standard error leads to may be full."""


def watch(supervisor: int, listener: int | None, program: int) -> NoReturn:
    """Until the supervisor has ended: well, or not. ``program`` is a pidfd."""
    _pid, status = os.waitpid(supervisor, 0)
    if status and listener is not None:
        text = f"mdev-user: {_what_happened(status)}: its VFIO devices are gone, and so the program is ended\n"
        say(program, text)
        _end_tree(program)
        _end_who_calls(listener, text)
    os._exit(0)


def end_without(guard: int, program: int) -> SimpleQueue[int]:
    """In the supervisor: when the guard (both are pidfds) ends first, nobody could tell of our own end any more.

    Put the listener into what is returned: of a program that made itself a daemon there is only who calls.
    """
    listener: SimpleQueue[int] = SimpleQueue()
    Thread(target=_end_after, args=(guard, program, listener), daemon=True).start()
    return listener


_UNWATCHED = "mdev-user: the process that watches over this program's VFIO devices is gone: the program is ended\n"


def _end_after(guard: int, program: int, listener: SimpleQueue[int]) -> None:
    poll = select.poll()
    poll.register(guard, select.POLLIN)
    poll.poll()
    say(program, _UNWATCHED)
    _end_tree(program)
    _end_who_calls(listener.get(), _UNWATCHED)


def _what_happened(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    what = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    return f"the process that answers this program's VFIO calls {what}"


def say(program: int, text: str) -> None:
    """On the program's standard error; in the system's log when it has none, or one that takes nothing now."""
    try:
        fd = take_from(program, _STDERR)
    except OSError:
        syslog.syslog(syslog.LOG_ERR, text)
        return
    try:
        _write(fd, text.encode())
    except OSError:
        syslog.syslog(syslog.LOG_ERR, text)
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    """BlockingIOError for a pipe or terminal that is full: who does not read it must not keep us from our work."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not any(events & select.POLLOUT for _fd, events in poll.poll(_PATIENCE_MS)):
        raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))
    os.write(fd, data[: select.PIPE_BUF])


class _Teller(logging.Handler):
    """What goes wrong in a process of ours is said where the program's complaints are seen."""

    def __init__(self, program: int) -> None:
        super().__init__(logging.WARNING)
        self._program = program

    @override
    def emit(self, record: logging.LogRecord) -> None:
        say(self._program, f"mdev-user: {self.format(record)}\n")


def tell_through(program: int) -> None:
    """Whatever this process logs from now on, `say` it to the program, a pidfd."""
    logging.basicConfig(handlers=[_Teller(program)], format="%(message)s", force=True)


def _end_tree(program: int) -> None:
    pid = _pid_of(program)
    for each in (*_descendants(pid), pid) if pid > 0 else ():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGKILL)


def _pid_of(pidfd: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii").splitlines():
        if line.startswith("Pid:"):
            return int(line[4:])
    return -1


def _descendants(pid: int) -> list[int]:
    """Deepest first."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                found += [*_descendants(int(child)), int(child)]
    return found


def _end_who_calls(listener: int, text: str) -> None:
    """Every process that makes a call which only the supervisor could answer, until none is left."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        for _fd, events in poll.poll():
            if events & select.POLLHUP:
                return
            if events & select.POLLIN:
                with suppress(OSError):
                    _end(Program(seccomp.receive(listener).tid).tgid, text)


def _end(pid: int, text: str) -> None:
    process = os.pidfd_open(pid)
    try:
        say(process, text)
        signal.pidfd_send_signal(process, signal.SIGKILL)
    finally:
        os.close(process)
