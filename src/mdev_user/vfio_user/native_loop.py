"""The native loop of a session, where ``_native`` could be built: what it leaves over is sent from here."""

from functools import partial

from mdev_user.vfio_user import _native
from mdev_user.vfio_user.access_loop import Line, Received
from mdev_user.vfio_user.accesses import Accesses


class NativeLoop:
    """Answers plain registers without Python; `PythonLoop` tells what each access means."""

    __slots__ = ("_accesses", "_line", "_table")

    def __init__(self, line: Line, accesses: Accesses, table: _native.PlainTable) -> None:
        self._line, self._accesses, self._table = line, accesses, table

    def serve(self) -> Received:
        line, read, outgoing = self._line, self._accesses.read, self._line.outgoing
        write = partial(self._accesses.write_and_go_on, outgoing.send_in_passing)
        traps = line.traps
        while True:
            received = _native.serve(
                line.socket.fileno(),
                line.buffer,
                self._table,
                read,
                write,
                outgoing.leave,
                outgoing.stuck,
                line.busy_poll,
                traps.listener,
                traps.memory,
                self._write_trapped,
            )
            if received is not None:
                return received
            outgoing.drain()

    def _write_trapped(self, call: int, offset: int, region: int, data: bytes) -> bytes:
        """The reply by which the loop is to end this call; b"" when it is ended."""
        return self._accesses.write_and_go_on(partial(self._line.traps.written, call), 0, offset, region, data)
