"""The loop that answers one program's system calls, by one thread at a time.

The thread that receives a call also answers it, so the next one waits: for an open that is not ours, 20 us. One that
may have to wait for a device says so (`Call.may_wait`), and another thread goes on receiving.
"""

import logging
import os
import select
import threading
from collections.abc import Callable
from errno import EIO, ENOENT
from functools import partial
from time import monotonic
from typing import NoReturn

from mdev_user.errors import MdevUserError, errno_of
from mdev_user.uapi import seccomp
from mdev_user.uapi.call import Call, Descriptors, Turn, Waiting
from mdev_user.uapi.files import File, Files
from mdev_user.uapi.program import Program
from mdev_user.uapi.receiver import Begun, receiver_of
from mdev_user.uapi.system_calls import HANDLERS

_log = logging.getLogger(__name__)

Opener = Callable[[Call, str], File | None]
"""The file that an open of an absolute path gives, not added to `Files`' care before; None when it is not ours."""


class Supervisor:
    """Serves one listener until no task has its filter any more."""

    def __init__(self, listener: int, base: int, limit: int, opener: Opener) -> None:
        """Descriptors of ours have numbers in [``base``, ``limit``)."""
        self.listener = listener
        self.files = Files()
        self.descriptors = Descriptors(self.files, base, limit, monotonic)
        self.tables = threading.RLock()
        self._opener = opener
        self._role = threading.Semaphore(0)
        self._idle = 0
        self._idle_lock = threading.Lock()
        self._failed = os.eventfd(0, os.EFD_CLOEXEC)
        """Readable when a thread of ours has failed: why is `_failure`."""
        self._failure: BaseException | None = None
        self._watched: dict[int, Callable[[Waiting], None]] = {}
        self._ends: dict[int, Callable[[], None]] = {}
        self._poll = select.epoll()
        self._messages = select.epoll()
        self._receiver = self.descriptors.receiver = receiver_of(listener, self._messages.fileno())

    # --- the loop

    def serve(self) -> None:
        """Return when no task is left that has the filter, whatever other threads of ours still wait for.

        Raises what one of them failed with: the program's calls would wait for ever.

        What the tasks had open is not released one by one, which may take as long as a server likes: the process is to
        end now, and with it its connections do.
        """
        seccomp.wake_synchronously(self.listener)
        self._poll.register(self.files.inotify, select.EPOLLIN)
        self._poll.register(self.files.alarm, select.EPOLLIN)
        self._start(self._receive)
        self._start(self._keep_house)
        end = select.poll()
        end.register(self.listener, 0)  # POLLHUP alone
        end.register(self._failed, select.POLLIN)
        end.poll()
        if self._failure is not None:
            raise self._failure

    def _start(self, work: Callable[[], NoReturn]) -> None:
        threading.Thread(target=self._work, args=(work,), daemon=True).start()

    def _work(self, work: Callable[[], NoReturn]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - `serve` raises it
            self._failure = error
            os.eventfd_write(self._failed, 1)

    def _keep_house(self) -> NoReturn:
        """Wait for what comes by itself: something was closed, a device's message, or its server's end."""
        while True:
            for fd, events in self._poll.poll():
                self._look_after(fd, events)

    def _look_after(self, fd: int, events: int) -> None:
        if fd in {self.files.inotify, self.files.alarm}:
            with self.tables:
                self.files.settle()
        elif events & select.EPOLLIN and (wanted := self._watched.get(fd)) is not None:
            _unharmed(partial(wanted, Turn(_nobody_waits)))
        elif (ended := self._ends.get(fd)) is not None:
            _unharmed(ended)

    def watch_end(self, fd: int, ended: Callable[[], None]) -> None:
        """Call ``ended``, in a thread of the supervisor's, when the peer of the socket ``fd`` is gone."""
        self._ends[fd] = ended
        self._poll.register(fd, 0)

    def unwatch_end(self, fd: int) -> None:
        """Before ``fd`` is closed."""
        del self._ends[fd]
        self._poll.unregister(fd)

    def watch(self, fd: int, ready: Callable[[Waiting], None]) -> None:
        """Call ``ready``, in a thread of the supervisor's, as long as ``fd`` is readable."""
        self._watched[fd] = ready
        self._watchers.register(fd, select.EPOLLIN)

    @property
    def _watchers(self) -> select.epoll:
        """What waits for a device's messages: best the thread that receives, since it waits for replies too."""
        return self._messages if self._receiver.native else self._poll

    def unwatch(self, fd: int) -> None:
        """Before ``fd`` is closed."""
        del self._watched[fd]
        self._watchers.unregister(fd)

    # --- who receives

    def hand_over(self) -> None:
        """The thread that calls this does not receive any more."""
        with self._idle_lock:
            waiting = self._idle > 0
            if waiting:
                self._idle -= 1
        if waiting:
            self._role.release()
        else:
            self._start(self._receive)

    def _receive(self) -> NoReturn:
        while True:
            while self._answer_next():
                pass
            with self._idle_lock:
                self._idle += 1
            self._role.acquire()

    def _answer_next(self) -> bool:
        """Whether this thread is to receive the next call too."""
        found = self._receiver.receive()
        if isinstance(found, bool):
            return found and self._serve_messages()
        begun = found if isinstance(found, Begun) else None
        notification = found.notification if isinstance(found, Begun) else found
        call = Call(self, notification, Program(notification.tid))
        try:
            self._answer(call, begun)
        except OSError as error:
            if error.errno != ENOENT:  # the caller was killed
                _log.exception("system call %d of thread %d has no answer", call.number, call.tid)
        return not call.handed_over

    def _serve_messages(self) -> bool:
        turn = Turn(self.hand_over)
        for fd, _events in self._messages.poll(0):
            if (wanted := self._watched.get(fd)) is not None:
                _unharmed(partial(wanted, turn))
        return not turn.handed_over

    def _answer(self, call: Call, begun: Begun | None) -> None:
        try:
            answer = HANDLERS[call.number](call) if begun is None else begun.file.finish(call, begun)
        except (OSError, MdevUserError) as error:
            seccomp.respond(self.listener, call.id, 0, errno_of(error))
        except Exception:  # noqa: BLE001 - the program must not hang, whatever it is
            seccomp.respond(self.listener, call.id, 0, EIO)
            _log.exception("system call %d (%s) of thread %d", call.number, _hex(call.args), call.tid)
        else:
            if answer is None:
                seccomp.go_on(self.listener, call.id)
            elif isinstance(answer, int):
                seccomp.respond(self.listener, call.id, answer)

    # --- what calls need

    def open_node(self, call: Call, path: str) -> File | None:
        """What an open of this absolute path gives; None when it is not ours."""
        self.files.settle()
        return self._opener(call, path)


def _nobody_waits() -> None:
    """The thread that keeps house does not receive."""


def _unharmed(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:  # noqa: BLE001 - as above
        _log.exception("a device's message")


def _hex(args: tuple[int, ...]) -> str:
    return ", ".join(f"{each:#x}" for each in args)


def end_process() -> NoReturn:
    """Threads of ours may wait for ever for a call or a device."""
    os._exit(0)
