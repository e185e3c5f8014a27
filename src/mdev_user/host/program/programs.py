"""Programs: the processes that the mdevs of a host have of their own, as their devices know them."""

import fcntl
import os
import pickle  # noqa: TID251 - towards a process of ours; nothing that it says is unpickled
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from mmap import mmap
from threading import Lock
from time import monotonic
from typing import final

from mdev_user.errors import DriverError, GuestError, ProcessEnded
from mdev_user.host.program.process import Call, ProgramProcess
from mdev_user.host.program.unmapping import Together
from mdev_user.host.program.wire import start_message
from mdev_user.vfio.dma import DmaMappings
from mdev_user.vfio.dma import Mapping as DmaMapping
from mdev_user.vfio.programs import Done, Launch

STARTS, START_PACE = 8, 1.0
"""Processes of one device that are started at once, and seconds until another one is: a guest decides how often."""
MOST_WAITING = 64 << 20
"""Bytes of calls that wait for one process."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class Whose:
    """The device that a process belongs to."""

    owner: str
    """For the log."""
    mappings: Callable[[], DmaMappings]
    as_step: Callable[[Callable[[], None]], None]
    """Call this soon, which may raise what a driver raises. In any thread."""


class Buffer:
    """Memory that a host and a process have in common. It is gone when nobody has a view of it."""

    def __init__(self, size: int) -> None:
        fd = os.memfd_create("program", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            self.view = memoryview(mmap(fd, size))
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd

    def take_fd(self) -> int:
        """The file, for a process; the taker's to close."""
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        """Nobody needs the file any more; whoever has a view keeps it."""
        if self.fd >= 0:
            os.close(self.take_fd())


class Pace:
    """How often a process may be started: `STARTS` at once, then one every `START_PACE` seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._full = 0.0
        """When as many may be started at once as ever."""

    def take(self) -> float:
        """Seconds until the next one may be started; it counts from now on."""
        with self._lock:
            now = self._clock()
            begin = max(now, self._full - (STARTS - 1) * START_PACE)
            self._full = max(begin, self._full) + START_PACE
            return begin - now

    def give_back(self) -> None:
        """It was not started."""
        with self._lock:
            self._full -= START_PACE


@final
class HostedProgram:
    """One declared process of one open device. Used under the step lock."""

    _launch: Launch
    _ended: Callable[[ProcessEnded], None]

    def __init__(self, whose: Whose) -> None:
        self._whose, self._pace = whose, Pace()
        self._process: ProgramProcess | None = None
        self._ending: list[ProgramProcess] = []
        """Those that were ended and may still have guest memory."""
        self._buffer: Buffer | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and not self._process.has_ended

    @property
    def buffer(self) -> memoryview:
        return self._current_buffer().view if self._launch.buffer else memoryview(b"")

    def declare(self, launch: Launch, ended: Callable[[ProcessEnded], None]) -> None:
        self._launch, self._ended = launch, ended

    def call(
        self,
        method: str,
        arguments: tuple[object, ...],
        keywords: Mapping[str, object],
        done: Done,
        wanted: Callable[[], bool],
    ) -> None:
        try:
            request = pickle.dumps((method, arguments, keywords), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # noqa: BLE001 - whatever an argument's own code raises
            done(DriverError(f"{method}: the arguments cannot be sent to another process: {error}"))
            return
        if self._process is None:
            self._process = self._started()
        if self._process.waiting_bytes > MOST_WAITING:
            raise GuestError(f"{self._launch.name}: {MOST_WAITING} bytes of calls wait for the process already")
        self._process.call(Call(method, request, done, wanted))

    def end(self, reason: str) -> None:
        process, self._process = self._process, None
        self._drop_buffer()
        if process is not None:
            self._ending = [*(each for each in self._ending if not each.is_gone), process]
            process.end(reason)

    # --- guest memory ---------------------------------------------------------------------------------------

    def mapped(self, mapping: DmaMapping) -> None:
        if self._process is not None:
            self._process.map([mapping])

    @property
    def holder(self) -> ProgramProcess | None:
        return self._process

    def take_ending(self) -> Sequence[ProgramProcess]:
        ending, self._ending = self._ending, []
        return ending

    # --- inside ---------------------------------------------------------------------------------------------

    def _started(self) -> ProgramProcess:
        dma = self._whose.mappings()
        Together.of(dma).add(self)
        start = start_message(self._launch)
        try:
            buffer = self._current_buffer().take_fd() if self._launch.buffer else -1
            process = ProgramProcess(self._launch, self._whose.owner, start, buffer, self._died)
        except OSError as error:  # of descriptors, say; the buffer may have lost its file
            self._drop_buffer()
            raise ProcessEnded(f"{self._launch.name}: its process cannot be started: {error}") from error
        process.map(dma)
        process.begin(self._pace)
        return process

    def _current_buffer(self) -> Buffer:
        if self._buffer is None:
            self._buffer = Buffer(self._launch.buffer)
        return self._buffer

    def _died(self, process: ProgramProcess, error: ProcessEnded, calls: int) -> None:
        """In the thread of the process, before anybody else is told."""
        self._whose.as_step(partial(self._tell, process, error, calls))

    def _tell(self, process: ProgramProcess, error: ProcessEnded, calls: int) -> None:
        """A step. Unless somebody has ended it in the meantime, it is news. Without ``calls`` no job counts it."""
        if self._process is not process:
            return
        self._process = None
        self._drop_buffer()
        self._ended(error)
        if not calls:
            raise error

    def _drop_buffer(self) -> None:
        if self._buffer is not None:
            self._buffer.close()
        self._buffer = None
