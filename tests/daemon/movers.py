"""What tests of moving share: the programs, mdevs in use, and what their users see of them."""

import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest

from daemon.support import SECONDS
from mdev_user.daemon import mover
from mdev_user.daemon.mover import Moved
from mdev_user.errors import MdevUserError
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.vfio_user.client import Client


def quiet(_what: str, _moved: Moved) -> None:
    """Nobody is told how it goes."""


def command(daemon: RunningDaemon, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``mdev-user`` with a daemon's run directory."""
    program = [sys.executable, "-m", "mdev_user", *map(str, arguments), "--run-dir", str(daemon.run_dir.path)]
    return subprocess.run(program, capture_output=True, text=True, timeout=2 * SECONDS, check=False)


def output(daemon: RunningDaemon, *arguments: object) -> str:
    """What it prints; it must succeed and complain about nothing."""
    done = command(daemon, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def save(daemon: RunningDaemon, uuid: UUID, file: Path) -> Moved:
    return mover.save(daemon.control, uuid, file, quiet)


def restore(daemon: RunningDaemon, uuid: UUID, file: Path) -> Moved:
    return mover.restore(daemon.control, uuid, file, quiet)


def migrate(source: RunningDaemon, destination: RunningDaemon, uuid: UUID) -> Moved:
    return mover.migrate(source.control, destination.control, uuid, str(destination.run_dir.path), quiet)


def refusal(move: Callable[..., Moved], *arguments: object) -> str:
    """The reason for which a move is refused."""
    with pytest.raises(MdevUserError) as refused:
        move(*arguments)
    return str(refused.value)


def is_parked(daemon: RunningDaemon, uuid: UUID) -> bool:
    return daemon.control.mdev(uuid).parked


@contextmanager
def mapped(guest: Client, region: int) -> Iterator[mmap.mmap]:
    """A region of the device's memory, as a guest maps it."""
    found = guest.region_info(region)
    try:
        memory = mmap.mmap(found.fd, found.size, offset=found.offset)
    finally:
        os.close(found.fd)
    with memory:
        yield memory


@contextmanager
def eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def signals(fd: int) -> int:
    """How often an eventfd was signalled since it was last asked."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


SLEEPER = """
import sys, time
from pathlib import Path
from uuid import UUID
from mdev_user.daemon import mover
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir

def told(what, _moved):
    print(what, flush=True)
    if what == sys.argv[4]:
        time.sleep(60)

here, there = Client(RunDir(Path(sys.argv[1]))), Client(RunDir(Path(sys.argv[2])))
mover.migrate(here, there, UUID(sys.argv[3]), sys.argv[2], told)
"""
"""A mover that falls asleep at one moment: SOURCE DESTINATION UUID MOMENT."""


@contextmanager
def sleeping_mover(source: RunningDaemon, destination: RunningDaemon, uuid: UUID, moment: str) -> Iterator[int]:
    """Its pid, when it has come to that moment; then it is killed."""
    arguments = [str(source.run_dir.path), str(destination.run_dir.path), str(uuid), moment]
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while (line := process.stdout.readline().strip()) != moment:
            assert line, f"the mover never came to {moment}"
        yield process.pid
    finally:
        process.kill()
        process.communicate()
