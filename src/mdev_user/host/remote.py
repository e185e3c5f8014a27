"""A host as the front sees it: a process, calls into it, and parents whose operations are such calls."""

import errno
import logging
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Protocol
from uuid import UUID

import msgspec
from typing_extensions import override

from mdev_user.errors import InvalidValue, NoDevice, error_from
from mdev_user.host import PYTHON
from mdev_user.host.purpose import Purpose
from mdev_user.host.wire import (
    LARGEST,
    Answer,
    BeginMove,
    BeginTrace,
    Call,
    CopiedPicture,
    CopyPicture,
    Create,
    Disconnect,
    EndTrace,
    GetAvailable,
    HandOver,
    Inspect,
    Inspection,
    Lend,
    ListUnmodelled,
    ListValues,
    Load,
    Packet,
    ParentDescription,
    Probe,
    ReadTrace,
    Reload,
    Remove,
    Show,
    ShowParent,
    Store,
    StoreParent,
    TraceLines,
    Unload,
    UnmodelledAnswer,
    Unprobe,
    Value,
    Values,
)
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.ops import LifecycleOps
from mdev_user.mdev.types import MdevAttribute, MdevType
from mdev_user.vfio.inspection import TraceLine, Unmodelled

_log = logging.getLogger(__name__)

# The kernel kills a host when the thread that started it ends (prctl PR_SET_PDEATHSIG), so that is one that stays.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="spawner")

_FAREWELL = 4.0
"""Seconds that a host has to end by itself; then it is killed."""
_PROMPT = 3.0
"""Seconds for an answer that needs no waiting for anybody; a host without one is stuck, and told as such."""

_TRACE_SECONDS = 1.0
_readers = count(1)
_files = count(1)


class Host(Protocol):
    """Where parents live, as the front sees it."""

    name: str
    pid: int

    @property
    def gone(self) -> str:
        """Why the host has ended; empty while it is there."""
        ...

    def ask(self, call: Call) -> Value:
        """Like `call`, for what is answered at once: ETIMEDOUT when it is not, and again at once while it is stuck."""
        ...

    def ask_for_all(self, call: Call) -> list[Value]:
        """`ask` for what is answered in several packets, each of which comes at once."""
        ...

    def call(self, call: Call) -> Value:
        """Have the host do it, and wait. What it raised is raised here; ENODEV when the host is or dies meanwhile."""
        ...

    def ask_with(self, fd: int, call: Call) -> Value:
        """`ask` with a file descriptor that travels along, and stays the caller's."""
        ...

    def lend(self, uuid: UUID, listener: socket.socket) -> None:
        """Let the mdev of this UUID be reached at ``listener``, too, when it is probed next. Errors as of `call`."""
        ...

    def stop(self) -> None:
        """Have it end, and wait until it has."""
        ...


Ended = Callable[[Host, str], None]
StartHost = Callable[[str, Path, Ended], Host]
"""Makes the host of this name, whose mdevs have their sockets below the folder; errors as of `RemoteHost`."""


class RemoteHost:
    """One host process. ``ended`` is called once, from a thread of its own, with the reason it is gone."""

    def __init__(self, name: str, devices: Path, ended: Ended) -> None:
        self.name = name
        self._ended = ended
        self._stopping = False
        self._numbers = count(1)
        self._lock = Lock()
        self._pending: dict[int, SimpleQueue[Answer | None]] = {}
        self._gone = ""
        self._heard, self._given_up = 0, -1
        """How many answers there were so far, and when somebody began to wait for one who had none in time."""
        self._encoder = msgspec.msgpack.Encoder()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
        command = [*PYTHON, "mdev_user.host", str(theirs.fileno()), str(devices), level]
        with theirs:
            self._process = _spawner.submit(_spawn, command, theirs.fileno()).result()
        self.pid = self._process.pid
        self._reader = Thread(target=self._read, name=f"host {name}", daemon=True)
        self._reader.start()

    def ask(self, call: Call) -> Value:
        return self.ask_for_all(call)[0]

    def ask_for_all(self, call: Call) -> list[Value]:
        return self._prompt_answers(call)

    def ask_with(self, fd: int, call: Call) -> Value:
        return self._prompt_answers(call, [fd])[0]

    def call(self, call: Call) -> Value:
        return self._answers(call, None)[0]

    def lend(self, uuid: UUID, listener: socket.socket) -> None:
        self._answers(Lend(uuid), None, [listener.fileno()])

    def _prompt_answers(self, call: Call, fds: Sequence[int] = ()) -> list[Value]:
        if self._given_up == self._heard:  # nothing was heard since then
            raise self._timeout(call)
        return self._answers(call, _PROMPT, fds)

    def _answers(self, call: Call, seconds: float | None, fds: Sequence[int] = ()) -> list[Value]:
        """The value of each packet; ``seconds`` to wait for each. ``fds`` travel along and stay ours."""
        answers: SimpleQueue[Answer | None] = SimpleQueue()
        number, heard = next(self._numbers), self._heard
        data = self._encoder.encode(Packet(number, call))
        if len(data) > LARGEST:
            raise InvalidValue(f"{type(call).__name__} of {len(data)} bytes: expected at most {LARGEST}")
        with self._lock:
            if self._gone:
                raise NoDevice(f"host {self.name} is gone: {self._gone}")
            self._pending[number] = answers
        try:
            socket.send_fds(self._channel, [data], fds)
            received = [answers.get(timeout=seconds)]
            while (last := received[-1]) is not None and last.more:
                received.append(answers.get(timeout=seconds))
        except OSError:
            received = [None]
        except Empty:
            self._given_up = heard
            raise self._timeout(call) from None
        finally:
            self._pending.pop(number, None)
        return [self._value(each) for each in received]

    @property
    def gone(self) -> str:
        return self._gone

    def stop(self) -> None:
        self._stopping = True
        with suppress(OSError):  # it has ended by itself
            self._channel.shutdown(socket.SHUT_WR)
        self._reader.join(_FAREWELL)
        if self._reader.is_alive():  # it does not even listen
            self._process.kill()
            self._reader.join()

    def _value(self, answer: Answer | None) -> Value:
        if answer is None:
            raise NoDevice(f"host {self.name} is gone: {self._gone or 'it closed its channel'}")
        if answer.errno:
            raise error_from(answer.errno, answer.message)
        return answer.value

    def _read(self) -> None:
        decoder = msgspec.msgpack.Decoder(Answer)
        while data := self._receive():
            answer = decoder.decode(data)
            self._heard += 1
            answers = self._pending.get(answer.number)
            if answers is not None:
                answers.put(answer)
        reason = _how_it_ended(self._wait())
        with self._lock:
            self._gone = reason
            pending = list(self._pending.values())
        for answers in pending:
            answers.put(None)
        self._channel.close()
        if not self._stopping:
            self._ended(self, reason)

    def _timeout(self, call: Call) -> TimeoutError:
        text = f"host {self.name} (pid {self.pid}) does not answer {type(call).__name__}: its driver is stuck"
        return TimeoutError(errno.ETIMEDOUT, text)

    def _wait(self) -> int:
        """A host whose end of the channel is closed has no way back."""
        try:
            return self._process.wait(_FAREWELL)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _receive(self) -> bytes:
        try:
            return self._channel.recv(LARGEST)
        except OSError:
            return b""


class RemoteParent(LifecycleOps):
    """The operations of a parent that lives in a host."""

    def __init__(self, host: Host, load: Load) -> None:
        """Loads the driver there; raises what it raised."""
        description = host.call(load)
        if not isinstance(description, ParentDescription):
            raise NoDevice(f"host {host.name} answered {description!r}")
        self.host = host
        self.name = load.name
        self.driver_name = description.driver_name
        self.mdev_types = description.types
        self.max_instances = description.max_instances
        self.attributes = description.attributes
        self.parent_attributes = description.parent_attributes
        self.identity = description.identity

    @override
    def create(self, mdev: Mdev) -> object:
        self.host.call(Create(self.name, mdev.type_id, mdev.uuid))
        return self

    @override
    def remove(self, mdev: Mdev) -> None:
        with suppress(NoDevice):  # what a host held is gone with it
            self.host.call(Remove(mdev.uuid))

    @override
    def get_available(self, mdev_type: MdevType) -> int:
        available = self.host.ask(GetAvailable(self.name, f"{self.driver_name}-{mdev_type.name}"))
        return available if isinstance(available, int) else 0

    @override
    def show(self, mdev: Mdev, attribute: MdevAttribute) -> str:
        return str(self.host.call(Show(mdev.uuid, attribute)))

    @override
    def store(self, mdev: Mdev, attribute: MdevAttribute, data: bytes) -> None:
        self.host.call(Store(mdev.uuid, attribute, data))

    @override
    def show_parent(self, attribute: MdevAttribute) -> str:
        return str(self.host.call(ShowParent(self.name, attribute)))

    @override
    def store_parent(self, attribute: MdevAttribute, data: bytes) -> None:
        self.host.call(StoreParent(self.name, attribute, data))

    def reload(self) -> str:
        """Have the host load the driver's file again. Returns a line for each mdev whose state was lost."""
        return str(self.host.call(Reload(self.name)))

    def unload(self) -> None:
        self.host.call(Unload(self.name))

    def inspect(self, uuid: UUID) -> Inspection | None:
        """How an mdev is used; None where it has no VFIO device. ETIMEDOUT when the host is stuck."""
        inspection = self.host.ask(Inspect(uuid))
        return inspection if isinstance(inspection, Inspection) else None

    def disconnect(self, uuid: UUID) -> None:
        self.host.call(Disconnect(uuid))

    def begin_move(self, uuid: UUID, purpose: Purpose) -> str:
        """Make a socket for one mover. EBUSY for what the mdev's use does not allow, ENODEV for no state to save."""
        return str(self.host.call(BeginMove(uuid, purpose)))

    def hand_over(self, uuid: UUID, place: str) -> None:
        """End all use of an mdev whose state is at home in ``place``. EBUSY unless its mover has it stopped."""
        self.host.call(HandOver(uuid, place))

    def values(self, uuid: UUID) -> Values:
        """The named values of an mdev. EBUSY when its driver is stuck, EINVAL when it names nothing."""
        pages = [each for each in self.host.ask_for_all(ListValues(uuid)) if isinstance(each, Values)]
        return Values(any(page.opened for page in pages), [value for page in pages for value in page.values])

    def unmodelled(self, uuid: UUID) -> Unmodelled:
        """What the mdev's user accessed and nobody declared. Errors as of `values`."""
        answer = self.host.ask(ListUnmodelled(uuid))
        if not isinstance(answer, UnmodelledAnswer):
            raise NoDevice(f"host {self.host.name} answered {answer!r}")
        return answer.unmodelled

    def copy_picture(self, uuid: UUID, head: int, fd: int) -> CopiedPicture:
        """Copy what is on a head of an mdev into the file ``fd``. EBUSY when its driver is stuck; see `Pictures`."""
        answer = self.host.ask_with(fd, CopyPicture(uuid, head, next(_files)))
        if not isinstance(answer, CopiedPicture):
            raise NoDevice(f"host {self.host.name} answered {answer!r}")
        return answer

    def trace(self, uuid: UUID) -> "RemoteTrace":
        """Begin to trace an mdev. EBUSY when its driver is stuck, or too many trace it."""
        return RemoteTrace(self.host, uuid)


class RemoteTrace:
    """One reader of an mdev's trace."""

    def __init__(self, host: Host, uuid: UUID) -> None:
        self._host, self._uuid, self._reader = host, uuid, next(_readers)
        host.ask(BeginTrace(uuid, self._reader))

    def read(self) -> list[TraceLine]:
        """Lines as soon as there are some; none after a second without. ENODEV when the mdev or its host is gone."""
        answer = self._host.ask(ReadTrace(self._uuid, self._reader, _TRACE_SECONDS))
        return answer.lines if isinstance(answer, TraceLines) else []

    def close(self) -> None:
        """Nobody reads it any more."""
        with suppress(NoDevice, TimeoutError):  # who reads too seldom is forgotten anyway
            self._host.ask(EndTrace(self._uuid, self._reader))


class RemoteVfioMdev:
    """The bus driver ``vfio_mdev`` for the front: probes each mdev in the host of its parent."""

    name = "vfio_mdev"

    def __init__(self, left: Callable[[UUID], None], lent: Mapping[UUID, socket.socket] | None = None) -> None:
        """``left`` is called for an mdev whose host died, which may have left its socket behind.

        ``lent`` are listening sockets at which the mdevs of these UUIDs are to be reached, too, while they are there.
        """
        self._left = left
        self._lent = lent or {}

    def probe(self, mdev: Mdev) -> None:
        host = _host_of(mdev)
        try:
            if (listener := self._lent.get(mdev.uuid)) is not None:
                host.lend(mdev.uuid, listener)
            host.call(Probe(mdev.uuid))
        except NoDevice:
            self._left(mdev.uuid)
            raise

    def remove(self, mdev: Mdev) -> None:
        try:
            _host_of(mdev).call(Unprobe(mdev.uuid))
        except NoDevice:
            self._left(mdev.uuid)


def _host_of(mdev: Mdev) -> Host:
    ops = mdev.parent.ops
    if not isinstance(ops, RemoteParent):
        raise NoDevice(f"parent {mdev.parent.name} does not live in a host")
    return ops.host


def _spawn(command: list[str], channel: int) -> subprocess.Popen[bytes]:
    # A Ctrl-C that comes before the host can ignore it would end it with a traceback.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    return subprocess.Popen(command, pass_fds=[channel], stdin=subprocess.DEVNULL)


def _how_it_ended(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
