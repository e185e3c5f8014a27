"""`mdev-user run`: VFIO devices for a program of its own, a static one: no write is repeated, nothing is left open."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from daemon.support import alive, eventually
from guest.compiler import compile_static
from mdev_user.testing.daemon import RunningDaemon
from tools.running import SECONDS, command, finished, printed

pytestmark = pytest.mark.fuse

HERE = Path(__file__).parent
COUNTER = f"{HERE}/parents/counter.py:Card"
WRITES = 30_000
ROUNDS = 1_000
WITHOUT_WAIT_KILLABLE = "import mdev_user.uapi.seccomp as s; s.install.__defaults__ = (0,)"


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon(COUNTER) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def uuid(daemon: RunningDaemon) -> UUID:
    return daemon.create("counter-one")


@pytest.fixture(scope="module")
def client(daemon: RunningDaemon, uuid: UUID, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The static client's path, and what it takes to open the mdev."""
    program = tmp_path_factory.mktemp("client") / "client"
    compile_static(HERE / "client.c", program)
    link = daemon.sys / f"bus/mdev/devices/{uuid}/iommu_group"
    return [str(program), f"/dev/vfio/{link.readlink().name}", str(uuid)]


# --- a signal never repeats a write ------------------------------------------------------------------------------


def written(
    daemon: RunningDaemon, client: list[str], count: int, *more: str, preamble: str = ""
) -> tuple[int, int, int]:
    """How many writes succeeded, how many came, and how many signals: the mdev is reset when it is opened."""
    words = command(daemon, "--", *client, str(count), *more, preamble=preamble)
    done, came, signals = printed(words).split()
    return int(done), int(came), int(signals)


def test_as_many_writes_come_as_succeed_under_a_storm_of_signals(daemon: RunningDaemon, client: list[str]) -> None:
    done, came, signals = written(daemon, client, WRITES)
    assert (done, came) == (WRITES, WRITES)
    assert signals > WRITES / 100


def test_without_wait_killable_recv_writes_are_repeated(daemon: RunningDaemon, client: list[str]) -> None:
    """The negative control: it is that flag of the filter which keeps signals from restarting an answered call."""
    done, came, _signals = written(daemon, client, WRITES // 10, preamble=WITHOUT_WAIT_KILLABLE)
    assert came > done


def test_what_a_signal_interrupts_was_not_done(daemon: RunningDaemon, client: list[str]) -> None:
    """A handler without SA_RESTART: a write may be EINTR then, and the program knows."""
    done, came, signals = written(daemon, client, WRITES // 3, "interrupted")
    assert done == came
    assert signals > WRITES / 300


# --- whoever is killed has nothing open --------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What processes of ours hold, all together."""

    fds: int
    threads: int

    def within(self, before: "Held") -> bool:
        """Whether it is no more; it may be less, where a client's end was not seen yet before."""
        return self.fds <= before.fds and self.threads <= before.threads


def held(pids: list[int]) -> Held:
    return Held(
        sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids),
    )


def beside(daemon: RunningDaemon) -> list[int]:
    """The guard and the supervisor of the program that runs, in this order: they hold a seccomp listener."""
    name = str(daemon.run_dir.path)
    found = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and _listens(each, name)]
    return sorted(found, key=lambda pid: _parent(pid) in found)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _listens(process: Path, name: str) -> bool:
    try:
        if name not in (process / "cmdline").read_text():
            return False
        return any("seccomp" in str(each.readlink()) for each in (process / "fd").iterdir())
    except OSError:  # it ended meanwhile
        return False


def test_a_thousand_killed_clients_leave_nothing(daemon: RunningDaemon, client: list[str]) -> None:
    words = command(daemon, "--", sys.executable, str(HERE / "killing.py"), *client)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            say(process, 20)
            ours = [*daemon.host_pids().values()]
            supervisors = beside(daemon)
            assert len(supervisors) == 2
            before, before_there, fds = held(ours), held(supervisors), held([daemon.pid]).fds
            ready = say(process, ROUNDS)
            assert ROUNDS // 2 <= ready < ROUNDS, "half of them had it open, and some were killed on the way"
            eventually(lambda: held(ours).within(before), "the mdevs' process holds what it did")
            eventually(lambda: held([daemon.pid]).fds <= fds, "and its files; libfuse has threads as it likes")
            eventually(lambda: held(supervisors).fds <= before_there.fds, "so does the supervisor")
            # One more is started while one waits for a device, and stays.
            assert held(supervisors).threads <= before_there.threads + 2
        finally:
            process.stdin.close()
        assert process.wait(SECONDS) == 0
    eventually(lambda: not any(alive(pid) for pid in supervisors), "the supervisor ends with the program")
    assert written(daemon, client, 1)[:2] == (1, 1), "the mdev can be opened by another"


def say(process: subprocess.Popen[str], rounds: int) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{rounds}\n")
    process.stdin.flush()
    return int(process.stdout.readline())


# --- when the supervisor dies --------------------------------------------------------------------------------------

TREE = "sleep 600 & echo $!; cat"


def said_at_the_end(daemon: RunningDaemon, killed: int) -> str:
    """Kill the guard (0) or the supervisor (1) of a program that has a child; all of them are to end."""
    words = command(daemon, "--", "bash", "-c", TREE)
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        ours = beside(daemon)
        assert len(ours) == 2
        os.kill(ours[killed], signal.SIGKILL)
        assert process.wait(SECONDS) == -signal.SIGKILL
        _printed, said = process.communicate(timeout=SECONDS)
    eventually(lambda: not any(alive(pid) for pid in (child, *ours)), "what it started ends, and what is beside it")
    return said


def test_without_its_supervisor_the_program_ends_and_says_so(daemon: RunningDaemon) -> None:
    said = said_at_the_end(daemon, 1)
    assert said.startswith("mdev-user: ")
    assert "killed by signal 9: its VFIO devices are gone" in said


def test_without_its_guard_the_program_ends_and_says_so(daemon: RunningDaemon) -> None:
    """Nobody would tell it of the supervisor's end."""
    said = said_at_the_end(daemon, 0)
    assert said.startswith("mdev-user: the process that watches over this program's VFIO devices is gone")


OPENS = "trap '' TERM; echo; read line; exec 3<>/dev/vfio/vfio && echo opened"


def test_a_service_that_is_stopped_has_its_devices_to_the_end(daemon: RunningDaemon) -> None:
    """All of its processes get the signal; the supervisor passes SIGTERM on, for which the program takes its time."""
    words = command(daemon, "--", "bash", "-c", OPENS)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        ours = beside(daemon)
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            for pid in ours:
                os.kill(pid, each)
        assert process.communicate("go\n", timeout=SECONDS)[0] == "opened\n"
    eventually(lambda: not any(alive(pid) for pid in ours), "they end with it")


# --- where there is none ---------------------------------------------------------------------------------------------


def test_sysfs_only_has_no_supervisor(daemon: RunningDaemon, client: list[str]) -> None:
    done = finished(command(daemon, "--sysfs-only", "--", *client, "1"))
    assert (done.returncode, done.stdout) == (1, "")
    assert printed(command(daemon, "--sysfs-only", "--", "grep", "Seccomp:", "/proc/self/status")) == "Seccomp:\t0\n"


def test_a_run_in_a_run_has_the_outer_ones_devices(daemon: RunningDaemon, client: list[str]) -> None:
    inner = command(daemon, "--", *client, "3")
    assert printed(command(daemon, "--", *inner)).split()[:2] == ["3", "3"]


FOREIGN = """
import os, sys
from mdev_user.uapi import seccomp
os.set_inheritable(seccomp.install([seccomp.Instruction(6, 0, 0, 0x7FFF0000)]), True)
os.execvp(sys.argv[1], sys.argv[1:])
"""
REFUSED = "; `mdev-user run --sysfs-only` shows it all and opens no device, and QEMU 10.1 or later uses an mdev by its"


def refusal(words: list[str]) -> str:
    done = finished(words)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.count("\n") == 1
    assert REFUSED in done.stderr
    return done.stderr


def test_a_foreign_listener_is_told_of(daemon: RunningDaemon) -> None:
    said = refusal([sys.executable, "-c", FOREIGN, *command(daemon, "--", "true")])
    assert "another program answers system calls of this one already" in said


def test_a_kernel_without_the_flag_is_told_of(daemon: RunningDaemon) -> None:
    unknown = "import mdev_user.uapi.seccomp as s; s.install.__defaults__ = (1 << 20,)"
    assert "expected Linux 5.19 or later" in refusal(command(daemon, "--", "true", preamble=unknown))


def test_another_architecture_is_told_of(daemon: RunningDaemon) -> None:
    other = "import platform; platform.machine = lambda: 'aarch64'"
    said = refusal(command(daemon, "--", "true", preamble=other))
    assert "expected an x86-64 machine, this is aarch64" in said


def test_a_small_limit_of_open_files_is_told_of(daemon: RunningDaemon) -> None:
    limited = ["bash", "-c", 'ulimit -n 100; exec "$@"', "bash"]
    assert "expected RLIMIT_NOFILE of at least 256" in refusal([*limited, *command(daemon, "--", "true")])


def test_with_few_open_files_there_are_devices(daemon: RunningDaemon, client: list[str]) -> None:
    limited = ["bash", "-c", 'ulimit -n 1024; exec "$@"', "bash"]
    assert printed([*limited, *command(daemon, "--", *client, "3")]).split()[:2] == ["3", "3"]
