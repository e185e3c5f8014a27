"""One system call of the program while it is answered: its arguments, and what the answer may do to the program."""

import os
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from errno import EBADF, EINVAL, EMFILE, ESRCH
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from mdev_user.uapi import seccomp
from mdev_user.uapi.program import Program

if TYPE_CHECKING:
    from threading import RLock

    from mdev_user.uapi.files import File, Files
    from mdev_user.uapi.receiver import Receiver

_EXPIRES_S = 1.0
_MOST_KNOWN = 256
"""Numbers that are remembered, and threads of each: a program may have a thread for each call."""


class Given(NamedTuple):
    """The answer is a new file descriptor of ``file``."""

    file: "File"
    cloexec: bool = True


class Done(Enum):
    """The call has its answer."""

    DONE = 0


DONE: Final = Done.DONE


class Serving(Protocol):
    """Who answers: what a call needs of its supervisor."""

    listener: int
    files: "Files"
    descriptors: "Descriptors"
    tables: "RLock"

    def open_node(self, call: "Call", path: str) -> "File | None":
        """What an open of this absolute path gives; None when it is not ours."""

    def hand_over(self) -> None:
        """Let another thread receive the next call: this one may wait."""

    def watch(self, fd: int, ready: "Callable[[Waiting], None]") -> None:
        """Call ``ready``, in a thread of the supervisor's, as long as ``fd`` is readable."""

    def unwatch(self, fd: int) -> None:
        """Before ``fd`` is closed."""

    def watch_end(self, fd: int, ended: Callable[[], None]) -> None:
        """Call ``ended``, in a thread of the supervisor's, when the peer of the socket ``fd`` is gone."""

    def unwatch_end(self, fd: int) -> None:
        """Before ``fd`` is closed."""


class Waiting(Protocol):
    """Who is answered by a thread that others may need."""

    def may_wait(self) -> None:
        """Say before waiting for anything but memory: from now on another thread does what this one would next."""


class Turn:
    """A thread that receives, on the way to something else than a call. ``hand_over`` lets another receive."""

    def __init__(self, hand_over: Callable[[], None]) -> None:
        self._hand_over = hand_over
        self.handed_over = False

    def may_wait(self) -> None:
        """As `Waiting`. Where there can be no more threads, the others wait."""
        if not self.handed_over:
            with suppress(RuntimeError):
                self._hand_over()
                self.handed_over = True


class Descriptors:
    """Which numbers of the program's threads are our files: remembered for a second, and what was closed at once not.

    Only numbers from ``base`` on are remembered, because with those every call that changes them is seen.
    """

    def __init__(self, files: "Files", base: int, limit: int, clock: Callable[[], float]) -> None:
        self.base = base
        self.limit = limit
        self._files = files
        self._clock = clock
        self._known: dict[int, dict[int, tuple[File | None, float]]] = {}
        self._next = base
        self._choosing = Lock()
        """Two threads of ours that choose at once would choose the same number, and one descriptor would be lost."""
        self.receiver: Receiver | None = None

    def find(self, program: Program, number: int) -> "File | None":
        """Our file at this number, or None where it is somebody else's, or no file.

        EACCES for one that seems ours, of a program that may not be looked at.
        """
        known = self._known.get(number)
        if known is not None:
            found = known.get(program.tid)
            if found is not None and found[1] > self._clock():
                return found[0]
        try:
            file = self._files.find(*program.identity(number))
        except PermissionError:  # it forbade to be looked at, and here are none but ours
            if number >= self.base:
                raise
            return None
        except OSError:
            return None
        if number >= self.base:
            self._remember(program, number, file)
        return file

    def _remember(self, program: Program, number: int, file: "File | None") -> None:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        known = self._known.setdefault(number, {})
        if len(known) >= _MOST_KNOWN:
            known.clear()
        known[program.tid] = file, self._clock() + _EXPIRES_S
        if self.receiver is not None:
            self.receiver.remember(program, number, file)

    def forget(self, number: int) -> None:
        """This number is about to be closed or to become another file, in one of the program's processes."""
        self._known.pop(number, None)
        if self.receiver is not None:
            self.receiver.forget(number)

    def forget_all(self) -> None:
        """A thread becomes another program, or so many numbers change that each is not looked at."""
        self._known.clear()
        if self.receiver is not None:
            self.receiver.forget()

    def free(self, program: Program, least: int = 0) -> int | None:
        """A number that this process does not use, from ``base`` and ``least`` on; None when there is none."""
        with self._choosing:
            start = max(self._next, least)
            for number in chain(range(start, self.limit), range(max(self.base, least), start)):
                if not program.has_fd(number):
                    self._next = number + 1 if number + 1 < self.limit else self.base
                    self.forget(number)
                    return number
            return None


class Call:
    """A system call that waits. ``args`` are its six registers, unsigned."""

    __slots__ = ("_serving", "_turn", "args", "id", "number", "program", "tid")

    def __init__(self, serving: Serving, notification: seccomp.Notification, program: Program) -> None:
        self._serving = serving
        self.id, self.tid, self.number, self.args = notification
        self.program = program
        self._turn = Turn(serving.hand_over)

    @property
    def serving(self) -> Serving:
        """Who answers; it outlives the call."""
        return self._serving

    @property
    def descriptors(self) -> Descriptors:
        """Which numbers are our files."""
        return self._serving.descriptors

    @property
    def tables(self) -> "RLock":
        """The lock of all that is not one device's: who is open, in which group and container."""
        return self._serving.tables

    def open_node(self, path: str) -> "File | None":
        """What an open of this absolute path gives; None when it is not ours. Raises what open(2) fails with."""
        return self._serving.open_node(self, path)

    # --- the program's memory and files

    def read(self, address: int, count: int) -> bytes:
        """Of the program's memory; EFAULT unless all of it is readable."""
        self._check_alive()
        return self.program.read(address, count)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Into the program's memory; EFAULT unless all of it is writable."""
        self._check_alive()
        self.program.write(address, data)

    def take_fd(self, number: int) -> int:
        """A copy of one of the program's files; EBADF. Close it."""
        self._check_alive()
        return self.program.take_fd(number)

    def _check_alive(self) -> None:
        """ESRCH for a caller that was killed while this call waited: its number may be another's by now."""
        if self._turn.handed_over and not self.still_valid():
            raise OSError(ESRCH, os.strerror(ESRCH))

    def file(self, number: int) -> "File | None":
        """Our file at this number; None where it is somebody else's, or no file."""
        return self._serving.descriptors.find(self.program, number)

    def still_valid(self) -> bool:
        """Whether the caller still waits, so that what was read from it was its own."""
        return seccomp.still_valid(self._serving.listener, self.id)

    # --- what the answer may do

    def add(self, file: "File") -> "File":
        """Take a new file into `Files`' care; give it to the program before the call is answered."""
        return self._serving.files.add(file)

    def give(self, file: "File", *, cloexec: bool = True) -> int:
        """Give the program a new descriptor of ``file``, and answer later. EMFILE when it has no number left."""
        return self._inject(file, cloexec=cloexec, send=False)

    def answer_fd(self, fd: int, *, cloexec: bool, least: int = 0) -> None:
        """A copy of an open file of ours is the answer, with a number of at least ``least``. EMFILE."""
        self._inject_fd(fd, cloexec=cloexec, send=True, least=least)

    def answer_with(self, given: Given) -> None:
        """The new descriptor is the answer. EMFILE when the program has no number left."""
        self._inject(given.file, cloexec=given.cloexec, send=True)

    def _inject(self, file: "File", *, cloexec: bool, send: bool) -> int:
        fd = self._serving.files.new_description(file)
        try:
            return self._inject_fd(fd, cloexec=cloexec, send=send)
        finally:
            os.close(fd)

    def _inject_fd(self, fd: int, *, cloexec: bool, send: bool, least: int = 0) -> int:
        serving = self._serving
        number = serving.descriptors.free(self.program, least)
        if number is None and least:  # as fcntl(2): a lower one is not what was asked for
            error = EINVAL if least >= serving.descriptors.limit else EMFILE
            raise OSError(error, os.strerror(error))
        try:
            return seccomp.add_fd(serving.listener, self.id, fd, number, cloexec=cloexec, send=send)
        except OSError as failure:
            if failure.errno != EBADF:
                raise
        # The program lowered its RLIMIT_NOFILE: a low number is better than none.
        try:
            return seccomp.add_fd(serving.listener, self.id, fd, None, cloexec=cloexec, send=send)
        except OSError as error:
            raise OSError(EMFILE, os.strerror(EMFILE)) from error

    def replace(self, number: int, file: "File") -> None:
        """Put a new description of ``file`` in the place of one of the program's descriptors."""
        serving = self._serving
        fd = serving.files.new_description(file)
        try:
            cloexec = self.program.closes_on_exec(number)
            seccomp.add_fd(serving.listener, self.id, fd, number, cloexec=cloexec, send=False)
        finally:
            os.close(fd)
            serving.descriptors.forget(number)

    def may_wait(self) -> None:
        """Say before waiting for anything but memory: from now on another thread answers the other calls."""
        self._turn.may_wait()

    @property
    def handed_over(self) -> bool:
        """Whether another thread receives now."""
        return self._turn.handed_over
