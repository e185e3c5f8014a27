"""How a screenshot is sent: while it is made, and for a bounded time, so that no reader can make the daemon keep many.

A picture is megabytes: the web server would copy them twice, in the thread of everybody's requests. So who makes one
writes it to the connection's socket by himself, the head of the answer included, and the connection ends with it.
"""

import asyncio
import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from anyio import CapacityLimiter, to_thread
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from mdev_user.daemon.png import Bytes, Png

MOST_SENDING = 8
"""At a time: each takes the memory of its picture, 64 MiB at most. Two threads encode for all of them."""
SEND_SECONDS = 20.0
"""That a reader has for all of one."""
_LOOK = 0.1
"""Seconds between two looks at whether the daemon ends."""
_TRANSPORT = "mdev_user.transport"


class Connection(H11Protocol):
    """uvicorn's, whose socket a request can have."""

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        app: ASGIApp = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope[_TRANSPORT] = transport
            await app(scope, receive, send)

        self.app: ASGIApp = with_transport


class PngResponse(Response):
    """A picture that ``make`` makes in a thread; what it raises is answered as any error of a request."""

    def __init__(self, make: Callable[[], Png], sending: CapacityLimiter, is_ending: Callable[[], bool]) -> None:
        """``is_ending``: whether the daemon is, and waits for nobody any more."""
        super().__init__(media_type="image/png")
        self._make, self._sending, self._is_ending = make, sending, is_ending

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport: asyncio.WriteTransport = scope[_TRANSPORT]
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as connection:
            await to_thread.run_sync(self._run, connection, transport.get_write_buffer_size(), limiter=self._sending)
        transport.abort()  # nothing of it is the transport's to send
        while (await receive())["type"] != "http.disconnect":
            pass

    def _run(self, connection: socket.socket, unsent: int) -> None:
        """In a thread. The error of `make`; what goes wrong with the connection is its client's affair."""
        png = self._make()
        reader = _Reader(connection, monotonic() + SEND_SECONDS, self._is_ending)
        with suppress(OSError):
            if unsent:  # it has not read what it asked for before
                raise TimeoutError
            reader.send(_head(png.size))
            for piece in png.pieces:
                reader.send(piece)
            return
        for _piece in png.pieces:  # until all has been made, its picture is being looked at
            pass


class _Reader:
    """A client that may read slowly, until its time is over."""

    def __init__(self, connection: socket.socket, until: float, is_ending: Callable[[], bool]) -> None:
        self._connection, self._until, self._is_ending = connection, until, is_ending
        self._poll = select.poll()
        self._poll.register(connection, select.POLLOUT)

    def send(self, data: Bytes) -> None:
        """TimeoutError when it has had its time."""
        left = memoryview(data)
        while left:
            with suppress(BlockingIOError):
                left = left[self._connection.send(left) :]
                continue
            is_stuck = not self._poll.poll(_LOOK * 1000)
            if monotonic() > self._until or (is_stuck and self._is_ending()):
                raise TimeoutError


def _head(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % size
