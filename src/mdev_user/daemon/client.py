"""The asking end of the control API: one HTTP request on RUN/control.sock per call."""

import http.client
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID

import msgspec
from typing_extensions import override

from mdev_user.daemon.run_dir import RunDir
from mdev_user.daemon.views import (
    DaemonView,
    MdevDetail,
    MdevView,
    MoveView,
    ParentView,
    SnapshotView,
    TypeView,
    UeventLine,
    ValuesView,
)
from mdev_user.errors import MdevUserError, NoDevice
from mdev_user.host.purpose import Purpose
from mdev_user.vfio.inspection import TraceLine, Unmodelled
from mdev_user.vfio_user.transport import credentials_of

MOST_ANSWER = 256 << 20
"""Bytes of an answer; a hundred thousand mdevs need some 40 MB."""

_LONGEST_LINE = 1 << 20
_ANSWER_SECONDS = 60.0  # beyond what the caller asked the daemon to wait
_UNREGISTER_SECONDS = 24 * 3600.0  # unregistering waits for the users of the parent's mdevs, as the kernel does

_T = TypeVar("_T")


class NoDaemon(NoDevice):
    """Nobody answers at the run directory's control socket."""


class NoAnswer(NoDaemon):
    """Somebody listens there who does not answer in time; the daemon may only be slow."""


class Refused(MdevUserError):
    """The daemon answered with an error; the text is the daemon's."""


class _Failure(msgspec.Struct):
    error: str
    errno: str


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Lines:
    """An answer without an end."""

    def __init__(self, response: http.client.HTTPResponse, stream: socket.socket) -> None:
        self._response = response
        self._stream = stream

    def read(self) -> bytes:
        """A line with its newline."""
        data = self._response.readline(_LONGEST_LINE)
        if not data:
            raise http.client.IncompleteRead(data)
        return data

    def hang_up(self) -> None:
        with suppress(OSError):  # it has ended
            self._stream.shutdown(socket.SHUT_RDWR)


class Stream(Generic[_T]):
    """Lines as they come; `hang_up`, from whatever thread, ends a wait for the next one (NoDaemon)."""

    def __init__(self, lines: Iterator[_T], hang_up: Callable[[], None]) -> None:
        self._lines = lines
        self.hang_up = hang_up

    def __iter__(self) -> Iterator[_T]:
        return self._lines


class Client:
    """The daemon at ``run_dir``, with the operations of ``daemon.operations.Operations``.

    Each raises NoDaemon when none listens there, and Refused with the daemon's own words.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir

    def listener(self) -> int:
        """The process that made the control socket listen, as the kernel tells; 0 where it is not to be seen from here.

        That is the daemon, unless the socket was lent to it (`serve --fd`, systemd).
        """
        with self._explained(_ANSWER_SECONDS), closing(_UnixConnection(self._run_dir.control, _ANSWER_SECONDS)) as it:
            it.connect()
            pid, _user = credentials_of(it.sock)
        return pid

    def status(self) -> DaemonView:
        return self._call("GET", "/v1/status", DaemonView)

    def types(self) -> list[TypeView]:
        return self._call("GET", "/v1/types", list[TypeView])

    def mdevs(self) -> list[MdevView]:
        return self._call("GET", "/v1/mdevs", list[MdevView])

    def mdev(self, uuid: UUID) -> MdevDetail:
        return self._call("GET", f"/v1/mdevs/{uuid}", MdevDetail)

    def values(self, uuid: UUID) -> ValuesView:
        return self._call("GET", f"/v1/mdevs/{uuid}/values", ValuesView)

    def unmodelled(self, uuid: UUID) -> Unmodelled:
        return self._call("GET", f"/v1/mdevs/{uuid}/unmodelled", Unmodelled)

    def screenshot(self, uuid: UUID, head: int = 0, level: int = 0, *, pointer: bool = False) -> bytes:
        """A PNG of what is on a head, the ``pointer`` drawn on top of it, compressed by zlib's ``level``."""
        query = urlencode({"head": head, "level": level, "pointer": "true" if pointer else "false"})
        status, data = self._exchange("GET", f"/v1/mdevs/{uuid}/screenshot?{query}", None, _ANSWER_SECONDS)
        if status >= 300:
            raise self._refused(data)
        return data

    def snapshot(self) -> SnapshotView:
        return self._call("GET", "/v1/events/snapshot", SnapshotView)

    @contextmanager
    def trace(self, uuid: UUID) -> Iterator[Iterator[TraceLine]]:
        """What the mdev's user does from now on; Refused when the mdev or its host goes."""
        with self._streamed(f"/v1/mdevs/{uuid}/trace") as lines:
            yield self._trace_lines(lines)

    @contextmanager
    def events(
        self, after: int | None = None, *, daemon: str | None = None, follow: bool, attend: bool = False
    ) -> Iterator["Stream[UeventLine]"]:
        """Uevents after number ``after`` (None: all that are kept), from a line of the kind ``begin`` on.

        With ``follow`` also those to come, until the daemon ends, which is NoDaemon. ``daemon`` names the start of
        the daemon that gave the number: where another one answers, all before its answer counts as ``lost``. With
        ``attend`` creates in sysfs return a little later, so that whoever is told by the caller knows of them then.
        Refused for a number that this daemon has not reached.
        """
        asked = {"after": after, "daemon": daemon, "follow": "true" if follow else None}
        asked |= {"attend": "true" if attend else None}
        query = urlencode({key: value for key, value in asked.items() if value is not None})
        with self._streamed(f"/v1/events?{query}") as lines:
            yield Stream(self._uevent_lines(lines), lines.hang_up)

    @contextmanager
    def _streamed(self, path: str) -> Iterator["_Lines"]:
        with closing(_UnixConnection(self._run_dir.control, _ANSWER_SECONDS)) as connection:
            with self._explained(_ANSWER_SECONDS):
                connection.request("GET", path)
                stream = connection.sock
                response = connection.getresponse()
                if response.status >= 300:
                    raise self._refused(response.read(MOST_ANSWER))
            with closing(response):  # which holds the socket, too
                yield _Lines(response, stream)

    def register_parent(self, specification: str) -> ParentView:
        return self._call("POST", "/v1/parents", ParentView, {"specification": specification})

    def unregister_parent(self, name: str) -> None:
        self._call("DELETE", f"/v1/parents/{quote(name, safe='')}", None, seconds=_UNREGISTER_SECONDS)

    def create(self, type_id: str, parent: str | None, uuid: UUID | None) -> MdevView:
        body = {"type": type_id, "parent": parent, "uuid": None if uuid is None else str(uuid)}
        return self._call("POST", "/v1/mdevs", MdevView, body)

    def remove(self, uuid: UUID, *, wait: float, force: bool) -> None:
        query = urlencode({"wait": wait, "force": "true" if force else "false"})
        self._call("DELETE", f"/v1/mdevs/{uuid}?{query}", None, seconds=wait + _ANSWER_SECONDS)

    def begin_move(self, uuid: UUID, purpose: Purpose) -> MoveView:
        return self._call("POST", f"/v1/mdevs/{uuid}/migration", MoveView, {"purpose": purpose})

    def hand_over(self, uuid: UUID, place: str) -> None:
        self._call("POST", f"/v1/mdevs/{uuid}/moved", None, {"place": place})

    def _call(
        self,
        method: str,
        path: str,
        kind: type[_T] | None,
        body: Mapping[str, str | None] | None = None,
        seconds: float = _ANSWER_SECONDS,
    ) -> _T:
        status, data = self._exchange(method, path, None if body is None else msgspec.json.encode(body), seconds)
        if status >= 300:
            raise self._refused(data)
        return self._decoded(data, kind)

    def _refused(self, data: bytes) -> Refused:
        failure = self._decoded(data, _Failure)
        return Refused(f"{failure.error} ({failure.errno})")

    def _decoded(self, data: bytes, kind: type[_T] | None) -> _T:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.DecodeError as error:
            raise Refused(f"{self._run_dir.control} does not speak mdev-user's control API: {error}") from None

    def _trace_lines(self, lines: "_Lines") -> Iterator[TraceLine]:
        while True:
            line = self._decoded(self._line(lines), TraceLine)
            if line.kind == "ended":
                raise Refused(f"the trace has ended: {line.text}")
            yield line

    def _uevent_lines(self, lines: "_Lines") -> Iterator[UeventLine]:
        while True:
            line = self._decoded(self._line(lines), UeventLine)
            if line.kind != "ended":
                yield line
            elif line.text:
                raise NoDaemon(f"{line.text}: {self._run_dir.path}")
            else:
                return

    def _line(self, lines: "_Lines") -> bytes:
        """The next one with something in it: an empty one is sent when nothing happened for a second."""
        with self._explained(_ANSWER_SECONDS):
            while not (data := lines.read()).strip():
                pass
            return data

    def _exchange(self, method: str, path: str, body: bytes | None, seconds: float) -> tuple[int, bytes]:
        with self._explained(seconds), closing(_UnixConnection(self._run_dir.control, seconds)) as connection:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            data = response.read(MOST_ANSWER)
            if response.length:  # it ended early, or is too long
                raise http.client.IncompleteRead(data, response.length)
            return response.status, data

    @contextmanager
    def _explained(self, seconds: float) -> Iterator[None]:
        """What went wrong on the way is told as NoDaemon."""
        self._run_dir.check_length()
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            raise NoDaemon(
                f"no daemon at {self._run_dir.path}: start `mdev-user serve mtty`, or give its --run-dir DIR"
            ) from None
        except PermissionError:
            raise NoDaemon(
                f"the daemon at {self._run_dir.path} is another user's: its owner or root may use it"
            ) from None
        except TimeoutError:
            raise NoAnswer(f"the daemon at {self._run_dir.path} did not answer within {seconds:.0f} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise NoDaemon(
                f"the daemon at {self._run_dir.path} hung up: {str(error) or type(error).__name__}"
            ) from None
