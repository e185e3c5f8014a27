"""Processes: what jobs offload is computed elsewhere, and neither its failures nor its length concern anybody else."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from mdev_user.errors import DriverError, GuestError
from mdev_user.host.loader import load_class
from mdev_user.host.processes import Processes, Task
from mdev_user.vfio.work import Answer, Offload
from unit.host import computations
from unit.host.computations import Odd, Point, die, fail, nothing, process, swapped, unsendable, wait_for
from unit.host.parts import eventually

LONG = 60.0


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def processes() -> Iterator[Processes]:
    made = Processes(2)
    yield made
    made.stop()


class Computed:
    """One task, and what came of it."""

    def __init__(
        self, processes: Processes, function: Callable[..., object], *arguments: object, owner: object = None
    ) -> None:
        self.outcomes: list[Answer | Exception] = []
        self.wanted = True
        work = Offload(function, arguments, {})
        processes.submit(Task(owner, work, lambda: self.wanted, self.outcomes.append))

    def outcome(self) -> object:
        eventually(lambda: self.outcomes, LONG)
        (outcome,) = self.outcomes
        return outcome.value if isinstance(outcome, Answer) else outcome


def test_function_is_called_in_another_process(processes: Processes) -> None:
    first, second = (Computed(processes, process).outcome() for _ in range(2))
    assert first == second != os.getpid()


def test_values_go_there_and_back(processes: Processes) -> None:
    assert Computed(processes, swapped, Point(1, 2), 3).outcome() == Point(6, 3)
    assert Computed(processes, nothing).outcome() is None
    assert Computed(processes, len, bytes(1 << 20)).outcome() == 1 << 20


def test_exceptions_come_back_with_where_they_were_raised(processes: Processes) -> None:
    error = Computed(processes, fail, GuestError).outcome()
    assert isinstance(error, GuestError)
    assert str(error) == "as asked"
    assert "raise kind" in error.__notes__[0]
    for kind in (Odd, SystemExit, KeyboardInterrupt):
        error = Computed(processes, fail, kind).outcome()
        assert isinstance(error, DriverError)
        assert kind.__name__ in str(error)


def test_what_cannot_travel_is_the_drivers_mistake(processes: Processes) -> None:
    error = Computed(processes, swapped, lambda: 0).outcome()
    assert isinstance(error, DriverError)
    assert "offload(swapped): the arguments cannot be sent to another process" in str(error)
    error = Computed(processes, unsendable).outcome()
    assert isinstance(error, DriverError)
    assert "its answer cannot be sent back" in str(error)


def test_process_that_ends_fails_its_task_and_no_other(processes: Processes, folder: Path) -> None:
    other = Computed(processes, wait_for, str(folder / "go"), owner=1)
    error = Computed(processes, die, owner=2).outcome()
    assert isinstance(error, DriverError)
    assert "offload(die): the process that computed it ended (status 3)" in str(error)
    assert Computed(processes, swapped, Point(1, 2), owner=2).outcome() == Point(2, 1)
    (folder / "go").touch()
    assert isinstance(other.outcome(), int)


def test_nobody_has_all_processes(processes: Processes, folder: Path) -> None:
    greedy = [Computed(processes, wait_for, str(folder / "go"), owner="greedy") for _ in range(3)]
    assert isinstance(Computed(processes, process, owner="other").outcome(), int)
    assert [each.outcomes for each in greedy] == [[], [], []]
    (folder / "go").touch()
    assert len({each.outcome() for each in greedy}) <= 2


def taken(order: list[str], name: str) -> bool:
    """It is asked for when it is to be computed, whether anybody wants it."""
    order.append(name)
    return True


def before_a_third(processes: Processes, folder: Path, owners: str) -> int:
    """How many tasks of two mdevs with twenty each are begun before the one that a third has behind them all."""
    order, done = list[str](), list[object]()
    for owner in owners[:2]:
        Computed(processes, wait_for, str(folder / "go"), owner=owner)
    for name, owner in [*zip("ab" * 20, owners[:2] * 20, strict=True), ("c", owners[2])]:
        work = Offload(process, (), {})
        processes.submit(Task(owner, work, partial(taken, order, name), done.append))
    (folder / "go").touch()
    eventually(lambda: len(done) == 41, LONG)
    return order.index("c")


def test_mdev_with_one_task_waits_for_few_of_the_others(processes: Processes, folder: Path) -> None:
    assert before_a_third(processes, folder, "abc") <= 4


def test_it_would_wait_for_all_if_they_were_not_told_apart(folder: Path) -> None:
    """The negative control: as tasks of one mdev they are computed as they came."""
    processes = Processes(3)
    try:
        assert before_a_third(processes, folder, "xxx") == 40
    finally:
        processes.stop()


def test_what_nobody_wants_any_more_is_not_computed(processes: Processes, folder: Path) -> None:
    first = Computed(processes, wait_for, str(folder / "go"))
    second = Computed(processes, wait_for, str(folder / "second"))
    second.wanted = False
    (folder / "go").touch()
    first.outcome()
    assert isinstance(Computed(processes, process).outcome(), int)
    assert (second.outcomes, list(folder.glob("second*"))) == ([], [])


def test_what_nobody_wants_any_more_is_forgotten_while_all_are_busy(processes: Processes, folder: Path) -> None:
    running = [Computed(processes, wait_for, str(folder / "go"), owner=owner) for owner in "ab"]
    wanted = Computed(processes, process)
    for _ in range(500):
        Computed(processes, swapped, bytes(1000)).wanted = False
        assert sum(map(len, processes._tasks.values())) < 150
    (folder / "go").touch()
    assert all(isinstance(each.outcome(), int) for each in (*running, wanted))


def test_stop_ends_what_is_computed(folder: Path) -> None:
    processes = Processes(2)
    running = Computed(processes, wait_for, str(folder / "never"))
    eventually(lambda: list(folder.glob("never.*")), LONG)
    pid = int(next(iter(folder.glob("never.*"))).suffix[1:])
    processes.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert isinstance(running.outcome(), DriverError)
    Computed(processes, process)
    processes.stop()


def test_function_of_a_drivers_file_is_that_of_the_file(processes: Processes, folder: Path) -> None:
    file = folder / "own.driver.py"
    text = (
        "from dataclasses import dataclass\n"
        "from mdev_user.driver import MdevParentOps\n"
        "@dataclass(frozen=True)\nclass Value:\n    number: int\n"
        "class Card(MdevParentOps):\n    pass\n"
        "def work(value: Value) -> Value:\n    return Value(value.number {})\n"
    )
    file.write_text(text.format("+ 1"))
    old = sys.modules[load_class(f"{file}:Card").__module__]
    assert Computed(processes, old.work, old.Value(5)).outcome() == old.Value(6)
    for number in range(10):
        file.write_text(text.format(f"* {number}"))
        new = sys.modules[load_class(f"{file}:Card").__module__]
        assert Computed(processes, new.work, new.Value(5)).outcome() == new.Value(5 * number)
        assert Computed(processes, old.work, old.Value(5)).outcome() == old.Value(6)


def test_processes_are_started_when_they_are_needed() -> None:
    processes = Processes(4)
    assert processes._workers == []
    for _ in range(3):
        Computed(processes, computations.process).outcome()
    assert len(processes._workers) == 1
    processes.stop()


def test_processes_end_with_a_host_that_is_killed(folder: Path) -> None:
    program = (
        "from mdev_user.host.processes import Processes, Task\n"
        "from mdev_user.vfio.work import Offload\n"
        "from unit.host.computations import wait_for\n"
        f"work = Offload(wait_for, ({str(folder / 'never')!r},), {{}})\n"
        "Processes().submit(Task(None, work, lambda: True, print))\n"
        "import time; time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as host:
        try:
            eventually(lambda: list(folder.glob("never.*")), LONG)
        finally:
            host.kill()
    pid = int(next(iter(folder.glob("never.*"))).suffix[1:])
    eventually(lambda: _has_ended(pid))


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
