"""When a process of `run`'s dies or fails: the program ends with a message, whatever it does, and never half-works."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.support import alive, eventually
from mdev_user.testing.daemon import RunningDaemon
from tools.running import SECONDS, command
from tools.test_run_devices import beside

pytestmark = pytest.mark.fuse

OPENS = "import os, time\nwhile True: os.close(os.open('/dev/null', os.O_RDWR)); time.sleep(0.05)"


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty") as daemon:
        yield daemon


@contextmanager
def opening(
    daemon: RunningDaemon, preamble: str = "", stderr: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """A program that opens a file again and again, for ever."""
    words = command(daemon, "--", "python3", "-c", f"print(1, flush=True)\n{OPENS}", preamble=preamble)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


FAILURES = ["_keep_house = lambda self: {}[1]", "_answer = lambda self, call, begun: {}[1]"]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_supervisor_that_fails_ends_its_program_and_says_so(daemon: RunningDaemon, failure: str) -> None:
    with opening(daemon, f"import mdev_user.uapi.supervisor as s; s.Supervisor.{failure}") as process:
        _printed, said = process.communicate(timeout=SECONDS)
        assert process.returncode == -signal.SIGKILL
    assert "KeyError: 1" in said
    assert "ended with status 1: its VFIO devices are gone, and so the program is ended" in said


def supervisor_of(process: subprocess.Popen[str]) -> int:
    """The process that traces it: it has two descriptors of seccomp's listener's kind, and the guard for its parent."""
    found = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and _listens(each, process.pid)]
    (supervisor,) = (pid for pid in found if _parent(pid) in found)
    return supervisor


def _listens(folder: Path, pid: int) -> bool:
    try:
        links = {str(each.readlink()) for each in (folder / "fd").iterdir()}
        pids = [(folder / "fdinfo" / each.name).read_text() for each in (folder / "fd").iterdir()]
    except OSError:
        return False
    return "anon_inode:seccomp notify" in links and any(f"Pid:\t{pid}\n" in each for each in pids)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_who_tells_the_supervisor_to_end_tells_the_program(daemon: RunningDaemon) -> None:
    """`mdev-user list` and `remove` name the process that has an mdev, and that is the supervisor."""
    with opening(daemon) as process:
        assert process.stdout is not None
        process.stdout.readline()
        supervisor = supervisor_of(process)
        os.kill(supervisor, signal.SIGTERM)
        assert process.wait(SECONDS) == -signal.SIGTERM
        assert process.communicate()[1] == ""
    eventually(lambda: not alive(supervisor), "then it ends, too")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_tells_all_its_processes_is_the_programs_to_follow(
    daemon: RunningDaemon, number: signal.Signals
) -> None:
    with opening(daemon) as process:
        assert process.stdout is not None
        process.stdout.readline()
        supervisor = supervisor_of(process)
        os.kill(supervisor, number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        assert alive(supervisor)


def test_a_program_whose_standard_error_is_full_ends_too(daemon: RunningDaemon) -> None:
    reads, writes = os.pipe()
    try:
        with opening(daemon, stderr=writes) as process:
            assert process.stdout is not None
            process.stdout.readline()
            os.set_blocking(writes, False)
            fill(writes)
            os.set_blocking(writes, True)
            supervisor = supervisor_of(process)
            os.kill(supervisor, signal.SIGKILL)
            assert process.wait(SECONDS) == -signal.SIGKILL
            eventually(lambda: not alive(supervisor), "the guard, its parent, waits for it")
    finally:
        os.close(reads)
        os.close(writes)


GUARD, SUPERVISOR = 0, 1
SAYS = {GUARD: "watches over this program's VFIO devices is gone", SUPERVISOR: "was killed by signal 9"}
ITS_OWN = f'setsid --fork python3 -c "import os; print(os.getpid(), flush=True)\n{OPENS}"'


@pytest.mark.parametrize("killed", SAYS)
def test_a_program_that_made_itself_a_daemon_ends_too_and_says_so(daemon: RunningDaemon, killed: int) -> None:
    """As libvirt's QEMUs do: who was started in the first place has ended, and this one is nobody's child."""
    words = command(daemon, "--", "sh", "-c", ITS_OWN)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert process.wait(SECONDS) == 0
        eventually(lambda: len(beside(daemon)) == 2, "those of the tests before have ended")
        ours = beside(daemon)
        assert alive(pid)
        os.kill(ours[killed], signal.SIGKILL)
        eventually(lambda: not alive(pid), "it ends")
        assert SAYS[killed] in process.communicate(timeout=SECONDS)[1]
    eventually(lambda: not any(map(alive, ours)), "and so do those beside it")


def fill(pipe: int) -> None:
    for size in (4096, 1):
        try:
            while True:
                os.write(pipe, bytes(size))
        except BlockingIOError:
            pass
