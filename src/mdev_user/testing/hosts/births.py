"""Hosts for this process: its zygote, started with the first one, and each host as the process sees it."""

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Lock
from time import monotonic, sleep
from weakref import WeakSet

import msgspec

from mdev_user.errors import MountError
from mdev_user.host import PYTHON
from mdev_user.testing.hosts.wire import LARGEST, Answer, Birth, Born, Done, Failed, Request

_READY_SECONDS = 60.0
"""For the first host, on a busy machine: a new interpreter imports everything."""
_ANSWER_SECONDS = 60.0
_END_SECONDS = 15.0
_TICK = 0.005
_ERRORS: dict[str, type[Exception]] = {"ValueError": ValueError, "MountError": MountError}

_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


class HostFailed(Exception):
    """A host did not come up, ended by itself, or did not do what was asked; the message has its log."""


class _Zygote:
    """The process from which this one's hosts are forked."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._drivers: set[str] = set()
        self._log = os.memfd_create("log")
        path = os.pathsep.join(filter(None, sys.path))
        with theirs:
            self._process = subprocess.Popen(
                [*PYTHON, "mdev_user.testing.hosts.zygote", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": path},
            )

    def used(self, driver: str) -> None:
        """A host has loaded this driver; the next ones probably will."""
        self._drivers.add(driver)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """Why it has ended."""
        return _text(self._log)

    def bear(self, fds: list[int]) -> None:
        """OSError when it has ended."""
        socket.send_fds(self._socket, [f" {' '.join(sorted(self._drivers))}".encode()], fds)

    def stop(self) -> None:
        """Its hosts end with their own channels."""
        self._socket.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._log)


_zygotes: dict[int, _Zygote] = {}
"""By the process it is for: one that was forked from this has no use for ours."""
_hosts: "WeakSet[HostProcess]" = WeakSet()
_lock = Lock()


def _zygote() -> _Zygote:
    pid = os.getpid()
    known = _zygotes.get(pid)
    if known is not None and known.alive:
        return known
    if known is None:
        atexit.register(_stop)
    else:
        known.stop()
    _zygotes[pid] = _Zygote()
    return _zygotes[pid]


def _stop() -> None:
    zygote = _zygotes.pop(os.getpid(), None)
    if zygote is not None:
        for host in list(_hosts):
            host.close()
        zygote.stop()


def _bear(channel: socket.socket, log: int) -> _Zygote:
    path = [os.fsencode(os.path.abspath(each)) for each in sys.path]  # noqa: PTH100 - links stay
    asked = Birth(os.getpid(), path, dict(os.environb))
    birth = os.memfd_create("birth")
    try:
        os.write(birth, msgspec.msgpack.encode(asked))
        os.lseek(birth, 0, os.SEEK_SET)
        with _lock:
            zygote = _zygote()
            try:
                zygote.bear([channel.fileno(), birth, log])
            except OSError:  # it was killed a moment ago
                _zygotes.pop(os.getpid()).stop()
                zygote = _zygote()
                zygote.bear([channel.fileno(), birth, log])
            return zygote
    finally:
        os.close(birth)


class HostProcess:
    """One host's process. Methods may be called from any thread."""

    def __init__(self) -> None:
        """MountError where the tree cannot be mounted, HostFailed for whatever else goes wrong."""
        self._lock = Lock()
        log = os.memfd_create("log")
        self._log: int | None = log
        self._last_log = ""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(_READY_SECONDS)
        self._closed = False
        self._owner = os.getpid()
        try:
            with theirs:
                zygote = _bear(theirs, log)
            born = self._born(zygote)
        except BaseException:
            self._channel.close()
            self._close_log()
            raise
        self.folder = Path(born.folder)
        self.pid = born.pid
        self.number = born.number
        """Of the last uevent when it was ready."""
        self._pidfd = os.pidfd_open(born.pid)
        self._channel.settimeout(_ANSWER_SECONDS)
        _hosts.add(self)

    @property
    def log(self) -> str:
        """What the host logged so far."""
        return self._last_log if self._log is None else _text(self._log)

    def ask(self, request: Request) -> Done:
        """ValueError for what cannot be done, HostFailed when the host is gone."""
        with self._lock:
            answer = self._exchanged(request)
        if isinstance(answer, Failed):
            raise self._error(answer)
        assert isinstance(answer, Done)  # noqa: S101 - of our own process
        return answer

    def used(self, driver: str) -> None:
        """It has loaded this installed driver."""
        with _lock:
            _zygote().used(driver)

    def close(self) -> None:
        """Return when the process, the mount and the folder are gone. In a fork of its owner: only forget it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if os.getpid() == self._owner:
                with suppress(OSError):
                    self._channel.shutdown(socket.SHUT_WR)
            self._channel.close()
        try:
            if os.getpid() == self._owner:
                self._wait_until_gone()
        finally:
            os.close(self._pidfd)
            self._close_log()

    def _close_log(self) -> None:
        if self._log is not None:
            self._last_log = self.log
            os.close(self._log)
            self._log = None

    def _wait_until_gone(self) -> None:
        for number in (0, signal.SIGKILL):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            if self._is_gone_within(_END_SECONDS):
                return
        raise HostFailed(f"the host (pid {self.pid}) left {self.folder}\n{self.log}")

    def _is_gone_within(self, seconds: float) -> bool:
        """It takes its folder away and ends; where it was killed, its zygote does."""
        deadline = monotonic() + seconds
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        ended.poll(seconds * 1000)
        while self.folder.exists():
            if monotonic() > deadline:
                return False
            sleep(_TICK)
        return True

    def _born(self, zygote: _Zygote) -> Born:
        answer = self._received(zygote)
        if isinstance(answer, Failed):
            raise self._error(answer)
        assert isinstance(answer, Born)  # noqa: S101 - our own process's first words
        return answer

    def _exchanged(self, request: Request) -> Answer:
        if self._channel.fileno() < 0 and not self._closed:
            raise HostFailed(f"the host was given up: it did not answer, or a test did not wait for it\n{self.log}")
        try:
            self._channel.send(msgspec.msgpack.encode(request))
            return self._received()
        except OSError as error:
            raise HostFailed(f"the host (pid {self.pid}) is gone: {error}\n{self.log}") from None
        except BaseException:
            self._channel.close()  # what it answers later would be taken for the next answer
            raise

    def _received(self, zygote: _Zygote | None = None) -> Answer:
        try:
            data = self._channel.recv(LARGEST)
        except TimeoutError:
            raise HostFailed(f"the host does not answer\n{self.log}") from None
        except OSError:
            data = b""
        if not data:
            raise HostFailed(f"the host has ended\n{self.log}{'' if zygote is None else zygote.log}")
        return _answers.decode(data)

    def _error(self, answer: Failed) -> Exception:
        if answer.kind in _ERRORS:
            return _ERRORS[answer.kind](answer.text)
        return HostFailed(f"{answer.kind}: {answer.text}\n{self.log}")


def _text(fd: int) -> str:
    return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")
