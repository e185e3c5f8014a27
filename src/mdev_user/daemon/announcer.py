"""A process beside a program: it tells libudev's listeners of the daemon's uevents while the program runs."""

import os
import syslog
from contextlib import closing
from typing import NoReturn

from mdev_user.daemon.broadcast import broadcast
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir
from mdev_user.errors import MdevUserError
from mdev_user.sysfs.netlink import UdevSender
from mdev_user.uapi.processes import begin_session, let_go

_READY = b"ready"
_MOST = 4096


def start_announcer(run_dir: RunDir) -> None:
    """Return when everything that happens from now on will be told, in this process's network namespace.

    The process that tells is nobody's child and has no terminal; it ends with this process, whatever program that
    becomes. Call it with one thread. MdevUserError when the daemon cannot be followed; what goes wrong later is told
    in the system's log: standard error is the program's, which may have promised what it writes there.
    """
    program = os.pidfd_open(os.getpid())
    heard, says = os.pipe()
    between = os.fork()
    if not between:
        begin_session(lambda: _announce(run_dir, program, says))
    os.close(says)
    os.close(program)
    os.waitpid(between, 0)
    with os.fdopen(heard, "rb") as answers:
        answer = answers.read(_MOST)
    if answer != _READY:
        raise MdevUserError(f"no uevents can be told: {answer.decode(errors='replace') or 'who tells them died'}")


def _announce(run_dir: RunDir, program: int, says: int) -> NoReturn:
    let_go(program, says)
    answer = [_READY]

    def ready() -> None:
        os.write(says, answer.pop())
        os.close(says)

    try:
        with closing(UdevSender()) as sender:
            broadcast(Client(run_dir), sender, program, ready)
    except Exception as error:  # noqa: BLE001 - whatever it is, somebody is to know that no more uevents come
        text = str(error) or repr(error)
        if answer:
            os.write(says, text.encode()[:_MOST])
        else:
            syslog.syslog(syslog.LOG_ERR, f"mdev-user: no more uevents are told: {text}")
    os._exit(0)
