"""Run in a guest: an mdev's own process in a control group, as a daemon and a host have it. Prints what came of it."""

import json
import os
import pickle  # noqa: TID251 - as a host does, towards its process
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from threading import Event, Thread, stack_size

from mdev_user.driver.answers import answers_of
from mdev_user.driver.program import Program
from mdev_user.host.program import groups
from mdev_user.host.program.groups import DaemonGroup, host_groups, refusal
from mdev_user.host.program.process import Call, ProgramProcess
from mdev_user.host.program.wire import start_message
from mdev_user.units import KiB, MiB
from mdev_user.vfio.programs import Launch, Timed
from mdev_user.vfio.work import Answer


class Hog(Program):
    """Takes what RLIMIT_DATA does not count."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self._files = [os.memfd_create("hog") for _ in range(64)]  # before the filter is there

    def fill(self, size: int) -> int:
        """Megabytes, in files that are memory."""
        for fd in self._files[: size // MiB]:
            os.write(fd, bytes(MiB))
        return size

    def threads(self, most: int) -> int:
        """How many can be begun."""
        stop, begun = Event(), 0
        stack_size(64 * KiB)
        with suppress(RuntimeError):
            while begun < most:
                Thread(target=stop.wait, daemon=True).start()
                begun += 1
        stop.set()
        return begun


class Pace:
    def take(self) -> float:
        return 0.0

    def give_back(self) -> None: ...


@contextmanager
def process(memory: int) -> Iterator[ProgramProcess]:
    launch = Launch("hog", Hog, (), answers_of(Hog), memory, 0, 60.0, 60.0, MiB, 5)
    one = ProgramProcess(launch, "guest", start_message(launch), -1, lambda _process, _error, _calls: None)
    one.begin(Pace())
    try:
        yield one
    finally:
        one.end("done")
        one.wait_until_gone(time.monotonic() + 10)


def call(one: ProgramProcess, name: str, *arguments: object) -> object:
    done, outcomes = Event(), list[Answer | Exception]()

    def tell(outcome: Answer | Exception) -> None:
        outcomes.append(outcome)
        done.set()

    one.call(Call(name, pickle.dumps((name, arguments, {})), tell, lambda: True))
    assert done.wait(60), name
    outcome = outcomes[0]
    if isinstance(outcome, Answer):
        assert isinstance(outcome.value, Timed)
        return outcome.value.value
    return f"{type(outcome).__name__}: {outcome}"


def limits_of(folder: Path) -> dict[str, str]:
    names = ("memory.max", "memory.swap.max", "pids.max", "cpu.weight.nice")
    return {name: (folder / name).read_text().strip() for name in names if (folder / name).exists()}


def crowded() -> str:
    """The refusal, while another process is in our group."""
    with Popen(["/bin/sleep", "60"]) as other:
        try:
            return refusal()
        finally:
            other.kill()


def delegate(group: str) -> None:
    """As systemd marks what it has delegated."""
    os.setxattr(group, "user.delegate", b"1")


def limited() -> dict[str, object]:
    """What a process may have in its group, and what it leaves."""
    daemon = DaemonGroup()
    groups._host_groups.cache_clear()
    told: dict[str, object] = {"own": Path("/proc/self/cgroup").read_text()}
    with process(64 * MiB) as one:
        told["begun"] = call(one, "threads", 100)
        (folder,) = _below(daemon.folder)
        told["limits"] = limits_of(folder)
        told["alone"] = len((folder / "cgroup.procs").read_text().split())
        told["filled"] = [call(one, "fill", 64 * MiB) for _ in range(3)]
    told["left"] = [each.name for each in _below(daemon.folder)]
    daemon.close()
    told["after"] = Path("/proc/self/cgroup").read_text()
    told["late"] = str(host_groups().create(MiB, 5))  # type: ignore[union-attr]  # there are some
    return told


def place() -> str:
    """The group of the daemon that we are."""
    daemon = DaemonGroup()
    own = Path("/proc/self/cgroup").read_text()
    daemon.close()
    return own


def unlimited() -> list[object]:
    """The same without a group."""
    with process(64 * MiB) as one:
        return [call(one, "fill", 64 * MiB) for _ in range(3)]


def leftovers() -> list[str]:
    """What of a dead daemon and of a dead host is still there when others have begun. Pid 1 began at another time."""
    daemon = DaemonGroup()
    dead = daemon.folder.parent / "mdev-user.programs.1.1"
    for each in (dead, dead / "1.1.1", daemon.folder / "1.1.2"):
        each.mkdir()
    groups._host_groups.cache_clear()
    assert host_groups() is not None
    daemon.close()
    DaemonGroup().close()
    return [str(each) for each in (dead, daemon.folder) if each.exists()]


def _below(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.is_dir()]


def main(*calls: str) -> None:
    """Call these functions; a name may have an argument behind a colon."""
    groups.MOST_THREADS = 64  # each takes an emulated processor its time
    for each in calls:
        name, _, argument = each.partition(":")
        print(json.dumps(globals()[name](*filter(None, [argument]))), flush=True)
    os._exit(0)  # the guest has not all that an end of Python loads
