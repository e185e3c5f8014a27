"""The program of a process of an mdev's own: ``python -m mdev_user.host.program FD PARENT``, started by a host.

A third argument is the folder of a control group that it is to enter.

One thread: it does what the host asks, in order, and between two calls what the program watches.
"""

import faulthandler
import os
import pickle  # noqa: TID251 - from our host, which started us
import select
import socket
import sys
import traceback
from array import array
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from mmap import mmap
from pathlib import Path
from time import monotonic

import msgspec

from mdev_user.driver.program import Pending, Program
from mdev_user.errors import DmaFault, GuestError
from mdev_user.host.loader import import_again
from mdev_user.host.program import groups, limits
from mdev_user.host.program.memory import ProcessMemory
from mdev_user.host.program.wire import LONGEST_REASON, Ask, Incoming, Start, Tell, message

_ROOM = 256 << 10
_FDS_ROOM = socket.CMSG_SPACE(16 * array("i").itemsize)
_MOST_ASKED = 1 << 31


class Loop:
    """Between the host's socket and one program; its `Surroundings`."""

    def __init__(self, host: socket.socket) -> None:
        self.memory = ProcessMemory()
        self.buffer = memoryview(b"")
        self._host = host
        self._room = memoryview(bytearray(_ROOM))
        self._incoming = Incoming(_MOST_ASKED)
        self._fds: deque[int] = deque()
        self._poll = select.poll()
        self._poll.register(host, select.POLLIN)
        self._watched: dict[int, Callable[[], None]] = {host.fileno(): self._receive}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._program: Program
        self._encode = msgspec.msgpack.Encoder().encode
        # each takes the number and the payload of what was asked
        self._asked: dict[int, Callable[[int, bytes], None]] = {
            Ask.START: self._start,
            Ask.CALL: self._call,
            Ask.FILE: lambda number, _payload: self.memory.add_file(number, self._fds.popleft()),
            Ask.DROP_FILE: lambda number, _payload: self.memory.drop_file(number),
            Ask.MAP: self._map,
            Ask.UNMAP: self._unmap,
        }

    def run(self) -> None:
        """Until the host is gone."""
        while True:
            for fd, _events in self._poll.poll(self._patience()):
                if (ready := self._watched.get(fd)) is not None:
                    ready()
            while self._timers and self._timers[0][0] <= monotonic():
                heappop(self._timers)[2]()

    # --- for the program ------------------------------------------------------------------------------------

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        self._watched[fd] = ready
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        heappush(self._timers, (monotonic() + seconds, next(self._order), call))

    # --- for the host ---------------------------------------------------------------------------------------

    def _patience(self) -> float | None:
        """Milliseconds until a timer is due."""
        return max(0.0, self._timers[0][0] - monotonic()) * 1000 if self._timers else None

    def _receive(self) -> None:
        size, ancillary, _flags, _address = self._host.recvmsg_into([self._room], _FDS_ROOM, socket.MSG_CMSG_CLOEXEC)
        if not size:
            raise ConnectionError("the host is gone")
        for _level, _kind, numbers in ancillary:
            self._fds += array("i", numbers)
        for kind, number, payload in self._incoming.take(self._room[:size]):
            self._asked[kind](number, payload)

    def _tell(self, kind: Tell, number: int, payload: bytes = b"") -> None:
        self._host.sendall(message(kind, number, payload))

    def _start(self, number: int, payload: bytes) -> None:
        start: Start = pickle.loads(payload)  # noqa: S301 - as above
        limits.limit(start.memory, start.nice)
        if start.buffer:
            fd = self._fds.popleft()
            self.buffer = memoryview(mmap(fd, start.buffer))
            os.close(fd)
        kind = getattr(import_again(start.module, start.source), start.program)
        limits.give_up_privileges()
        self._program = kind._made(self, start.arguments)  # noqa: SLF001 - our own
        self._tell(Tell.STARTED, number, b"" if limits.forbid() else b"its system calls cannot be filtered here")

    def _call(self, number: int, payload: bytes) -> None:
        method, arguments, keywords = pickle.loads(payload)  # noqa: S301 - as above
        try:
            value = getattr(self._program, method)(*arguments, **keywords)
        except GuestError as error:
            self._refuse(number, error)
            return
        if not isinstance(value, Pending):
            self._tell(Tell.DONE, number, self._encode(value))
            return
        self._tell(Tell.PENDING, number)
        value._then(lambda outcome: self._answer(number, outcome))  # noqa: SLF001 - our own

    def _answer(self, number: int, outcome: tuple[object] | GuestError) -> None:
        if isinstance(outcome, GuestError):
            self._refuse(number, outcome)
        else:
            self._tell(Tell.DONE, number, self._encode(outcome[0]))

    def _refuse(self, number: int, error: GuestError) -> None:
        self._tell(Tell.DMA_FAULT if isinstance(error, DmaFault) else Tell.GUEST_ERROR, number, _told(str(error)))

    def _map(self, _number: int, payload: bytes) -> None:
        for each in pickle.loads(payload):  # noqa: S301 - as above
            self.memory.map(each)

    def _unmap(self, number: int, payload: bytes) -> None:
        for iova, size in pickle.loads(payload):  # noqa: S301 - as above
            self._program.unmapped(iova, size)
            self.memory.unmap(iova, size)
        self._tell(Tell.UNMAPPED, number)

    def fail(self, error: BaseException) -> None:
        """The last thing that is said."""
        self._tell(Tell.FAILED, 0, _told(f"{type(error).__name__}: {error}"))


def _told(text: str) -> bytes:
    return text.encode(errors="replace")[:LONGEST_REASON]


def _enter(group: Path) -> None:
    try:
        groups.enter(group)
    except OSError as error:  # the other limits are there
        sys.stderr.write(f"no control group: {error}\n")


def main() -> None:
    limits.end_with(int(sys.argv[2]))
    for group in sys.argv[3:]:
        _enter(Path(group))
    faulthandler.enable()  # a crash in C says in the host's log where it was
    loop = Loop(socket.socket(fileno=int(sys.argv[1])))
    try:
        loop.run()
    except ConnectionError:
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - the program's code: SystemExit too
        try:
            traceback.print_exc()
            sys.stderr.flush()
            loop.fail(error)
        finally:
            os._exit(1)


if __name__ == "__main__":
    main()
