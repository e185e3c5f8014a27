"""The programs of a device under test: objects in the test's own process, called at once and in order."""

import ctypes
import pickle  # noqa: TID251 - the test's own values
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Protocol

import msgspec

from mdev_user.driver.program import Pending, Piece, Program
from mdev_user.errors import DriverError, GuestError, ProcessEnded
from mdev_user.host.program.programs import Whose
from mdev_user.testing.ram import Ram
from mdev_user.units import PAGE
from mdev_user.vfio.dma import Mapping as DmaMapping
from mdev_user.vfio.programs import Done, Launch, Timed
from mdev_user.vfio.work import Answer

_Arguments = tuple[tuple[object, ...], Mapping[str, object]]


class Events(Protocol):
    """What a program's own events are run by."""

    def watch(self, fd: int, ready: Callable[[], None]) -> None: ...

    def unwatch(self, fd: int) -> None: ...

    def call_later(self, seconds: float, call: Callable[[], None]) -> None: ...


class RamMemory:
    """A test guest's memory, as a program sees it: page by page."""

    def __init__(self, ram: Ram) -> None:
        self._ram = ram

    def pieces(self, address: int, length: int, *, write: bool = False) -> list[Piece]:
        pages = range(address - address % PAGE + PAGE, address + length, PAGE)
        pieces = [self._piece(at, end - at) for at, end in pairwise([address, *pages, address + length]) if end > at]
        return pieces if write else [each._replace(view=each.view.toreadonly()) for each in pieces]

    def _piece(self, address: int, length: int) -> Piece:
        page, offset = self._ram.page(address), address % PAGE
        pointer = ctypes.addressof(ctypes.c_char.from_buffer(page, offset))
        return Piece(pointer, memoryview(page)[offset : offset + length])


class InProcess:
    """One declared process of one device; its program's `Surroundings`."""

    _launch: Launch
    _ended: Callable[[ProcessEnded], None]

    def __init__(self, whose: Whose, ram: Ram, events: Events) -> None:
        self.memory = RamMemory(ram)
        self.buffer = memoryview(b"")
        self._whose, self._events = whose, events
        self._program: Program | None = None
        self._has_died = False
        """And its driver has not been told yet."""
        self._waiting: list[Done] = []
        self._watched: set[int] = set()

    @property
    def alive(self) -> bool:
        return self._program is not None

    def declare(self, launch: Launch, ended: Callable[[ProcessEnded], None]) -> None:
        self._launch, self._ended = launch, ended
        if len(self.buffer) != launch.buffer:
            self.buffer = memoryview(bytearray(launch.buffer))

    def call(
        self,
        method: str,
        arguments: tuple[object, ...],
        keywords: Mapping[str, object],
        done: Done,
        _wanted: Callable[[], bool],
    ) -> None:
        try:
            sent: _Arguments = pickle.loads(pickle.dumps((arguments, keywords)))  # noqa: S301 - just made
        except Exception as error:  # noqa: BLE001 - whatever an argument's own code raises
            done(DriverError(f"{method}: the arguments cannot be sent to another process: {error}"))
            return
        if self._has_died:
            done(ProcessEnded(f"{self._launch.name}: its process has just ended"))
            return
        self._waiting.append(done)
        self._try(partial(self._perform, method, sent, partial(self._tell, done)))

    def end(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, []
        self._forget()
        for done in waiting:
            done(ProcessEnded(f"{self._launch.name}: {reason}"))

    # --- its program's events -------------------------------------------------------------------------------

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        self._watched.add(fd)
        self._events.watch(fd, partial(self._try, ready))

    def unwatch(self, fd: int) -> None:
        self._watched.discard(fd)
        self._events.unwatch(fd)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        program = self._program

        def due() -> None:
            if self._program is program or program is None:  # None: it is being made
                self._try(call)

        self._events.call_later(seconds, due)

    # --- guest memory ---------------------------------------------------------------------------------------

    def mapped(self, mapping: DmaMapping) -> None:
        """It sees all that there is."""

    def unmapping(self, mappings: Sequence[DmaMapping]) -> None:
        for each in mappings:
            if self._program is not None:
                self._try(partial(self._program.unmapped, each.iova, each.size))

    # --- inside ---------------------------------------------------------------------------------------------

    def _perform(self, method: str, sent: _Arguments, tell: Done) -> None:
        if self._program is None:
            self._program = self._made()
        arguments, keywords = sent
        try:
            value = getattr(self._program, method)(*arguments, **keywords)
        except GuestError as error:
            tell(error)
            return
        if isinstance(value, Pending):
            value._then(lambda outcome: tell(self._checked(method, outcome)))  # noqa: SLF001 - our own
        else:
            tell(self._checked(method, (value,)))

    def _made(self) -> Program:
        dma = self._whose.mappings()
        if self not in dma.watchers:
            dma.watchers = (*dma.watchers, self)
        self.buffer = memoryview(bytearray(self._launch.buffer))
        program: Program = self._launch.kind._made(self, self._launch.arguments)  # type: ignore[attr-defined]  # noqa: SLF001 - a Program
        return program

    def _checked(self, method: str, outcome: tuple[object] | GuestError) -> Answer | Exception:
        """As it comes from another process."""
        if isinstance(outcome, GuestError):
            return outcome
        return Answer(Timed(self._launch.answers[method](msgspec.msgpack.encode(outcome[0])), 0.0, 0.0))

    def _tell(self, done: Done, outcome: Answer | Exception) -> None:
        with suppress(ValueError):
            self._waiting.remove(done)
        done(outcome)

    def _try(self, call: Callable[[], None]) -> None:
        """What a program raises is its end, and everybody's who waits for it, as soon as its driver was told."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - driver code
            waiting, self._waiting = self._waiting, []
            self._has_died = True
            reason = f"{self._launch.name}: {type(error).__name__}: {error}"
            self._whose.as_step(partial(self._end_by_itself, waiting, reason, error))

    def _end_by_itself(self, waiting: Sequence[Done], reason: str, error: Exception) -> None:
        """A step; those who wait are told in later ones."""
        is_news = self._has_died
        self._forget()
        for done in waiting:
            done(_ended(reason, error))
        if is_news:
            self._ended(_ended(reason, error))

    def _forget(self) -> None:
        self._program, self._has_died = None, False
        self.buffer = memoryview(bytearray(self._launch.buffer))
        for fd in tuple(self._watched):
            self.unwatch(fd)


def _ended(reason: str, error: Exception) -> ProcessEnded:
    ended = ProcessEnded(reason)
    ended.__cause__ = error
    return ended
