"""A real daemon for a test: ``mdev-user serve`` in processes of its own, with a run directory of its own.

```python
with RunningDaemon("mtty") as daemon:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest:
        guest.region_read(...)
```
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

from mdev_user.daemon.client import Client as ControlClient
from mdev_user.daemon.run_dir import RunDir, mounts_below
from mdev_user.sysfs import mountpoint
from mdev_user.vfio_user.client import Client, ServedMemory

_READY_SECONDS = 30.0
_END_SECONDS = 20.0
_GUEST_SECONDS = 20.0
_TICK = 0.2
_MAIN = "from mdev_user.cli import main; main()"


class DaemonFailed(Exception):
    """The daemon did not do what was asked; the message has its log."""


class RunningDaemon:
    """A context manager: ready when entered; left, it leaves no process, mount, socket or folder behind.

    ``start`` after ``stop`` or ``kill`` serves the same run directory again.
    """

    def __init__(self, *parents: str, config: Path | None = None, preamble: str = "") -> None:
        """``parents`` and ``config`` are those of ``serve``.

        ``preamble`` is Python that the front runs first: how a test takes away what a machine may lack.
        """
        # Not the test's own folder: a socket's path has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="mdev-", dir="/tmp"))
        self.folder.chmod(0o711)
        self.run_dir = RunDir(self.folder / "run")
        self.sys = self.run_dir.sys
        self.root = self.run_dir.root
        self.control = ControlClient(self.run_dir)
        self._log = self.folder / "log"
        options = ["--run-dir", str(self.run_dir.path), *(() if config is None else ("--config", str(config)))]
        self._command = [sys.executable, "-c", f"{preamble}\n{_MAIN}", "serve", *options, *parents]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The front. DaemonFailed when none was started."""
        if self._process is None:
            raise DaemonFailed("the daemon was not started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """What the front and its hosts logged so far, over all starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def host_pids(self) -> dict[str, int]:
        """The process in which each parent lives, by the parent's name; without those that have none now."""
        return {each.name: each.host_pid for each in self.control.status().parents if each.host_pid is not None}

    def create(self, type_id: str, uuid: UUID | None = None, parent: str | None = None) -> UUID:
        """Create an mdev by the control API."""
        return UUID(self.control.create(type_id, parent, uuid or uuid4()).uuid)

    def guest(self, uuid: UUID, memory: ServedMemory | None = None, timeout: float = _GUEST_SECONDS) -> Client:
        """A connected and negotiated vfio-user client of an mdev. ``timeout`` in seconds bounds each of its waits."""
        return Client(self.run_dir.socket(uuid), memory, timeout)

    def start(self) -> None:
        """Return when the daemon says that it is ready (sd_notify). DaemonFailed when it ended instead."""
        address = self.folder / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, self._log.open("ab") as log:
            notified.bind(str(address))
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "NOTIFY_SOCKET": str(address)},
                )
                self._wait_until_ready(notified)
            finally:
                address.unlink()

    def stop(self, number: int = signal.SIGTERM, seconds: float = _END_SECONDS) -> int:
        """Send a signal and wait. Returns the exit status; DaemonFailed when it is still running after ``seconds``."""
        self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DaemonFailed(f"the daemon did not end within {seconds} s of signal {number}\n{self.log}") from None

    def kill(self) -> None:
        """End the front as a crash does: nothing is cleaned up."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self._clean_up()

    def _wait_until_ready(self, notified: socket.socket) -> None:
        notified.settimeout(_TICK)
        deadline = monotonic() + _READY_SECONDS
        while self.process.poll() is None and monotonic() < deadline:
            try:
                if notified.recv(1024) == b"READY=1":
                    return
            except TimeoutError:
                continue
        raise DaemonFailed(f"the daemon did not get ready (exit status {self.process.returncode})\n{self.log}")

    def _clean_up(self) -> None:
        """Hosts need no care: each ends with the front."""
        if self._process is not None and self._process.poll() is None:
            try:
                self.stop()
            except DaemonFailed:
                self.kill()
        mountpoint.detach(self.sys)
        left = mounts_below(Path(os.path.realpath(self.folder)))
        if left:
            raise DaemonFailed(f"still mounted: {left}")
        shutil.rmtree(self.folder)
