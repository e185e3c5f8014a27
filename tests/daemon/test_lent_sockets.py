"""Sockets that were made before the daemon: by `--fd`, and by a starter that does what systemd does."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import Self
from uuid import UUID, uuid4

import pytest

from daemon.support import SECONDS, eventually
from mdev_user.daemon.client import Client as ControlClient
from mdev_user.daemon.run_dir import RunDir, mounts_below
from mdev_user.sysfs import mountpoint
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError

LSR = 5

STARTER = """
import fcntl, os, sys
numbers, names, command = sys.argv[1].split(","), sys.argv[2], sys.argv[3:]
kept = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in numbers]
for at, number in enumerate(kept):
    os.dup2(number, 3 + at)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(kept)), LISTEN_FDNAMES=names)
os.execv(command[0], command)
"""
"""What systemd does between fork and exec: numbers from 3 on, and the variables of sd_listen_fds(3)."""


class Given:
    """A daemon of its own, started with sockets that the test made."""

    def __init__(self, folder: Path, parents: Sequence[str] = ("mtty",)) -> None:
        self.folder = folder
        self.run_dir = RunDir(folder / "run")
        self.control = ControlClient(self.run_dir)
        self.log = folder / "log"
        self._parents = parents
        self._sockets: list[socket.socket] = []
        self._process: subprocess.Popen[bytes] | None = None

    def listen(self, name: str) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        self._sockets.append(made)
        made.bind(str(self.folder / name))
        made.listen(8)
        return made

    def start(self, options: Sequence[str] = (), sockets: Sequence[socket.socket] = (), names: str = "") -> None:
        """With ``names`` as systemd does it; ``sockets`` are passed on in either case."""
        main = "from mdev_user.cli import main; main()"
        command = [sys.executable, "-c", main, "serve", "--run-dir", str(self.run_dir.path), *options, *self._parents]
        numbers = [each.fileno() for each in sockets]
        if names:
            command = [sys.executable, "-c", STARTER, ",".join(map(str, numbers)), names, *command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=numbers)

    def ready(self) -> Self:
        eventually(lambda: "serving" in self.log.read_text() or self.ended(), "the daemon is ready")
        assert not self.ended(), self.log.read_text()
        return self

    def host_pid(self, but: int) -> int:
        """The parent's, once it is registered there and not in ``but``; 0 until then."""
        (parent,) = self.control.status().parents
        there = parent.state == "registered" and parent.host_pid != but
        return (parent.host_pid or 0) if there else 0

    def ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(SECONDS)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None and not self.ended():
            self._process.send_signal(number)
            self._process.wait(SECONDS)
        self._process = None
        self.log.write_bytes(b"")

    def close(self) -> None:
        self.stop()
        for each in self._sockets:
            each.close()
        mountpoint.detach(self.run_dir.sys)
        assert not mounts_below(self.folder)


@contextmanager
def given(folder: Path) -> Iterator[Given]:
    made = Given(folder)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def works(path: Path) -> bool:
    with Client(path, timeout=SECONDS) as client:
        return client.region_read(0, LSR, 1) == b"\x60"


def test_an_mdev_is_reached_at_a_socket_given_by_fd_whenever_it_is_there(folder: Path) -> None:
    uuid, other = uuid4(), uuid4()
    with given(folder) as daemon:
        listener = daemon.listen("lent")
        daemon.start(["--fd", f"{uuid}={listener.fileno()}"], [listener])
        daemon.ready()
        daemon.control.create("mtty-1", None, other)
        with socket.socket(socket.AF_UNIX) as early:
            early.settimeout(0.1)
            early.connect(str(folder / "lent"))  # it waits until there is an mdev
            with pytest.raises(TimeoutError):
                early.recv(1)
        for _ in range(3):
            daemon.control.create("mtty-1", None, uuid)
            assert works(folder / "lent")
            assert works(daemon.run_dir.socket(uuid)), "its own socket is there, too"
            assert str(uuid) not in str(daemon.control.mdev(other).client)
            with Client(folder / "lent", timeout=SECONDS), pytest.raises(RemoteError, match="refused VERSION"):
                Client(daemon.run_dir.socket(uuid))  # one user, whichever way it came
            daemon.control.remove(uuid, wait=SECONDS, force=False)
        assert (folder / "lent").is_socket(), "whoever made it takes it away"


def test_a_host_that_died_gets_the_socket_again(folder: Path) -> None:
    uuid = uuid4()
    with given(folder) as daemon:
        listener = daemon.listen("lent")
        daemon.start(["--fd", f"{uuid}={listener.fileno()}"], [listener])
        daemon.ready()
        killed = 0
        for _ in range(2):
            pid = eventually(lambda: daemon.host_pid(but=killed), "a host is there")  # noqa: B023 - asked at once
            daemon.control.create("mtty-1", None, uuid)
            assert works(folder / "lent")
            os.kill(pid, signal.SIGKILL)
            killed = pid
            eventually(lambda: not daemon.control.mdevs(), "the mdev is gone with its host")


def test_systemds_sockets_are_served_by_their_names_and_hidden_from_hosts(folder: Path) -> None:
    uuid = uuid4()
    with given(folder) as daemon:
        sockets = [daemon.listen("lent"), daemon.listen("api")]
        daemon.start(sockets=sockets, names=f"{uuid}:control")
        daemon.ready()
        daemon.control.create("mtty-1", None, uuid)
        assert works(folder / "lent")
        with socket.socket(socket.AF_UNIX) as api:
            api.settimeout(SECONDS)
            api.connect(str(folder / "api"))
            api.sendall(b"GET /v1/mdevs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while part := api.recv(65536):
                answer += part
        assert str(uuid).encode() in answer
        (parent,) = daemon.control.status().parents
        environment = Path(f"/proc/{parent.host_pid}/environ").read_bytes()
        assert b"LISTEN_" not in environment
        ours = {Path(f"/proc/self/fd/{each.fileno()}").readlink() for each in sockets}
        theirs = [each.readlink() for each in Path(f"/proc/{parent.host_pid}/fd").iterdir()]
        assert sum(each in ours for each in theirs) == 1, "the mdev's is the host's by the channel; the API's is not"


@pytest.mark.parametrize("name", ["run", "link"])
def test_a_control_socket_at_the_daemons_own_place_stays_when_it_ends(folder: Path, name: str) -> None:
    """As a socket unit with ListenStream=/run/mdev-user/control.sock: it may start the daemon again."""
    with given(folder) as daemon:
        daemon.run_dir.path.mkdir(mode=0o755)
        (folder / "link").symlink_to("run")  # as /var/run is one to /run
        listener = daemon.listen(f"{name}/control.sock")
        for _ in range(2):
            daemon.start(["--fd", f"control={listener.fileno()}"], [listener])
            daemon.ready()
            assert daemon.control.status().parents
            daemon.stop()
        assert daemon.run_dir.control.is_socket()


def test_a_client_may_come_before_the_daemon(folder: Path) -> None:
    """What socket activation is for: the request waits in the socket, and is answered."""
    with given(folder) as daemon, ExitStack() as stack:
        listener = daemon.listen("api")
        early = stack.enter_context(socket.socket(socket.AF_UNIX))
        early.settimeout(SECONDS)
        early.connect(str(folder / "api"))
        early.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        daemon.start(sockets=[listener], names="control")
        assert early.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nonsense", "expected control or an mdev's UUID"), (str(UUID(int=1)), "expected a listening UNIX stream socket")],
)
def test_a_wrong_one_ends_the_daemon_at_once_with_the_reason(folder: Path, name: str, reason: str) -> None:
    with given(folder) as daemon, socket.socket(socket.AF_UNIX) as idle:
        began = monotonic()
        daemon.start(["--fd", f"{name}={idle.fileno()}"], [idle])
        assert daemon.wait() != 0
        assert reason in " ".join(daemon.log.read_text().split())
        assert monotonic() - began < SECONDS


def test_a_socket_in_the_run_directory_is_refused(folder: Path) -> None:
    uuid = UUID(int=1)
    with given(folder) as daemon:
        daemon.run_dir.devices.mkdir(parents=True)
        listener = daemon.listen("run/devices/lent")
        daemon.start(["--fd", f"{uuid}={listener.fileno()}"], [listener])
        assert daemon.wait() == 1
        assert "bind it elsewhere" in daemon.log.read_text()
