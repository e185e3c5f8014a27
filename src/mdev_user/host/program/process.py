"""One process of an mdev's own, from its start to its end: a thread waits for what it says, and believes nothing.

Calls go to it from whoever makes them. As many as `MOST_SENT` are on their way at once; what is to be unmapped goes
before those that are not.
"""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count, islice
from threading import Event, Lock, Thread
from time import clock_gettime, monotonic
from typing import Protocol

from mdev_user.errors import DmaFault, GuestError, PeerError, ProcessEnded
from mdev_user.host import PYTHON
from mdev_user.host.program.groups import Group, host_groups
from mdev_user.host.program.mappings import ToldMappings
from mdev_user.host.program.output import Output
from mdev_user.host.program.unmapping import Unmapping
from mdev_user.host.program.wire import LONGEST_REASON, Ask, Incoming, Tell, ask, message
from mdev_user.vfio.dma import Mapping as DmaMapping
from mdev_user.vfio.programs import Done, Launch, Timed
from mdev_user.vfio.work import Answer

MOST_SENT = 16
"""Calls that were sent and of which nothing was heard yet."""
START_SECONDS = 30.0
"""Until the program is made in its process."""
_PROGRAM = "mdev_user.host.program"
_ROOM = 64 << 10

_log = logging.getLogger(__name__)


class Pace(Protocol):
    """When a process may be started."""

    def take(self) -> float:
        """Seconds until then."""

    def give_back(self) -> None:
        """It was not started."""


@dataclass(slots=True, eq=False)
class Call:
    """One call, from when it is made to its answer."""

    method: str
    request: bytes
    done: Done
    wanted: Callable[[], bool]
    seconds: float = 0.0
    processor: float = 0.0
    since: float = 0.0
    """When it was performed, of one that is answered later."""


class ProgramProcess:
    """A process, its socket, and the thread that starts it, hears it, and ends with it.

    The kernel kills it when this thread ends, too.
    """

    def __init__(  # noqa: PLR0915 - one line for each thing that it has
        self,
        launch: Launch,
        owner: str,
        start: bytes,
        buffer: int,
        died: "Callable[[ProgramProcess, ProcessEnded, int], None]",
    ) -> None:
        """``start`` is its `start_message`. Owns ``buffer``, a file descriptor or -1, from here on.

        ``died`` is called in the thread of this; how many calls are told, too. OSError without a file descriptor left.
        """
        with ExitStack() as opened:
            if buffer >= 0:
                opened.callback(os.close, buffer)
            self._socket, self._theirs = (opened.enter_context(each) for each in socket.socketpair())
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            opened.callback(os.close, self._wake)
            self._output = Output(owner, launch.name)
            opened.pop_all()
        self._socket.settimeout(0)
        self._thread = Thread(target=self._run, name=owner, daemon=True)  # it logs for its mdev
        self._owner = owner
        self.waiting_bytes = 0
        self._launch, self._died = launch, died
        self._lock = Lock()
        self._poll = select.poll()
        self._incoming = Incoming(max(launch.largest, LONGEST_REASON))
        self._process: subprocess.Popen[bytes] | None = None
        self._group: Group | None = None
        self._clock = 0
        self._outgoing: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._waiting: deque[Call] = deque()
        self._sent: dict[int, Call] = {}
        self._pending: dict[int, Call] = {}
        self._unmapping: dict[int, Event] = {}
        self._numbers = count(1)
        self._since = 0.0
        """When the process began with the first of those that were sent."""
        self._used = 0.0
        """Processor time."""
        self._mappings = ToldMappings()
        self._begun = 0.0
        self._pace: Pace
        self._started = False
        self._reason = self._fault = ""
        self._gone = Event()
        self._error: ProcessEnded
        self._buffer = buffer
        self._send(start, (buffer,) if buffer >= 0 else ())

    # --- under the step lock --------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        return self._gone.is_set()

    is_gone = has_ended

    def begin(self, pace: Pace) -> None:
        """Start it, when it is its turn."""
        self._pace = pace
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads
            self._close(str(error))

    def call(self, call: Call) -> None:
        with self._lock:
            if not self._gone.is_set():
                self.waiting_bytes += len(call.request)
                self._waiting.append(call)
                self._send_calls()
                return
        call.done(self._error)

    def end(self, reason: str) -> None:
        """Never blocks; whoever waits is told when the process is gone."""
        with self._lock:
            self._reason = self._reason or reason
            self._kill()

    def wait_until_gone(self, until: float) -> None:
        """By ``monotonic``. Killed it is already."""
        if not self._gone.wait(max(0.0, until - monotonic())):
            _log.error(
                "%s: its process does not die and has guest memory that is not the guest's any more", self._owner
            )

    def map(self, mappings: Iterable[DmaMapping]) -> None:
        """Let it map this memory, as far as it lies in files."""
        with self._lock:
            if not self._gone.is_set():
                self._send_all(self._mappings.map(mappings))
                self._allow_mapped()

    def begin_unmap(self, mappings: Sequence[DmaMapping]) -> Unmapping | None:
        """Ask it to let go of them. None when it has nothing of them."""
        with self._lock:
            ranges = self._mappings.known(mappings)
            if not ranges or self._gone.is_set():
                return None
            number = next(self._numbers)
            self._unmapping[number] = event = Event()
            self._send(ask(Ask.UNMAP, number, ranges))
        return Unmapping(self, ranges, event)

    def let_go(self, ranges: Sequence[tuple[int, int]]) -> None:
        """It has let go of them, or is gone."""
        with self._lock:
            self._send_all(self._mappings.unmap(ranges))

    def end_for(self, fault: str) -> None:
        """End it for what it did itself, so that its driver is told."""
        with self._lock:
            self._fault = self._fault or fault
            self._kill()

    # --- with the lock --------------------------------------------------------------------------------------

    def _allow_mapped(self) -> None:
        """Guest memory counts for whoever touches it first."""
        if self._group is not None:
            self._group.allow(self._launch.buffer + self._mappings.size)

    def _send_calls(self) -> None:
        while self._waiting and len(self._sent) < MOST_SENT:
            call = self._waiting.popleft()
            if call.wanted():
                if not self._sent:
                    self._since = monotonic()
                number = next(self._numbers) & 0xFFFF_FFFF
                self._sent[number] = call
                self._send(message(Ask.CALL, number, call.request))
            self.waiting_bytes -= len(call.request)
            call.request = b""

    def _send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        waited = bool(self._outgoing)
        self._outgoing.append((data, fds))
        if not waited:
            self._flush()
            if self._outgoing:
                self._wake_up()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                data, fds = self._outgoing[0]
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
                sent = self._socket.sendmsg([data], rights)
                if sent == len(data):
                    self._outgoing.popleft()
                else:
                    self._outgoing[0] = data[sent:], ()
        except BlockingIOError:
            pass
        except OSError:  # it is gone, as the thread will see
            self._outgoing.clear()

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._wake_up()

    def _wake_up(self) -> None:
        if not self._gone.is_set():
            os.eventfd_write(self._wake, 1)

    def _send_all(self, messages: Iterable[tuple[bytes, tuple[int, ...]]]) -> None:
        for each in messages:
            self._send(*each)

    # --- in the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        fault = ""
        try:
            if self._wait_for_turn():
                self._launch_process()
                self._serve()
        except (PeerError, OSError) as error:
            fault = str(error)
        except Exception as error:  # noqa: BLE001 - our own bug: it must not keep the jobs waiting
            _log.exception("%s: %s", self._owner, self._launch.name)
            fault = repr(error)
        finally:
            self._close(fault)

    def _wait_for_turn(self) -> bool:
        """False when it was ended before it began."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        end = monotonic() + self._pace.take()
        while not (self._reason or self._fault) and (left := end - monotonic()) > 0:
            poll.poll(left * 1000)
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        if self._reason or self._fault:
            self._pace.give_back()
            return False
        return True

    def _launch_process(self) -> None:
        groups = host_groups()
        group = None if groups is None else groups.create(self._launch.memory, self._launch.nice)
        with self._lock:
            self._group = group
            self._allow_mapped()
        place = [] if group is None else [str(group.folder)]
        command = [*PYTHON, _PROGRAM, str(self._theirs.fileno()), str(os.getpid()), *place]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONUNBUFFERED": "1",
        }
        writer = self._output.writer()
        try:
            process = subprocess.Popen(
                command,
                pass_fds=(self._theirs.fileno(),),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                start_new_session=True,
            )
        finally:
            os.close(writer)
            self._theirs.close()
        with self._lock:
            self._process, self._begun = process, monotonic()
            self._clock = ~process.pid << 3 | 2  # of all its threads (include/linux/posix-timers.h)
            if self._reason or self._fault:
                self._kill()

    def _serve(self) -> None:
        """Until it is gone, or has said something that it must not."""
        assert self._process is not None  # noqa: S101 - it was just started
        pidfd = os.pidfd_open(self._process.pid)
        try:
            for fd in (self._wake, pidfd):
                self._poll.register(fd, select.POLLIN)
            while self._wait(pidfd):
                self._check_time()
        finally:
            os.close(pidfd)

    def _wait(self, pidfd: int) -> bool:
        number = self._socket.fileno()
        self._poll.register(number, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        self._output.watch(self._poll)
        for fd, events in self._poll.poll(self._patience() * 1000):
            if fd == number and events & select.POLLOUT:
                with self._lock:
                    self._flush()
            if fd == number and events & ~select.POLLOUT and not self._receive():
                return False
            if fd == self._output.fd:
                self._output.read(self._poll)
            elif fd == self._wake:
                os.eventfd_read(fd)
            elif fd == pidfd:
                while self._receive():
                    pass
                return False
        return True

    def _patience(self) -> float:
        """Seconds after which somebody may have waited for too long; a call that comes meanwhile cannot be earlier."""
        usual = min(self._launch.seconds, self._launch.pending_seconds, self._output.patience)
        return max(0.0, min([usual, *(each for each, _who in self._left())]))

    def _left(self) -> list[tuple[float, str]]:
        """Seconds that somebody still has, and who."""
        now, left = monotonic(), list[tuple[float, str]]()
        with self._lock:
            if not self._started:
                return [(self._begun + START_SECONDS - now, "the making of its program")]
            for call in islice(self._sent.values(), 1):
                left.append((self._since + self._launch.seconds - now, call.method))
            for call in islice(self._pending.values(), 1):
                left.append((call.since + self._launch.pending_seconds - now, call.method))
        return left

    def _check_time(self) -> None:
        for left, who in self._left():
            if left <= 0:
                raise PeerError(f"{who} takes too long")

    def _receive(self) -> bool:
        """Some of what it says. False when there is nothing, or nothing more ever."""
        try:
            data = self._socket.recv(_ROOM)
        except (BlockingIOError, ConnectionError):
            return False
        for kind, number, payload in self._incoming.take(data):
            self._heard(kind, number, payload)
        return bool(data)

    def _heard(self, kind: int, number: int, payload: bytes) -> None:
        if kind == Tell.DONE:
            call = self._answered(number)
            call.done(self._decoded(call, payload))
        elif kind in {Tell.GUEST_ERROR, Tell.DMA_FAULT}:
            error = DmaFault if kind == Tell.DMA_FAULT else GuestError
            self._answered(number).done(error(_text(payload)))
        elif kind == Tell.PENDING:
            self._performed(number)
        elif kind == Tell.UNMAPPED and number in self._unmapping:
            self._unmapping.pop(number).set()
        elif kind == Tell.STARTED and not self._started:
            self._has_started(payload)
        elif kind == Tell.FAILED:
            raise PeerError(_text(payload))
        else:
            raise PeerError(f"it said something that nobody asked for: {kind}, {number}")

    def _has_started(self, payload: bytes) -> None:
        if payload:
            _log.warning("%s: %s: %s", self._owner, self._launch.name, _text(payload))
        with self._lock:
            self._started, self._since = True, monotonic()

    def _answered(self, number: int) -> Call:
        with self._lock:
            call = self._pending.pop(number, None)
        return self._first(number) if call is None else call

    def _performed(self, number: int) -> None:
        call = self._first(number)
        with self._lock:
            call.since = monotonic()
            self._pending[number] = call

    def _first(self, number: int) -> Call:
        """The one that it must have performed: calls are performed in order."""
        now, used = monotonic(), self._processor()
        with self._lock:
            if not self._started or next(iter(self._sent), None) != number:
                raise PeerError(f"it answered {number}, which is not its turn")
            call = self._sent.pop(number)
            call.seconds, call.processor = now - self._since, used - self._used
            self._since, self._used = now, used
            self._send_calls()
        return call

    def _processor(self) -> float:
        """Seconds of processor time that all its threads have used."""
        try:
            return clock_gettime(self._clock)
        except OSError:  # it has just ended
            return self._used

    def _decoded(self, call: Call, payload: bytes) -> Answer | Exception:
        try:
            value = self._launch.answers[call.method](payload)
        except Exception as error:
            self._pending[0] = call  # it is told with the others
            raise PeerError(f"the answer of {call.method} is not what it says: {error}") from error
        return Answer(Timed(value, call.seconds, call.processor))

    def _close(self, fault: str) -> None:
        """Nothing stays open and whoever waits is told, whatever else goes wrong."""
        status = ""
        try:
            status = self._reap()
            self._output.drain()
        finally:
            reason = self._reason or self._fault or fault or status
            error = ProcessEnded(f"{self._launch.name}: {reason}")
            waiting = self._forget(error)
            with ExitStack() as told:
                for call in reversed(waiting):
                    told.callback(call.done, error)
                if not self._reason:
                    _log.warning("%s: the process %s ended: %s", self._owner, self._launch.name, reason)
                    self._died(self, error, len(waiting))

    def _forget(self, error: ProcessEnded) -> list[Call]:
        """From now on it is gone. Returns those that wait."""
        with self._lock:
            self._error = error
            self._gone.set()
            waiting = [*self._sent.values(), *self._pending.values(), *self._waiting]
            self._sent.clear()
            self._pending.clear()
            self._waiting.clear()
            self._outgoing.clear()
            for event in self._unmapping.values():
                event.set()
            for fd in {self._wake, self._buffer} - {-1}:
                os.close(fd)
        self._socket.close()
        self._theirs.close()
        self._output.close()
        return waiting

    def _reap(self) -> str:
        with self._lock:
            self._kill()
        group, self._group = self._group, None
        with ExitStack() as left:
            if group is not None:
                left.callback(group.remove)
            status = self._waited()
            return f"{status}: it had no more memory" if group is not None and group.is_exhausted else status

    def _waited(self) -> str:
        if self._process is None:
            return "it was not started"
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:  # or `_kill` could meet the next process of this number
            code = self._process.wait()
        return f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with status {code}"


def _text(payload: bytes) -> str:
    """What it says, to be shown to an operator."""
    text = payload[:LONGEST_REASON].decode(errors="replace")
    return "".join(each if each.isprintable() else "?" for each in text)
