"""A daemon of the run's own: started, looked at through /proc, and taken away whatever happened."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from programs import CannotMeasure

from mdev_user.daemon.client import Client, NoDaemon
from mdev_user.daemon.run_dir import RunDir
from mdev_user.sysfs import mountpoint

_IN_MEMORY = ("/run", "/dev/shm")
_START_SECONDS = 30.0
_END_SECONDS = 20.0


class Daemon:
    """A `mdev-user serve` that runs."""

    def __init__(self, pid: int, run_dir: Path) -> None:
        self.pid = pid
        self.run_dir = run_dir
        self._client = Client(RunDir(run_dir))

    def create(self, parent: str, uuid: UUID, kind: str = "mtty-1") -> Path:
        """Create an mdev of the type ``kind`` through the control API; returns its vfio-user socket."""
        return Path(self._client.create(kind, parent, uuid).socket)

    def counters(self, uuid: UUID) -> dict[str, int | str]:
        return self._client.mdev(uuid).counters

    def host_of(self, parent: str) -> int:
        """The pid of the parent's host process."""
        for each in self._client.status().parents:
            if each.name == parent and each.host_pid is not None:
                return each.host_pid
        raise CannotMeasure(f"the parent {parent} is not registered")

    def sysfs(self) -> Path:
        status = self._client.status()
        if status.sysfs is None:
            raise CannotMeasure(f"the sysfs tree is not mounted: {status.sysfs_reason}")
        return Path(status.sysfs)

    def ready(self, parents: int) -> bool:
        try:
            registered = self._client.status().parents
        except NoDaemon:
            return False
        return sum(each.state == "registered" for each in registered) == parents


@contextmanager
def served(parents: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[Daemon]:
    """A daemon with these parents, until the end of the block; then it, its hosts and its mount are gone.

    ``environment`` is added to our own.
    """
    run_dir = Path(tempfile.mkdtemp(prefix="mdev-user-bench-", dir=memory_folder() or "/tmp"))
    command = [
        sys.executable,
        "-m",
        "mdev_user",
        "serve",
        "--run-dir",
        str(run_dir),
        "--log-level",
        "warning",
        *parents,
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})})
    daemon = Daemon(process.pid, run_dir)
    try:
        _wait(daemon, process, len(parents))
        yield daemon
    finally:
        _end(process, run_dir)


def memory_folder() -> str | None:
    """A folder in memory, as the run directory of a real daemon is; None where there is none to be written to."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    in_memory = {mount[1] for mount in mounts if mount[2] == "tmpfs"}
    return next((each for each in _IN_MEMORY if each in in_memory and os.access(each, os.W_OK)), None)


def pin(pid: int, core: int) -> None:
    """Every thread there is; those that come inherit it from the thread that starts them."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def pss_kib(pid: int) -> int:
    """KiB of memory, each shared page by its share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise CannotMeasure(f"/proc/{pid}/smaps_rollup says no Pss")


def count_fds(pid: int) -> int:
    return _entries(Path(f"/proc/{pid}/fd"))


def count_threads(pid: int) -> int:
    return _entries(Path(f"/proc/{pid}/task"))


def _entries(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def _wait(daemon: Daemon, process: "subprocess.Popen[bytes]", parents: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not daemon.ready(parents):
        if process.poll() is not None:
            raise CannotMeasure(f"the daemon ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise CannotMeasure(f"the daemon was not ready after {_START_SECONDS:.0f} s")
        time.sleep(0.05)


def _end(process: "subprocess.Popen[bytes]", run_dir: Path) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:  # its hosts end with their socket pair
        process.kill()
        process.wait()
    mounted = run_dir / "root" / "sys"
    mountpoint.detach(mounted)
    if os.path.ismount(mounted):
        print(f"left as it is, still mounted: {mounted}", file=sys.stderr)
        return
    shutil.rmtree(run_dir, ignore_errors=True)
