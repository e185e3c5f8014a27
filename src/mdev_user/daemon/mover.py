"""The mover: takes the state of an mdev into a file or to another daemon, and brings it from a file.

It is a vfio-user client of the sockets that daemons make for it, and knows nothing of what a state is. Until the other
end has said that it is that device, and the mover that it knows so, nothing has changed at this end.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self
from uuid import UUID

from msgspec import Struct, field

from mdev_user.daemon.absent import no_type
from mdev_user.daemon.client import Client, NoDaemon, Refused
from mdev_user.daemon.state_file import new_state_file, open_state_file
from mdev_user.daemon.views import MdevView
from mdev_user.errors import MdevUserError, PeerError, text_of
from mdev_user.host.purpose import Purpose
from mdev_user.units import MiB
from mdev_user.vfio.migration_states import MigrationFlags, MigrationState
from mdev_user.vfio_user import client as vfio_user

MOST_PASSES = 16
"""While the device runs. What changes as fast as it is moved never becomes less."""
FEW = MiB
"""Bytes that are not worth another pass: to compare the device's memory takes longer than to send them."""
_WORTH_IT = 0.7
"""A pass as large as this part of the one before was not worth it, and neither will another be."""
_CHUNK = MiB
_SECONDS = 30.0
"""That a daemon may need for one answer."""


class MoveFailed(MdevUserError):
    """The state could not be moved; where it came from goes on."""


class Pass(Struct, frozen=True):
    """One look at all of the device's memory, and what of it was sent."""

    bytes: int
    seconds: float


class Moved(Struct, kw_only=True):
    """What was moved, and how long it took."""

    uuid: UUID
    place: str
    """The file, or the other daemon's run directory."""
    passes: list[Pass] = field(default_factory=list)
    """While the device ran."""
    rest: int = 0
    """Bytes that were sent when it had stopped."""
    bytes: int = 0
    """In all."""
    seconds: float = 0.0
    """In all."""
    downtime: float | None = None
    """Seconds from when the device stopped until it went on, or could; None where it did not run."""


Told = Callable[[str, Moved], None]
"""Called as it goes on, with what was just done: began, pass, stopped, copied, loaded, confirmed, moved."""


def save(daemon: Client, uuid: UUID, file: Path, told: Told) -> Moved:
    """Write the state of an mdev to ``file``, which is replaced as a whole; the mdev goes on.

    MoveFailed, NoDaemon and Refused say why not; then there is no new file.
    """
    moved, began = Moved(uuid=uuid, place=str(file)), perf_counter()
    with _explained_file(file), new_state_file(file) as target, _Socket(daemon, uuid, Purpose.SAVE) as source:
        stopped = _copy(source, target.write, moved, told)
        source.go(MigrationState.RUNNING)
        moved.downtime = perf_counter() - stopped
    moved.seconds = perf_counter() - began
    told("moved", moved)
    return moved


def restore(daemon: Client, uuid: UUID, file: Path, told: Told) -> Moved:
    """Load what `save` wrote into an mdev that nobody uses; whoever uses it next finds the device as it was saved.

    Errors as of `save`; then the mdev is as it was.
    """
    moved, began = Moved(uuid=uuid, place=str(file)), perf_counter()
    if _find(daemon, uuid) is None:
        raise MoveFailed(f"no mdev {uuid}: create it first, of the type that was saved: mdev-user create TYPE {uuid}")
    with _explained_file(file), open_state_file(file) as data, _Socket(daemon, uuid, Purpose.LOAD) as target:
        target.go(MigrationState.RESUMING)
        while chunk := data.read(_CHUNK):
            target.write(chunk)
            moved.bytes += len(chunk)
        target.go(MigrationState.STOP)
        told("loaded", moved)
        with target.kept():
            told("confirmed", moved)
    moved.seconds = perf_counter() - began
    told("moved", moved)
    return moved


def migrate(source: Client, destination: Client, uuid: UUID, place: str, told: Told) -> Moved:
    """Let an mdev go on at another daemon, ``place``, where it is created if it is not there; here it is removed.

    Its user is disconnected, and finds the device there as it was. Errors as of `save`; then all is as it was, here and
    there.
    """
    moved, began = Moved(uuid=uuid, place=place), perf_counter()
    with _arrival(source, destination, uuid, place) as arrived, _Socket(source, uuid, Purpose.SAVE) as here:
        with _Socket(destination, uuid, Purpose.LOAD, f"at {place}: ") as there:
            there.go(MigrationState.RESUMING)
            stopped = _copy(here, there.write, moved, told)
            there.go(MigrationState.STOP)
            told("loaded", moved)
            with there.kept() as kept:
                told("confirmed", moved)
                here.hand_over(place, arrived, kept)
        moved.downtime = perf_counter() - stopped
        here.remove()
    moved.seconds = perf_counter() - began
    told("moved", moved)
    return moved


def _copy(source: "_Socket", write: Callable[[bytes], object], moved: Moved, told: Told) -> float:
    """Copy the state; the device is stopped when this returns. Returns when it was, by perf_counter."""
    told("began", moved)
    if MigrationFlags.PRE_COPY in source.flags():
        source.go(MigrationState.PRE_COPY)
        while not is_enough(moved.passes):
            moved.passes.append(_pass(source, write))
            told("pass", moved)
    stopped = perf_counter()
    source.go(MigrationState.STOP_COPY)
    told("stopped", moved)
    moved.rest = _pass(source, write).bytes
    moved.bytes = moved.rest + sum(each.bytes for each in moved.passes)
    told("copied", moved)
    return stopped


def is_enough(passes: Sequence[Pass]) -> bool:
    """Whether the device had better be stopped now for the rest."""
    if not passes:
        return False
    *before, last = passes
    return (
        last.bytes <= FEW or len(passes) >= MOST_PASSES or (bool(before) and last.bytes > _WORTH_IT * before[-1].bytes)
    )


def _pass(source: "_Socket", write: Callable[[bytes], object]) -> Pass:
    """All that there is at the moment: less than was asked for is the end of it, and what follows is another pass."""
    began, size, more = perf_counter(), 0, True
    while more and (chunk := source.read()):
        write(chunk)
        size += len(chunk)
        more = len(chunk) == _CHUNK
    return Pass(size, perf_counter() - began)


class _Socket:
    """One end of a move: the socket that a daemon makes for it, for the block. Whatever goes wrong is told in words."""

    def __init__(self, daemon: Client, uuid: UUID, purpose: Purpose, where: str = "") -> None:
        """``where`` is what the reasons begin with."""
        self._daemon = daemon
        self._uuid = uuid
        self._where = where
        try:
            path = daemon.begin_move(uuid, purpose).socket
        except Refused as error:
            raise MoveFailed(f"{where}{error}") from error
        with self._explained():
            self._client = vfio_user.Client(path, timeout=_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        """Return when the daemon has seen that this is over: the mdev is whatever it is to be from then on."""
        with suppress(OSError):
            self._client.socket.shutdown(socket.SHUT_WR)
            self._client.socket.settimeout(_SECONDS)
            while self._client.socket.recv(_CHUNK):
                pass
        self._client.close()

    def flags(self) -> MigrationFlags:
        with self._explained():
            return self._client.feature_flags()

    def go(self, state: MigrationState) -> None:
        with self._explained():
            self._client.set_migration_state(state)

    def read(self) -> bytes:
        with self._explained():
            return self._client.read_migration_data(_CHUNK)

    def write(self, data: bytes) -> None:
        with self._explained():
            self._client.write_migration_data(data)

    def hand_over(self, place: str, *there: ExitStack) -> None:
        """Have the daemon end all use of the mdev, and remove it. Refused, and all is as it was, if it has gone on.

        Only that undoes what was done ``there``: without an answer the mdev may have gone, and this was all of it.
        """
        done = [each.pop_all() for each in there]
        try:
            self._daemon.hand_over(self._uuid, place)
        except Refused:
            for each in reversed(done):
                each.close()
            raise
        except NoDaemon as error:
            raise MoveFailed(
                f"{error}; its state is kept at {place}: remove it there if {self._uuid} goes on"
            ) from error

    def remove(self) -> None:
        """Return when the mdev, which was handed over, is gone."""
        with suppress(Refused, NoDaemon):  # it is, or its daemon is
            self._daemon.remove(self._uuid, wait=0, force=True)

    @contextmanager
    def kept(self) -> Iterator[ExitStack]:
        """What was loaded is to be kept when this ends, be it now, unless the block raises. Yields what undoes it."""
        with ExitStack() as undo:
            undo.callback(self._withdraw)
            self.go(MigrationState.RUNNING)
            yield undo
            undo.pop_all()

    def _withdraw(self) -> None:
        with suppress(OSError, MdevUserError):
            self._client.set_migration_state(MigrationState.STOP)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """The wire has a number for what went wrong, or its own end; the daemon knows the reason."""
        try:
            yield
        except (OSError, PeerError) as error:
            raise MoveFailed(f"{self._where}{self._uuid}: {self._reason() or _told(error)}") from error

    def _reason(self) -> str:
        with suppress(Refused, NoDaemon):
            return self._daemon.mdev(self._uuid).last_move
        return ""


@contextmanager
def _arrival(source: Client, destination: Client, uuid: UUID, place: str) -> Iterator[ExitStack]:
    """The mdev is at the destination for the block. Yields what removes it again, if it was created for this."""
    mdev = source.mdev(uuid)
    daemons = {(each.pid, each.run_dir) for each in (source.status(), destination.status())}  # of containers, maybe
    if len(daemons) == 1:
        raise MoveFailed(f"{place} is the run directory of the same daemon: expected another one's")
    there = _find(destination, uuid)
    if there is not None and there.type != mdev.type:
        raise MoveFailed(f"{uuid} is of the type {mdev.type}, and at {place} of {there.type}: remove that one first")
    with ExitStack() as undo:
        if there is None:
            with _at(place):
                destination.create(mdev.type, _parent_for(destination, mdev), uuid)
            undo.callback(_remove_again, destination, uuid)
        yield undo


def _remove_again(daemon: Client, uuid: UUID) -> None:
    with suppress(Refused, NoDaemon):
        daemon.remove(uuid, wait=0, force=True)


def _told(error: Exception) -> str:
    text = text_of(error)
    return f"the connection to its host broke: {text}" if isinstance(error, ConnectionError) else text


def _find(daemon: Client, uuid: UUID) -> MdevView | None:
    return next((each for each in daemon.mdevs() if each.uuid == str(uuid)), None)


def _parent_for(daemon: Client, mdev: MdevView) -> str:
    """The parent of the same name, or the only one with that type."""
    types = daemon.types()
    parents = [each.parent for each in types if each.type == mdev.type]
    if mdev.parent in parents:
        return mdev.parent
    if len(parents) == 1:
        return parents[0]
    if parents:
        raise MoveFailed(
            f"expected a parent {mdev.parent}, or one with the type {mdev.type}, there are: {', '.join(parents)}; "
            "create the mdev there first"
        )
    absent = no_type(mdev.type, (each.type for each in types))
    raise MoveFailed(f"{absent}; register one that has it there first")


@contextmanager
def _at(place: str) -> Iterator[None]:
    try:
        yield
    except (MoveFailed, Refused) as error:
        raise MoveFailed(f"at {place}: {error}") from error


@contextmanager
def _explained_file(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MoveFailed(f"{file}: {error.strerror or error}") from error
