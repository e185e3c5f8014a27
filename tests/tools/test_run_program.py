"""`mdev-user run`: the program is in the command's place, with its terminal and signals, and leaves nothing behind."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytest

from daemon.support import alive, eventually
from mdev_user.testing.daemon import RunningDaemon
from tools.running import SECONDS, command, finished, printed

pytestmark = pytest.mark.fuse

UUID = "11111111-1111-4111-8111-111111111111"
CREATE = "/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create"


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty") as daemon:
        yield daemon


# --- in the command's place ----------------------------------------------------------------------------------------


def test_the_exit_status_is_the_programs(daemon: RunningDaemon) -> None:
    assert finished(command(daemon, "--", "sh", "-c", "exit 7")).returncode == 7
    assert finished(command(daemon, "--", "sh", "-c", "kill -TERM $$")).returncode == -signal.SIGTERM


def test_a_program_that_is_not_there_is_127(daemon: RunningDaemon) -> None:
    done = finished(command(daemon, "--", "no-such-program"))
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr == "mdev-user: cannot run no-such-program: No such file or directory\n"


def test_what_cannot_be_executed_is_126(daemon: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    bad = tmp_path / "bad"
    bad.write_text("#!/no/such/interpreter\n")
    bad.chmod(0o755)
    assert finished(command(daemon, "--", str(tmp_path / "text"))).returncode == 126
    assert finished(command(daemon, "--", str(bad))).returncode == 126


def test_a_script_without_an_interpreter_is_the_shells(daemon: RunningDaemon, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('echo "$1" and the rest\n')
    script.chmod(0o755)
    assert printed(command(daemon, "--", str(script), "this")) == "this and the rest\n"


def test_options_of_the_program_are_its_own(daemon: RunningDaemon) -> None:
    assert printed(command(daemon, "echo", "--events", "--help", "--", "-x")) == "--events --help -- -x\n"


def test_input_and_output_are_the_programs(daemon: RunningDaemon) -> None:
    done = finished(command(daemon, "--", "sh", "-c", "cat; echo told >&2"), stdin="said")
    assert (done.stdout, done.stderr) == ("said", "told\n")


def test_standard_output_may_be_closed(daemon: RunningDaemon) -> None:
    words = ["bash", "-c", 'exec "$@" >&-', "bash", *command(daemon, "--", "sh", "-c", "echo told >&2")]
    done = finished(words)
    assert (done.returncode, done.stderr) == (0, "told\n")


def test_the_program_finds_signals_as_any_other_does(daemon: RunningDaemon) -> None:
    """Python ignores SIGPIPE, and a program would inherit that."""
    words = ["grep", "Sig[BIC]", "/proc/self/status"]
    assert printed(command(daemon, "--", *words)) == printed(words)
    control = command(daemon, "--", *words, preamble="import mdev_user.cli.run as run; run._IGNORED_BY_PYTHON = ()")
    assert printed(control) != printed(words), "the negative control"


def test_no_file_is_left_open(daemon: RunningDaemon) -> None:
    assert printed(command(daemon, "--", "ls", "/proc/self/fd")).split() == ["0", "1", "2", "3"]


def test_without_a_program_it_is_a_shell(daemon: RunningDaemon) -> None:
    environment = {**os.environ, "SHELL": shutil.which("bash") or "/bin/bash"}
    done = finished(command(daemon), stdin="echo $0; ls -d /sys/bus/mdev; exit 3", environment=environment)
    assert (done.returncode, done.stdout.split()) == (3, [environment["SHELL"], "/sys/bus/mdev"])


@dataclass
class Terminal:
    """A terminal, with a program that is the leader of its session."""

    pid: int
    fd: int

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def reads(self, text: bytes) -> bytes:
        """All that is printed until ``text`` is."""
        found = b""
        deadline = monotonic() + SECONDS
        while text not in found:
            assert select.select([self.fd], [], [], deadline - monotonic())[0], found
            found += os.read(self.fd, 1000)
        return found

    def waits_for_sleep(self) -> None:
        """It has the keyboard, and is executed: a shell's child ignores Ctrl-Z until then."""

        def name() -> str:
            with suppress(OSError):
                return Path(f"/proc/{os.tcgetpgrp(self.fd)}/comm").read_text()
            return ""

        eventually(lambda: name() == "sleep\n", "sleep runs")

    def waits_for_keys(self) -> None:
        eventually(lambda: os.tcgetpgrp(self.fd) == self.pid, "no job runs")

    def status(self) -> int:
        """As os.waitpid has it."""
        found: list[int] = []

        def look() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            found.append(status)
            return pid != 0

        eventually(look, "the program ends")
        return found[-1]


@contextmanager
def terminal(words: list[str]) -> Iterator[Terminal]:
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp(words[0], words)
    try:
        yield Terminal(pid, fd)
    finally:
        os.close(fd)  # which hangs up on what is left


def test_the_terminal_and_its_signals_are_the_programs(daemon: RunningDaemon) -> None:
    """A shell with job control: Ctrl-Z stops a job of its, Ctrl-C ends one, and it goes on."""
    with terminal(command(daemon, "--", "bash", "--norc", "-i")) as shell:
        attributes = termios.tcgetattr(shell.fd)
        shell.type(b"tty; ps -o tty= -p $$; echo be''gun\n")
        assert b"/dev/pts/" in shell.reads(b"begun")
        shell.type(b"sleep 100\n")
        shell.waits_for_sleep()
        shell.type(b"\x1a")
        shell.reads(b"Stopped")
        shell.waits_for_keys()
        shell.type(b"fg\n")
        shell.waits_for_sleep()
        shell.type(b"\x03")
        shell.waits_for_keys()
        shell.type(b"echo status $?\n")
        shell.reads(b"status 130")
        shell.type(b"exit 5\n")
        assert os.waitstatus_to_exitcode(shell.status()) == 5
        assert termios.tcgetattr(shell.fd) == attributes


def test_the_keys_reach_a_program_that_is_no_shell(daemon: RunningDaemon) -> None:
    with terminal(command(daemon, "--", "sh", "-c", "echo begun; exec sleep 100")) as program:
        program.reads(b"begun")
        program.type(b"\x03")
        assert os.waitstatus_to_exitcode(program.status()) == -signal.SIGINT


# --- what is left ----------------------------------------------------------------------------------------------------


def mounts(daemon: RunningDaemon) -> list[str]:
    """What is mounted outside in /sys, and of this daemon's; other tests mount other things."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [each for each in lines if each.split()[4].startswith(("/sys", "/etc", str(daemon.run_dir.path)))]


def members(namespace: str) -> list[int]:
    """The processes in a mount namespace."""
    found = []
    for each in Path("/proc").iterdir():
        try:
            if each.name.isdigit() and str((each / "ns/mnt").readlink()) == namespace:
                found.append(int(each.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("killed", [False, True], ids=["ended", "killed"])
@pytest.mark.parametrize("events", ["none", "private"])
def test_nothing_stays(daemon: RunningDaemon, killed: bool, events: str) -> None:
    before = mounts(daemon)
    words = command(daemon, f"--events={events}", "--", "sh", "-c", "readlink /proc/self/ns/mnt; cat")
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    namespace = process.stdout.readline().strip()
    inside = members(namespace)
    assert process.pid in inside
    assert os.getpid() not in inside
    assert mounts(daemon) == before
    if killed:
        process.kill()
    process.communicate(timeout=SECONDS)
    # not those of before alone: when the namespace was looked at, sh may not have started its cat
    eventually(lambda: not any(map(alive, {*inside, *members(namespace)})), "every process ends")
    assert mounts(daemon) == before
    assert (daemon.sys / "class/mdev_bus/mtty").exists()


def test_a_child_that_goes_on_keeps_what_it_sees(daemon: RunningDaemon) -> None:
    text = "(sleep 0.3; ls /sys/class/mdev_bus) & exit 4"
    done = finished(command(daemon, "--", "sh", "-c", text))
    assert (done.returncode, done.stdout) == (4, "mtty\n")


# --- events ----------------------------------------------------------------------------------------------------------

LISTEN = f"""
import socket, sys, os
from pathlib import Path
listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
listener.bind((0, 2))
listener.settimeout({SECONDS})
Path("{CREATE}").write_text("{UUID}")
Path("/sys/bus/mdev/devices/{UUID}/remove").write_text("1")
for _number in range(8):
    said = dict(each.split("=", 1) for each in listener.recv(8192)[40:].decode().split("\\0") if each)
    print(said["ACTION"], said["SUBSYSTEM"])
print(Path("/sys/class/net/lo/operstate").exists(), os.environ["SYSTEMD_DEVICE_VERIFY_SYSFS"])
"""
TOLD = """\
add mdev
add vfio
add vfio-dev
bind mdev
remove vfio-dev
remove vfio
unbind mdev
remove mdev
True 0
"""


@pytest.mark.parametrize("events", ["private", "host"])
def test_listeners_are_told_of_all_that_happens_from_the_start(daemon: RunningDaemon, events: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("becomes root of a network")
    began = monotonic()
    words = [sys.executable, "-c", LISTEN]
    assert printed(command(daemon, f"--events={events}", "--", *words)) == TOLD
    assert monotonic() - began < SECONDS, "who tells them does not hold the output open"


def test_by_default_nobody_is_told(daemon: RunningDaemon) -> None:
    """The negative control of the last one; in a network where no other test sends anything."""
    impatient = LISTEN.replace(f"settimeout({SECONDS})", "settimeout(0.5)")
    done = finished(["unshare", "--net", *command(daemon, "--", sys.executable, "-c", impatient)])
    assert "TimeoutError" in done.stderr


NETWORK = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
print(*(name for _number, name in socket.if_nameindex()))
"""


def test_a_private_network_has_lo_and_nothing_else(daemon: RunningDaemon) -> None:
    look = [sys.executable, "-c", NETWORK]
    assert printed(command(daemon, "--events=private", "--", *look)) == "lo\n"
    assert printed(command(daemon, "--", *look)) == printed(look), "the machine's, otherwise"


LOOK = """
import os
from pathlib import Path
mine = Path("/proc/self/ns/mnt").readlink()
def inside(each):
    try:
        return each.name.isdigit() and (each / "ns/mnt").readlink() == mine
    except OSError:
        return False
(teller,) = [each for each in Path("/proc").iterdir() if inside(each) and int(each.name) != os.getpid()]
_state, parent, _group, session, terminal, *_rest = (teller / "stat").read_text().rpartition(")")[2].split()
print(int(parent) != os.getpid(), int(session) != os.getsid(0), terminal)
theirs = {each.readlink() for each in (teller / "fd").iterdir()}
print(*theirs & {Path(f"/proc/self/fd/{number}").readlink() for number in (0, 1, 2)})
try:
    os.wait()
except ChildProcessError:
    print("no child")
"""


def test_who_tells_is_nobodys_child_and_holds_nothing_of_the_programs(daemon: RunningDaemon) -> None:
    with terminal(command(daemon, "--events=private", "--", sys.executable, "-c", LOOK)) as program:
        assert program.reads(b"no child").split() == b"True True 0 no child".split()
