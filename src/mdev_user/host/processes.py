"""Processes: where a host computes what its jobs offload, so that no thread of its own is ever busy for long.

Each process computes one thing at a time and has a thread here that waits for it. One that ends in the middle, whatever
the reason, fails what it computed and nothing else.
"""

import os
import pickle  # noqa: TID251 - between two processes of ours; what a guest chose is data in it
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import Condition, Thread

from typing_extensions import override

from mdev_user.errors import DriverError
from mdev_user.host import PYTHON
from mdev_user.host.loader import source_of
from mdev_user.vfio.work import Answer, Offload

MOST = max(2, min(os.cpu_count() or 1, 8))
"""Processes of one host."""
_PROGRAM = "mdev_user.host.offloaded"
_MOST_VERSIONS = 8
"""Versions of drivers' files that a process has loaded before another one takes its place."""
_FEW = 64
"""Tasks that are not worth looking through."""


@dataclass(frozen=True, eq=False)
class Task:
    """One call to compute."""

    owner: object
    """Whose it is; nobody has all the processes at once."""
    work: Offload
    wanted: Callable[[], bool]
    """Whether somebody still waits for it."""
    done: Callable[[Answer | Exception], None]
    """Called once, in any thread."""


class Processes:
    """The processes of one host. They are started when there is something to compute, and end with `stop`."""

    def __init__(self, most: int = MOST) -> None:
        """``most`` processes, at least 2."""
        self._most = most
        self._changed = Condition()
        self._tasks: dict[object, deque[Task]] = {}
        """By owner, who comes next first: one with many tasks delays nobody else's."""
        self._waiting = 0
        self._most_tasks = _FEW
        """Until they are looked through for those that nobody wants any more."""
        self._running: Counter[object] = Counter()
        self._workers: list[_Worker] = []
        self._idle = 0
        self._stopping = False

    def submit(self, task: Task) -> None:
        """Never blocks. The number of tasks is that of the jobs, which has a limit of its own."""
        with self._changed:
            if self._waiting >= self._most_tasks:
                self._drop_unwanted()
            self._tasks.setdefault(task.owner, deque()).append(task)
            self._waiting += 1
            if self._waiting > self._idle and len(self._workers) < self._most and not self._stopping:
                self._workers.append(_Worker(self))
                self._workers[-1].start()
            self._changed.notify()

    def stop(self) -> None:
        """End the processes, whatever they compute."""
        with self._changed:
            self._stopping = True
            self._tasks.clear()
            self._waiting = 0
            self._changed.notify_all()
        for worker in self._workers:
            worker.end()

    def take(self) -> Task | None:
        """The next task for a thread of ours, which waits for it; None when it is to end."""
        with self._changed:
            while not self._stopping:
                task = self._next()
                if task is not None:
                    self._running[task.owner] += 1
                    return task
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            return None

    def give_back(self, task: Task) -> None:
        with self._changed:
            self._running[task.owner] -= 1
            if not self._running[task.owner]:
                del self._running[task.owner]
            self._changed.notify()

    def _drop_unwanted(self) -> None:
        """While all processes are busy, a guest starts jobs and resets the device, again and again."""
        wanted = {owner: deque(each for each in tasks if each.wanted()) for owner, tasks in self._tasks.items()}
        self._tasks = {owner: tasks for owner, tasks in wanted.items() if tasks}
        self._waiting = sum(map(len, self._tasks.values()))
        self._most_tasks = max(_FEW, 2 * self._waiting)

    def _next(self) -> Task | None:
        for owner in list(self._tasks):
            if self._running[owner] < self._most - 1 and (task := self._next_of(owner)) is not None:
                return task
        return None

    def _next_of(self, owner: object) -> Task | None:
        """Then it is behind the others."""
        tasks = self._tasks.pop(owner)
        while tasks:
            task = tasks.popleft()
            self._waiting -= 1
            if task.wanted():
                if tasks:
                    self._tasks[owner] = tasks
                return task
        return None


class _Worker(Thread):
    """A thread with a process of its own."""

    def __init__(self, processes: Processes) -> None:
        super().__init__(name="offload", daemon=True)
        self._processes = processes
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection
        self._versions: set[str] = set()
        """The modules of drivers' files that the process has."""
        self._ending = False

    @override
    def run(self) -> None:
        while self._perform_next():
            pass
        self._drop()

    def end(self) -> None:
        self._ending = True
        while self.is_alive():
            if (process := self._process) is not None:
                process.kill()
            self.join(0.1)

    def _perform_next(self) -> bool:
        """Nothing of a task stays here while there is no other: it holds the driver's module."""
        task = self._processes.take()
        if task is None:
            return False
        outcome = self._compute(task.work)
        self._processes.give_back(task)
        task.done(outcome)
        return True

    def _compute(self, work: Offload) -> Answer | Exception:
        name = getattr(work.function, "__qualname__", repr(work.function))
        try:
            request = self._request(work)
        except Exception as error:  # noqa: BLE001 - whatever an argument's own code raises
            return DriverError(f"offload({name}): the arguments cannot be sent to another process: {error}")
        try:
            connection = self._connected()
            connection.send_bytes(request)
            answer = connection.recv_bytes()
        except (OSError, EOFError) as error:
            status = self._drop()
            return DriverError(f"offload({name}): the process that computed it ended (status {status}): {error}")
        outcome = _outcome(name, answer)
        if isinstance(outcome, Answer) and source_of(work.function.__module__) is not None:
            self._versions.add(work.function.__module__)
        return outcome

    def _request(self, work: Offload) -> bytes:
        """The call, with what the process needs to import the function as it is here."""
        module = work.function.__module__
        call = pickle.dumps((work.function, work.arguments, work.keywords))
        if len(self._versions - {module}) >= _MOST_VERSIONS:
            self._drop()
        return pickle.dumps((module, None if module in self._versions else source_of(module), call))

    def _connected(self) -> Connection:
        if self._ending:
            raise OSError("the host ends")
        if self._process is None:
            ours, theirs = socket.socketpair()
            with theirs:
                command = [*PYTHON, _PROGRAM, str(theirs.fileno())]
                environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
                self._process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), env=environment)
            self._connection = Connection(ours.detach())
        return self._connection

    def _drop(self) -> int | None:
        """Forget the process; the next task has a new one."""
        process, self._process = self._process, None
        self._versions.clear()
        if process is None:
            return None
        self._connection.close()
        process.kill()
        return process.wait()


def _outcome(name: str, answer: bytes) -> Answer | Exception:
    try:
        is_value, value = pickle.loads(answer)  # noqa: S301 - as above
    except Exception as error:  # noqa: BLE001 - whatever the result's own code raises
        return DriverError(f"offload({name}): what it answered cannot be read: {error}")
    return Answer(value) if is_value else value
