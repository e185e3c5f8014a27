"""The daemon's uevents, sent on to who listens with libudev, for as long as a program runs that wants them."""

import logging
from collections.abc import Callable, Iterable
from select import POLLIN, poll
from socket import socketpair
from threading import Event, Lock, Thread
from typing import Protocol

from mdev_user.daemon.client import Client, NoAnswer, NoDaemon
from mdev_user.daemon.views import UeventLine
from mdev_user.sysfs.present import Present
from mdev_user.sysfs.uevents import Uevent, udev_message

_log = logging.getLogger(__name__)

PAUSE = 0.2
"""Seconds until something that failed is tried again."""

END_SECONDS = 2.0
"""How long the end waits for what is being asked of a daemon that does not answer."""


class Sender(Protocol):
    """`sysfs.netlink.UdevSender`, in tests something else."""

    def send(self, message: bytes) -> None:
        """OSError when nobody got the message."""
        ...


def broadcast(client: Client, sender: Sender, until: int, ready: Callable[[], None] = lambda: None) -> None:
    """Send what happens until the file descriptor ``until`` is readable or its other end is closed.

    ``ready`` is called once, from another thread: whatever happens from then on is told. What is there already
    listeners find in sysfs. Whatever goes wrong meanwhile (this was too slow for the daemon's log; the daemon was
    started anew, or is gone; the system had no memory for a message) they are told what makes them know the daemon's
    present: removes of what went, adds of what came. MdevUserError when there is no daemon at first, it cannot be
    followed, or ``sender`` may not send.

    Call it in a process of its own that has one thread: after fork(), before any thread is started. ``sender`` must
    have been made in the network namespace of the listeners, and as somebody whom they believe: see `UdevSender`. For
    ``until`` take the program's pidfd, or the reading end of a pipe whose writing end only the program and its
    children have. Signals are left as they are: a process of the terminal's foreground group gets Ctrl-C, too. It
    should not be the program's child, which would have to wait for it.
    """
    work = _Broadcast(client, sender, ready)
    failures: list[Exception] = []
    awake, waker = socketpair()
    with awake, waker:

        def follow() -> None:
            try:
                work.run()
            except Exception as error:  # noqa: BLE001 - raised again below
                failures.append(error)
            finally:
                waker.close()

        thread = Thread(target=follow, name="broadcast", daemon=True)
        thread.start()
        waiting = poll()
        waiting.register(until, POLLIN)  # and a hang-up, which is always told
        waiting.register(awake, POLLIN)
        waiting.poll()
        work.end()
        thread.join(END_SECONDS)  # longer only where the daemon does not answer: then it ends with the process
    if failures:
        raise failures[0]


class _Broadcast:
    """What listeners were told, and where in the daemon's log that was."""

    def __init__(self, client: Client, sender: Sender, ready: Callable[[], None]) -> None:
        self._client = client
        self._sender = sender
        self._ready = ready
        self._told = Present()
        self._daemon: str | None = None
        self._number = 0
        self._ending = Event()
        self._lock = Lock()
        self._hang_up: Callable[[], None] = lambda: None

    def run(self) -> None:
        self._catch_up()
        self._ready()
        self._attempt(self._follow)
        while not self._ending.is_set():
            self._attempt(self._catch_up_and_follow)

    def _attempt(self, step: Callable[[], None]) -> None:
        """What fails is tried again after a moment."""
        try:
            step()
        except NoAnswer as error:
            _log.warning("%s", error)
        except NoDaemon as error:
            self._forget(error)
        except OSError as error:
            _log.warning("a uevent could not be sent, trying again: %s", error)
        else:
            return
        self._ending.wait(PAUSE)

    def _catch_up_and_follow(self) -> None:
        self._catch_up()
        self._follow()

    def end(self) -> None:
        with self._lock:
            self._ending.set()
            self._hang_up()

    def _catch_up(self) -> None:
        """Tell what listeners do not know of the daemon's present; at first they know all of it."""
        now = self._client.snapshot()
        present = Present()
        for line in now.uevents:
            present.apply(line.number, _uevent(line))
        if self._daemon is None:
            self._told = present
        elif self._daemon != now.daemon:  # the numbers are others: nothing is what it was
            self._tell(self._told.changes_to(Present()))
        self._daemon, self._number = now.daemon, now.number
        self._tell(self._told.changes_to(present))

    def _follow(self) -> None:
        """Until some uevents are lost. NoDaemon when the daemon goes."""
        with self._client.events(self._number, daemon=self._daemon, follow=True, attend=True) as stream:
            with self._lock:
                self._hang_up = stream.hang_up
            if self._ending.is_set():
                return
            for line in stream:
                if line.kind == "lost":
                    _log.warning("fell behind the daemon: %d uevents lost", line.count)
                    return
                if line.kind == "uevent":
                    self._send(line.number, _uevent(line), line.number)
                    self._number = line.number

    def _forget(self, error: NoDaemon) -> None:
        """The daemon is gone, and with it all that it had."""
        if self._ending.is_set():
            return
        _log.warning("%s", error)
        try:
            self._tell(self._told.changes_to(Present()))
        except OSError as failure:
            _log.warning("uevents could not be sent: %s", failure)

    def _tell(self, changes: Iterable[tuple[int, Uevent]]) -> None:
        """All with the number of the last uevent, which is never 0: libudev takes that for no number."""
        for added, uevent in changes:
            self._send(added, uevent, self._number)

    def _send(self, added: int, uevent: Uevent, number: int) -> None:
        self._sender.send(udev_message(uevent, number))
        self._told.apply(added, uevent)


def _uevent(line: UeventLine) -> Uevent:
    return Uevent(line.action, line.devpath, line.subsystem, line.properties)
