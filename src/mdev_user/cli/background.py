"""``mdev-user serve --background``: start the daemon as a process of its own, and return when it serves.

Nothing of the caller's stays open in the daemon or its hosts, so `x=$(mdev-user serve --background ...)`, a CI step and
`ssh host ...` end when this does. What they log goes to RUN/log; until the daemon serves, the caller sees it, too.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import typer

from mdev_user.cli.output import print_line
from mdev_user.daemon.run_dir import RunDir, default_run_dir
from mdev_user.errors import ConfigError
from mdev_user.host import PYTHON

OPTION = "--background"
_TICK = 0.1
"""Seconds until it is looked whether the daemon has ended instead."""
_PIECE = 64 << 10


class _Log:
    """RUN/log, of which `pass_on` prints on stderr what came since this was made."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._at = os.fstat(fd).st_size

    def pass_on(self) -> None:
        while data := os.pread(self.fd, _PIECE, self._at):
            self._at += len(data)
            with suppress(OSError, AttributeError):  # stderr may be closed (None then); all of it is in the file
                sys.stderr.buffer.write(data)
                sys.stderr.buffer.flush()


def serve_in_background(run_dir: RunDir) -> NoReturn:
    """Run this very command without the option. The end of one that cannot serve is this one's, with its message."""
    with (
        _opened(run_dir) as log,
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
    ):
        address = str(Path(folder, "ready"))
        told.bind(address)
        told.settimeout(_TICK)
        status = _await_ready(_start(address, log), told, log)
    if status == 0:
        print_line(f"the daemon serves in the background: `{_stop(run_dir)}` ends it, {run_dir.log} is its log")
    raise typer.Exit(status)


@contextmanager
def _opened(run_dir: RunDir) -> Iterator[_Log]:
    fd = run_dir.open_log()
    try:
        yield _Log(fd)
    finally:
        os.close(fd)


def _start(address: str, log: _Log) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*PYTHON, "mdev_user", *(each for each in sys.argv[1:] if each != OPTION)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # whoever reads ours waits for its end
        stderr=log.fd,
        start_new_session=True,  # a Ctrl-C is meant for the next command
        env={**os.environ, "NOTIFY_SOCKET": address},
    )


def _await_ready(daemon: "subprocess.Popen[bytes]", told: socket.socket, log: _Log) -> int:
    try:
        while (status := daemon.poll()) is None:
            log.pass_on()
            if _is_ready(told):
                status = 0
                break
    except BaseException:  # Ctrl-C
        daemon.send_signal(signal.SIGTERM)
        raise
    log.pass_on()
    return status


def _is_ready(told: socket.socket) -> bool:
    try:
        return told.recv(64) == b"READY=1"
    except TimeoutError:
        return False


def _stop(run_dir: RunDir) -> str:
    """The command that ends it. The caller's, whose environment chooses the same run directory without the option."""
    with suppress(ConfigError):
        if default_run_dir().absolute() == run_dir.path:
            return "mdev-user stop"
    return f"mdev-user stop --run-dir {shlex.quote(str(run_dir.path))}"
