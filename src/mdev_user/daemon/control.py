"""The control API: HTTP/JSON on RUN/control.sock, for the daemon's own user only.

```
GET    /v1/status                          DaemonView
GET    /v1/parents                         [ParentView]
POST   /v1/parents {"specification"}       ParentView        registers
DELETE /v1/parents/{name}                  null              unregisters
GET    /v1/types                           [TypeView]
GET    /v1/mdevs                           [MdevView]
GET    /v1/mdevs/{uuid}                    MdevDetail
GET    /v1/mdevs/{uuid}/values             ValuesView
GET    /v1/mdevs/{uuid}/unmodelled         Unmodelled
GET    /v1/mdevs/{uuid}/screenshot?head=N&pointer=true&level=L   a PNG (image/png): what is on head N (default: 0), the
                                           pointer on top of it (default: false), compressed by zlib's level L (0)
GET    /v1/mdevs/{uuid}/trace              a TraceLine per line, for as long as the client reads
GET    /v1/events?after=N&daemon=D&follow=true   a UeventLine per line: those after number N (default: all that are
                                           kept) of the start D of the daemon, and with follow those to come; with
                                           attend=true creates in sysfs wait a moment for this reader
GET    /v1/events/snapshot                 SnapshotView
POST   /v1/mdevs {"type","parent"?,"uuid"?} MdevView         creates
DELETE /v1/mdevs/{uuid}?wait=S&force=true  null              removes
POST   /v1/mdevs/{uuid}/migration {"purpose"}  MoveView      makes a socket for one mover, to "save" or "load"
POST   /v1/mdevs/{uuid}/moved {"place"}    null              what is being saved is at home in that place: removes
```

An answer that is not 2xx is ``{"error": text, "errno": "EEXIST"}``. A trace has an empty line where nothing happened
for a second; its last line is of the kind ``ended`` when the mdev or its host is gone. Events have the same; theirs
are ``ended`` when all that was asked for is told, or, with a text, when the daemon ends.
"""

import asyncio
import errno
import math
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from threading import Thread
from time import time
from typing import Annotated, TypeVar
from uuid import UUID

import msgspec
import uvicorn
from anyio import CapacityLimiter, to_thread
from msgspec import Meta, Struct
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from mdev_user.daemon.operations import Operations, Trace, Uevents
from mdev_user.daemon.png import LEVELS
from mdev_user.daemon.sending import MOST_SENDING, Connection, PngResponse
from mdev_user.daemon.views import UeventLine
from mdev_user.errors import InvalidValue, MdevUserError, errno_of, text_of
from mdev_user.host.purpose import Purpose
from mdev_user.vfio.inspection import TraceLine

MOST_BODY = 64 << 10
"""Bytes of a request's body."""

MOST_WAIT = 24 * 3600.0
"""Seconds that a remove may wait for the mdev's user."""

# Changes may wait long (a remove of an mdev in use), reads never do: each have threads of their own, so that no number
# of waiting changes delays a read. A waiting thread costs some 20 KiB; more changes than this queue.
MOST_CHANGES = 1000
MOST_READS = 16
MOST_TRACES = 64
MOST_FOLLOWERS = 64

FOLLOW_SECONDS = 1.0
"""How long a thread waits for a uevent on behalf of a follower."""

LONGEST_PLACE = 4096
"""Characters: a path."""

_MOST_DIGITS = 18

_STATUS: Mapping[int, int] = {
    errno.EINVAL: 400,
    errno.EPERM: 403,
    errno.EACCES: 403,
    errno.ENODEV: 404,
    errno.ENOENT: 404,
    errno.EBUSY: 409,
    errno.EEXIST: 409,
    errno.EAGAIN: 409,
    errno.EMSGSIZE: 413,
    errno.ETIMEDOUT: 504,
    errno.EUSERS: 507,
    errno.ENOSPC: 507,
}
_ERRNO_OF_STATUS: Mapping[int, int] = {404: errno.ENOENT, 405: errno.ENOTSUP}

_T = TypeVar("_T")


class RegisterRequest(Struct, forbid_unknown_fields=True):
    """The body of POST /v1/parents."""

    specification: str


class CreateRequest(Struct, forbid_unknown_fields=True):
    """The body of POST /v1/mdevs."""

    type: str
    parent: str | None = None
    uuid: UUID | None = None


class MoveRequest(Struct, forbid_unknown_fields=True):
    """The body of POST /v1/mdevs/{uuid}/migration."""

    purpose: Purpose


class MovedRequest(Struct, forbid_unknown_fields=True):
    """The body of POST /v1/mdevs/{uuid}/moved. ``place`` is for people."""

    place: Annotated[str, Meta(max_length=LONGEST_PLACE)]


class BodyTooLarge(MdevUserError):
    """A request's body is larger than any request of ours."""

    errno = errno.EMSGSIZE


class ControlServer:
    """Serves ``operations`` at ``path`` from a thread with its own event loop, between ``start`` and ``stop``."""

    def __init__(self, operations: Operations, path: Path, lent: socket.socket | None = None) -> None:
        """``lent`` is a listening socket, non-blocking, that is served, too; it may lie at ``path`` itself."""
        self._path = path
        self._lent = lent
        config = uvicorn.Config(
            make_app(operations, lambda: self._server.should_exit),
            http=Connection,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            backlog=1024,
        )
        self._server = uvicorn.Server(config)
        self._thread = Thread(target=self._run, name="control", daemon=True)
        self._sockets: list[socket.socket] = []

    def start(self) -> None:
        """Bind the socket and serve. OSError when it cannot be bound.

        On return it listens: a client that comes before the loop's first accept waits a moment, and is served.
        """
        if self._lent is None or not _is_at(self._lent, self._path):
            self._sockets.append(listening_socket(self._path))
        if self._lent is not None:
            self._sockets.append(self._lent)
        self._thread.start()

    def stop(self) -> None:
        """Answer what can be answered within a second, hang up on the rest, and remove the socket."""
        if not self._sockets:
            return
        self._server.should_exit = True
        self._thread.join()
        own = self._sockets[0] is not self._lent
        for each in self._sockets:
            each.close()
        self._sockets = []
        if own:
            self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=self._sockets))


def _is_at(lent: socket.socket, path: Path) -> bool:
    address = lent.getsockname()
    return isinstance(address, str) and Path(address).resolve() == path.resolve()


def listening_socket(path: Path) -> socket.socket:
    """A stream socket that listens at ``path``, mode 0600 from its first moment; a dead daemon's is replaced.

    On Linux a UNIX socket's file gets the mode of the socket itself less the umask, so that fchmod before bind leaves
    no moment in which others could connect, and no other thread's files are touched as by umask().
    """
    if os.path.lexists(path) and stat.S_ISSOCK(path.lstat().st_mode):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener


def make_app(operations: Operations, is_ending: Callable[[], bool]) -> Starlette:
    """The ASGI application; importable without a socket for tests and for the dashboard.

    Answers without an end, such as traces, end when ``is_ending`` is true.
    """
    api = _Api(operations, is_ending)
    routes = [
        Route("/v1/status", api.status, methods=["GET"]),
        Route("/v1/parents", api.parents, methods=["GET"]),
        Route("/v1/parents", api.register, methods=["POST"]),
        Route("/v1/parents/{name:path}", api.unregister, methods=["DELETE"]),
        Route("/v1/types", api.types, methods=["GET"]),
        Route("/v1/mdevs", api.mdevs, methods=["GET"]),
        Route("/v1/mdevs", api.create, methods=["POST"]),
        Route("/v1/mdevs/{uuid}", api.mdev, methods=["GET"]),
        Route("/v1/mdevs/{uuid}/values", api.values, methods=["GET"]),
        Route("/v1/mdevs/{uuid}/unmodelled", api.unmodelled, methods=["GET"]),
        Route("/v1/mdevs/{uuid}/screenshot", api.screenshot, methods=["GET"]),
        Route("/v1/mdevs/{uuid}/trace", api.trace, methods=["GET"]),
        Route("/v1/mdevs/{uuid}", api.remove, methods=["DELETE"]),
        Route("/v1/mdevs/{uuid}/migration", api.migration, methods=["POST"]),
        Route("/v1/mdevs/{uuid}/moved", api.moved, methods=["POST"]),
        Route("/v1/events", api.events, methods=["GET"]),
        Route("/v1/events/snapshot", api.snapshot, methods=["GET"]),
    ]
    return Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: _answer_http_error,
            MdevUserError: _answer_error,
            OSError: _answer_error,
            Exception: _answer_fault,
        },
    )


class _Api:
    """One method per route: decode, call the operation in a thread, encode."""

    def __init__(self, operations: Operations, is_ending: Callable[[], bool]) -> None:
        self._operations = operations
        self._is_ending = is_ending
        self._reads = CapacityLimiter(MOST_READS)
        self._changes = CapacityLimiter(MOST_CHANGES)
        self._traces = CapacityLimiter(MOST_TRACES)
        self._followers = CapacityLimiter(MOST_FOLLOWERS)
        self._screenshots = CapacityLimiter(MOST_SENDING)

    async def status(self, request: Request) -> Response:
        return await self._read(request, self._operations.status)

    async def parents(self, request: Request) -> Response:
        return await self._read(request, self._operations.parents)

    async def types(self, request: Request) -> Response:
        return await self._read(request, self._operations.types)

    async def mdevs(self, request: Request) -> Response:
        return await self._read(request, self._operations.mdevs)

    async def mdev(self, request: Request) -> Response:
        uuid = _uuid(request)
        return await self._read(request, lambda: self._operations.mdev(uuid))

    async def values(self, request: Request) -> Response:
        uuid = _uuid(request)
        return await self._read(request, lambda: self._operations.values(uuid))

    async def unmodelled(self, request: Request) -> Response:
        uuid = _uuid(request)
        return await self._read(request, lambda: self._operations.unmodelled(uuid))

    async def screenshot(self, request: Request) -> Response:
        uuid = _uuid(request)
        query = _query(request, ("head", "pointer", "level"))
        head, level, pointer = _count(query, "head"), _count(query, "level"), _truth(query, "pointer")
        if level not in LEVELS:
            raise InvalidValue(f"expected level to be from {LEVELS[0]} to {LEVELS[-1]}, given {level}")
        return PngResponse(
            lambda: self._operations.screenshot(uuid, head, level, pointer=pointer), self._screenshots, self._is_ending
        )

    async def trace(self, request: Request) -> Response:
        """Until the client hangs up. One that reads slowly is waited for here: the guest never is."""
        uuid = _uuid(request)
        _query(request, ())
        trace = await to_thread.run_sync(lambda: self._operations.trace(uuid), limiter=self._reads)
        return StreamingResponse(
            self._lines(trace), 200, {"Connection": "close"}, "application/x-ndjson", BackgroundTask(trace.close)
        )

    async def _lines(self, trace: Trace) -> AsyncIterator[bytes]:
        while not self._is_ending():
            try:
                lines = await to_thread.run_sync(trace.read, limiter=self._traces, abandon_on_cancel=True)
            except (MdevUserError, OSError) as error:
                yield _json_lines([TraceLine(kind="ended", time=time(), text=str(error))])
                return
            yield _json_lines(lines) or b"\n"

    async def snapshot(self, request: Request) -> Response:
        return await self._read(request, self._operations.snapshot)

    async def events(self, request: Request) -> Response:
        """One that reads slowly is waited for here; what it misses meanwhile it is told as lost."""
        query = _query(request, ("after", "daemon", "follow", "attend"))
        after, follow, attend = _number(query), _truth(query, "follow"), _truth(query, "attend")
        uevents = await to_thread.run_sync(
            lambda: self._operations.uevents(after, query.get("daemon"), attend=attend), limiter=self._reads
        )
        lines = self._followed(uevents) if follow else self._told(uevents)
        return StreamingResponse(lines, 200, {"Connection": "close"}, "application/x-ndjson")

    async def _told(self, uevents: Uevents, end: str = "") -> AsyncIterator[bytes]:
        """What there is, which is told when a read gives nothing; then the text ``end``."""
        while lines := await self._uevents(uevents, self._reads, 0):
            yield _json_lines(lines)
            if lines[-1].kind == "ended":
                return
        yield _json_lines([_ended(end)])

    async def _followed(self, uevents: Uevents) -> AsyncIterator[bytes]:
        while not self._is_ending():
            lines = await self._uevents(uevents, self._followers, FOLLOW_SECONDS)
            yield _json_lines(lines) or b"\n"
            if lines and lines[-1].kind == "ended":
                return
        async for last in self._told(uevents, "the daemon has ended"):
            yield last

    async def _uevents(self, uevents: Uevents, limiter: CapacityLimiter, seconds: float) -> list[UeventLine]:
        try:
            return await to_thread.run_sync(lambda: uevents.read(seconds), limiter=limiter, abandon_on_cancel=True)
        except (MdevUserError, OSError) as error:
            return [_ended(str(error))]

    async def register(self, request: Request) -> Response:
        _query(request, ())
        body = await _body(request, RegisterRequest)
        return await self._change(lambda: self._operations.register_parent(body.specification), 201)

    async def unregister(self, request: Request) -> Response:
        _query(request, ())
        name = request.path_params["name"]
        return await self._change(lambda: self._operations.unregister_parent(name))

    async def create(self, request: Request) -> Response:
        _query(request, ())
        body = await _body(request, CreateRequest)
        return await self._change(lambda: self._operations.create(body.type, body.parent, body.uuid), 201)

    async def remove(self, request: Request) -> Response:
        uuid = _uuid(request)
        query = _query(request, ("wait", "force"))
        wait, force = _seconds(query.get("wait", "0")), _truth(query, "force")
        return await self._change(lambda: self._operations.remove(uuid, wait=wait, force=force))

    async def migration(self, request: Request) -> Response:
        uuid = _uuid(request)
        _query(request, ())
        body = await _body(request, MoveRequest)
        return await self._change(lambda: self._operations.begin_move(uuid, body.purpose), 201)

    async def moved(self, request: Request) -> Response:
        uuid = _uuid(request)
        _query(request, ())
        body = await _body(request, MovedRequest)
        return await self._change(lambda: self._operations.hand_over(uuid, body.place))

    async def _read(self, request: Request, operation: Callable[[], object]) -> Response:
        _query(request, ())
        value = await to_thread.run_sync(operation, limiter=self._reads, abandon_on_cancel=True)
        return _json(value)

    async def _change(self, operation: Callable[[], object], status: int = 200) -> Response:
        value = await to_thread.run_sync(operation, limiter=self._changes, abandon_on_cancel=True)
        return _json(value, status)


async def _body(request: Request, kind: type[_T]) -> _T:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BODY:
            raise BodyTooLarge(f"expected a body of at most {MOST_BODY} bytes, given more")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidValue(f"the body is no {kind.__name__} in JSON: {error}") from None


def _uuid(request: Request) -> UUID:
    text = request.path_params["uuid"]
    try:
        return UUID(text)
    except ValueError:
        raise InvalidValue(f"expected a UUID (8-4-4-4-12 hexadecimal digits), given {text[:60]!r}") from None


def _query(request: Request, known: Collection[str]) -> dict[str, str]:
    query: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        if key not in known or key in query:
            raise InvalidValue(
                f"expected {' and '.join(known) or 'nothing'} after the ?, each once, given {key[:60]!r}"
            )
        query[key] = value
    return query


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MOST_WAIT:
        raise InvalidValue(f"expected wait to be a number of seconds from 0 to {MOST_WAIT:.0f}, given {text[:60]!r}")
    return seconds


def _truth(query: Mapping[str, str], key: str) -> bool:
    text = query.get(key, "false")
    if text not in {"true", "false"}:
        raise InvalidValue(f"expected {key} to be true or false, given {text[:60]!r}")
    return text == "true"


def _number(query: Mapping[str, str]) -> int | None:
    return _count(query, "after", "the number of a uevent") if "after" in query else None


def _count(query: Mapping[str, str], key: str, what: str = "a number from 0") -> int:
    """0 where none is given."""
    text = query.get(key, "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise InvalidValue(f"expected {key} to be {what}, given {text[:60]!r}")
    return int(text)


def _ended(text: str) -> UeventLine:
    return UeventLine(kind="ended", number=0, time=time(), text=text)


def _json_lines(lines: Sequence[TraceLine] | Sequence[UeventLine]) -> bytes:
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def _json(value: object, status: int = 200) -> Response:
    # The rest of a body that is too large is not read: hang up instead.
    headers = {"Connection": "close"} if status == 413 else None
    return Response(msgspec.json.encode(value), status, headers, "application/json")


async def _answer_error(_request: Request, error: Exception) -> Response:
    number = errno_of(error)
    return _error(text_of(error), number, _STATUS.get(number, 500))


async def _answer_fault(_request: Request, error: Exception) -> Response:
    # Our own mistake: the caller learns that there was one, and uvicorn logs it with its traceback.
    return _error(f"an error of the daemon's own, see its log: {type(error).__name__}: {error}", errno.EIO, 500)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = f"{request.method} {request.url.path[:200]}: no such request of the control API"
    return _error(text, _ERRNO_OF_STATUS.get(status, errno.EINVAL), status)


def _error(text: str, number: int, status: int) -> Response:
    return _json({"error": text, "errno": errno.errorcode.get(number, "EIO")}, status)
