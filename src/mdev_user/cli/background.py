"""``mdev-user serve --background``: start the daemon as a process of its own, and return when it serves."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import typer

from mdev_user.cli.output import print_line
from mdev_user.host import PYTHON

OPTION = "--background"
_TICK = 0.1
"""Seconds until it is looked whether the daemon has ended instead."""


def serve_in_background() -> NoReturn:
    """Run this very command without the option. The end of one that cannot serve is this one's, with its message."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        address = str(Path(folder, "ready"))
        told.bind(address)
        told.settimeout(_TICK)
        status = _await_ready(_start(address), told)
    raise typer.Exit(status)


def _start(address: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*PYTHON, "mdev_user", *(each for each in sys.argv[1:] if each != OPTION)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # whoever reads ours waits for its end; what the daemon logs goes to stderr
        start_new_session=True,  # a Ctrl-C is meant for the next command
        env={**os.environ, "NOTIFY_SOCKET": address},
    )


def _await_ready(daemon: "subprocess.Popen[bytes]", told: socket.socket) -> int:
    try:
        while (status := daemon.poll()) is None:
            with suppress(TimeoutError):
                if told.recv(64) == b"READY=1":
                    print_line(f"the daemon serves in the background: end it with `kill {daemon.pid}`")
                    return 0
    except BaseException:  # Ctrl-C
        daemon.send_signal(signal.SIGTERM)
        raise
    return status
