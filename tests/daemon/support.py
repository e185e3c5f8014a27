"""What tests of a real daemon share: waiting with a deadline, a shell in the tree, and clients in processes."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TypeVar
from uuid import UUID

from mdev_user.testing.daemon import RunningDaemon

PARENTS = Path(__file__).parent / "parents"
SECONDS = 60.0
"""No step of a test takes longer, even on a machine that is busy with others."""

_T = TypeVar("_T")


def eventually(look: Callable[[], _T], what: str, seconds: float = SECONDS) -> _T:
    """The first true value that ``look`` gives, asked until ``seconds`` are over."""
    deadline = monotonic() + seconds
    while not (found := look()):
        assert monotonic() < deadline, f"not within {seconds} s: {what}"
        sleep(0.01)
    return found


def shell(daemon: RunningDaemon, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script with nothing but a shell, echo, cat and ls, in RUN/root/sys (dash would not tell the errno)."""
    return subprocess.run(
        ["/bin/bash", "-c", script], cwd=daemon.sys, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def output(daemon: RunningDaemon, script: str) -> str:
    """What a script prints; it must succeed and complain about nothing."""
    done = shell(daemon, script)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refusal(daemon: RunningDaemon, script: str) -> str:
    """The words of the error with which a script fails."""
    done = shell(daemon, script)
    assert done.returncode != 0, f"{script} succeeded"
    return done.stderr.strip().rpartition(": ")[2]


def begin_remove(daemon: RunningDaemon, uuid: UUID) -> subprocess.Popen[bytes]:
    """What a person at a shell does; it blocks for as long as the mdev is in use."""
    command = f"echo 1 > {daemon.sys}/bus/mdev/devices/{uuid}/remove"
    return subprocess.Popen(["/bin/sh", "-c", command], stderr=subprocess.DEVNULL)


def removing(daemon: RunningDaemon) -> int:
    """How many removes have begun and not ended."""
    return sum(each.state == "removing" for each in daemon.control.mdevs())


def alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def processes_of(daemon: RunningDaemon) -> list[int]:
    """Those whose command line names the daemon's run directory: its front and its hosts, whoever is their parent."""
    name = str(daemon.run_dir.path).encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if name in command and alive(int(folder.name)):
            found.append(int(folder.name))
    return found


class ClientProcess:
    """A vfio-user client in a process of its own (``client.py``), told what to do line by line."""

    def __init__(self, socket: Path) -> None:
        command = [sys.executable, str(Path(__file__).parent / "client.py"), str(socket)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        assert self._answer() == "connected"

    def write(self, region: int, offset: int, value: int) -> None:
        assert self._ask(f"write {region} {offset} {value}") == "done"

    def read(self, region: int, offset: int) -> int:
        return int(self._ask(f"read {region} {offset}"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _ask(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def client_process(daemon: RunningDaemon, uuid: UUID) -> Iterator[ClientProcess]:
    client = ClientProcess(daemon.run_dir.socket(uuid))
    try:
        yield client
    finally:
        client.close()


def open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def resident_kib(pid: int) -> int:
    """The resident memory of a process, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} has no VmRSS")
