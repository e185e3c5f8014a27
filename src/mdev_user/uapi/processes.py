"""Processes beside the program: nobody's children, without its terminal and its files."""

import logging
import os
import signal
from collections.abc import Callable
from typing import NoReturn

_log = logging.getLogger(__name__)

_STANDARD = (0, 1, 2)


def begin_session(work: Callable[[], NoReturn]) -> NoReturn:
    """In a child that is waited for: do ``work`` in a process that is nobody's child, in a session of its own.

    Where it fails, or a process that it forks does, that one's exit status is 1, and what happened is logged.
    """
    status = 0
    try:
        os.setsid()
        if not os.fork():
            status = 1
            work()
    except BaseException:  # noqa: BLE001 - nobody is above this to see it
        _log.exception("a process beside the program failed")
        status = 1
    finally:
        os._exit(status)


def let_go(*kept: int) -> None:
    """Of everything of the program's but these: who waits for the end of its output must not wait for us."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in _STANDARD:
        os.dup2(nothing, fd)
    first = len(_STANDARD)
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.chdir("/")
