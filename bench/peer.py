"""A libvfio-user server to measure beside ours, where one is at hand: any program that is given a socket's path.

Its region 0 has a register of four bytes at 0, reached by a callback of its own; it serves one client after another.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from programs import CannotMeasure, on_core

VARIABLE = "MDEV_USER_BENCH_LIBVFIO_USER"
_START_SECONDS = 5.0


@contextmanager
def libvfio_user(program: Path, core: int) -> Iterator[Path]:
    """The socket of a new server on that core."""
    if not os.access(program, os.X_OK):
        raise CannotMeasure(
            f"{program} is no program: --libvfio-user and {VARIABLE} name one that is given a socket's path"
        )
    with tempfile.TemporaryDirectory(prefix="mdev-user-bench-", dir="/tmp") as folder:
        path = Path(folder) / "peer.sock"
        with on_core(core):
            process = subprocess.Popen([str(program), str(path)], stdin=subprocess.DEVNULL)
        try:
            _wait(process, path)
            yield path
        finally:
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", path: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not path.exists():
        if process.poll() is not None:
            raise CannotMeasure(f"the libvfio-user server ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise CannotMeasure(f"the libvfio-user server has made no socket after {_START_SECONDS:.0f} s")
        time.sleep(0.01)
