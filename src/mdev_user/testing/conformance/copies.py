"""Copies of a process: what runs in one leaves nothing behind, and cannot run for ever."""

import os
import resource
import signal
from collections.abc import Callable

MOST_SECONDS = 20.0
"""Of one copy; a loop without an end is ended by the kernel."""
MOST_MEMORY = 8 << 30
"""Bytes of address space."""


class CopyDied(Exception):
    """A copy ended without an answer; the message says how."""


def in_copy(work: Callable[[], bytes], seconds: float = MOST_SECONDS) -> bytes:
    """What ``work`` answers in a copy of this process, which has one thread. CopyDied when it does not answer."""
    outgoing, incoming = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(outgoing)
        _live(incoming, work, seconds)
    os.close(incoming)
    with os.fdopen(outgoing, "rb") as pipe:
        data = pipe.read()
    _pid, status = os.waitpid(pid, 0)
    if status:
        raise CopyDied(_told(status, seconds))
    return data


def _live(answers: int, work: Callable[[], bytes], seconds: float) -> None:
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # what a test runner may have put there is not ours
        signal.setitimer(signal.ITIMER_REAL, seconds)
        with os.fdopen(answers, "wb") as pipe:
            pipe.write(work())
        status = 0
    finally:
        os._exit(status)


def limit_memory() -> None:
    """So that an allocation of a guest's size is an error here and not the machine's end; for all copies."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


def _told(status: int, seconds: float) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGALRM:
            return f"the driver's code did not come to an end within {seconds:g} s"
        return f"the interpreter died of signal {signal.Signals(number).name}"
    return f"the interpreter ended with status {os.waitstatus_to_exitcode(status)}"
