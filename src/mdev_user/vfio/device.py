"""A VFIO device: the state of one open device, and the driver's operations bound to it.

The counterpart of Linux's ``struct vfio_device``. It is made by the driver of the mdev bus, opened by whoever serves
a user (a vfio-user socket, the ioctl interface), and given to the driver's `open_device`.
"""

from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from typing import Protocol, TypeVar
from uuid import UUID

from mdev_user.errors import Busy, DriverError, GuestError, NoDevice
from mdev_user.vfio.counters import Counters
from mdev_user.vfio.damage import Damage, DamageFeeds
from mdev_user.vfio.dma import DmaMappings
from mdev_user.vfio.migration import Migration
from mdev_user.vfio.migration_states import ERROR, PRE_COPY, RESUMING, RUNNING, STOP, STOP_COPY, MigrationState
from mdev_user.vfio.ops import DeviceOps, DirectRunner, JobRunner, RegionMemory, SparseMemory
from mdev_user.vfio.plain import NoTable, PlainTable
from mdev_user.vfio.programs import ProgramRunner
from mdev_user.vfio.requests import (
    DeviceInfo,
    GetInfo,
    GetIrqInfo,
    GetRegionInfo,
    IrqInfo,
    Region,
    RegionInfo,
    Reply,
    Request,
    Reset,
    SetIrqs,
)
from mdev_user.vfio.screens import Picture, check_head, shown
from mdev_user.vfio.work import Near, Spent

_STOPPED = frozenset({STOP, STOP_COPY, RESUMING, ERROR})
"""States in which the user accesses nothing but the config space."""
_BY_ITSELF = frozenset({RUNNING, PRE_COPY})
"""States in which the device does something that nobody asked for just now."""

_T = TypeVar("_T", DeviceInfo, RegionInfo, IrqInfo)


def _closed(*_arguments: object) -> bytes:
    raise NoDevice("the device is not open")


_R = TypeVar("_R")


def _config_only(access: Callable[..., _R], state: str, region: int, *arguments: object) -> _R:
    if region != Region.CONFIG:
        raise GuestError(f"the device is in the migration state {state}: only its config space can be accessed")
    return access(region, *arguments)


def _begin_at_access(begin: Callable[[], None], access: Callable[..., _R], region: int, *arguments: object) -> _R:
    if region != Region.CONFIG:
        begin()
    return access(region, *arguments)


def _begin_at_arming(begin: Callable[[], None], ioctl: Callable[[Request], _R], request: Request) -> _R:
    if isinstance(request, SetIrqs) and any(request.eventfds or ()):
        begin()
    return ioctl(request)


class Watcher(Protocol):
    """Stands between a user and the driver's operations, which it calls. Everything here is part of a step."""

    def read(self, region: int, offset: int, count: int) -> bytes: ...

    def write(self, region: int, offset: int, data: bytes) -> object: ...

    def ioctl(self, request: Request) -> Reply: ...

    def opened(self) -> None: ...

    def closed(self) -> None: ...

    def replaced(self) -> None:
        """The device has other operations from now on."""
        ...

    def spawned(self, name: str) -> None:
        """A job of this name is started."""
        ...


class VfioDevice:
    """One device, open or not; everything but the identity is used under the device's step lock.

    ``read``, ``write`` and ``ioctl`` are the driver's own methods, bound when the device is opened: an access looks
    nothing up. A watcher's are there instead while it watches.
    """

    __slots__ = (
        "_begin",
        "_jobs",
        "_memory",
        "_migration",
        "_watcher",
        "counters",
        "damage",
        "direct",
        "dma",
        "ioctl",
        "mmap",
        "name",
        "near",
        "opened",
        "ops",
        "plain",
        "programs",
        "read",
        "uuid",
        "write",
    )

    read: Callable[[int, int, int], bytes]
    write: Callable[[int, int, bytes], object]
    ioctl: Callable[[Request], Reply | bytes]
    mmap: Callable[[int, int, int], object]
    direct: DirectRunner | None
    """The runner of the jobs, if it does DMA at once."""
    _begin: Callable[[], None] | None
    """To be called before the device's user first makes it do something."""

    def __init__(self, uuid: UUID, name: str, ops: DeviceOps) -> None:
        """``name`` is "parent/type", for people."""
        self.uuid = uuid
        self.name = name
        self.ops = ops
        self.counters = Counters()
        self.opened = False
        self._jobs: JobRunner | None = None
        self._memory: RegionMemory | None = None
        self._migration: Migration | None = None
        self._watcher: Watcher | None = None
        self.plain: PlainTable = NoTable()
        self.near = Near()
        self.damage = DamageFeeds()
        self._forget()

    def open(self, jobs: JobRunner, memory: RegionMemory) -> None:
        """Begin one user's use. EBUSY while another uses it; whatever the driver's `open_device` raises undoes it."""
        if self.opened:
            raise Busy(f"{self.uuid} is in use")
        self.dma, self._jobs, self._memory = DmaMappings(), jobs, memory
        self.direct = jobs if isinstance(jobs, DirectRunner) else None
        self.programs = jobs if isinstance(jobs, ProgramRunner) else None
        with ExitStack() as undo:
            undo.callback(self._forget)
            undo.callback(self._end_jobs)
            self.ops.open_device(self)
            undo.pop_all()
        self.mmap = self.ops.mmap
        self.counters.opens += 1
        self.opened = True
        self._migration = Migration(self, self._entered)
        self._bind()
        self.damage.add_all()
        if self._watcher is not None:
            self._watcher.opened()

    def serve_plain(self, table: PlainTable) -> None:
        """Have the device's users served from ``table`` too, whenever nothing stands between them and the device."""
        self.plain = self.counters.plain = table

    def watch(self, watcher: Watcher | None) -> None:
        """Have every access go through ``watcher`` from now on, whoever opens the device; None: through nobody."""
        self._watcher = watcher
        if self.opened:
            self._bind()

    def picture(self, head: int) -> Picture | None:
        """What is on a head; None for nothing. NoDevice while nobody has the device open; other errors as of `shown`.

        What the driver gives is checked here, so that a picture is one.
        """
        screens = self.ops.screens()
        check_head(screens, head)
        if not self.opened:
            raise NoDevice("nobody has it open, so there is nothing on its screen")
        return shown(screens, head)

    def watch_damage(self, head: int, wake: Callable[[], None]) -> Damage:
        """What changes on a head from now on, whoever uses the device. InvalidValue for one that is not there.

        ``wake`` is called in the step in which something changes, and again only when that was taken.
        """
        check_head(self.ops.screens(), head)
        return self.damage.watch(head, wake, lambda: self.ops.screens().tells_damage)

    def wait_for_use(self) -> None:
        """Let the jobs, which are paused, go on when the user first accesses a BAR or arms an eventfd.

        The device was loaded before it had this user, who maps its memory first: a job that finds none would fail.
        """
        self._begin = self._begin_use
        self._bind()

    def leave_unused(self) -> bool:
        """The user goes: if the device still waits for its use, it forgets this user, and waits for the next one.

        False, and nothing has changed, when the device has done something for this user.
        """
        if self._begin is None or self.migration.state is not RUNNING:
            return False
        self.dma.unmap_all()
        self.dma = DmaMappings()
        return True

    def replace(self, ops: DeviceOps) -> None:
        """Let other operations perform what is asked for from now on; those of the open device know its user."""
        self.ops = ops
        self.damage.add_all()
        if self.opened:
            self.mmap = ops.mmap
            self._bind()
        if self._watcher is not None:
            self._watcher.replaced()

    def close(self) -> None:
        """End the user's use: jobs first, then mappings, then the driver; nothing of the user is left."""
        if not self.opened:
            return
        with ExitStack() as steps:
            steps.callback(self._forget)
            steps.callback(self.ops.close_device)
            steps.callback(self.dma.unmap_all)
            steps.callback(self._end_jobs)
            steps.callback(self.migration.close)
            self.opened = False
            self.damage.add_all()
            if self._watcher is not None:
                self._watcher.closed()

    def spawn(self, work: Coroutine[object, bytes, None], name: str) -> None:
        """Run a coroutine as steps of this device; it may await `dma.read`, `dma.write` and `sleep`.

        ENODEV before `open_device` and in `close_device`, where the user's jobs have ended.
        """
        if (jobs := self._jobs) is None:
            work.close()
            jobs = self._runner()
        jobs.spawn(work, name)
        if self._watcher is not None:
            self._watcher.spawned(name)

    @property
    def acts(self) -> bool:
        """Whether it may do something by itself: it is open, and its user has not stopped it."""
        return self._migration is not None and self._migration.state in _BY_ITSELF

    @property
    def now(self) -> float:
        """The clock of the jobs, in seconds."""
        return self._runner().now

    def spent(self) -> Spent:
        """What the jobs took so far, as far as it was counted: see `JobRunner.spent`."""
        return self._runner().spent()

    def hindered(self) -> None:
        """A job is to go on, and some other step keeps it from that. Alone of all this it is told without the lock."""
        self.ops.hindered()

    def cancel_job(self, work: Coroutine[object, bytes, None]) -> None:
        """One that was spawned ends at its await; at its next, if it calls this itself."""
        if self._jobs is not None:
            self._jobs.cancel(work)

    def cancel_jobs(self) -> None:
        """Jobs end at their await; one that calls this, at its next."""
        if self._jobs is not None:
            self._jobs.cancel_all()

    def memory(self, index: int, size: int) -> memoryview:
        """The bytes of a mappable region; zero when the device is opened, shared with a guest that maps it."""
        if self._memory is None:
            raise NoDevice("the device is not open")
        return self._memory.view(index, size)

    def extents(self, index: int, size: int) -> list[tuple[int, int]]:
        """Where the bytes of `memory` can be other than zero, as pairs of offsets (first, behind the last)."""
        return self._memory.extents(index, size) if isinstance(self._memory, SparseMemory) else [(0, size)]

    @property
    def memory_fd(self) -> int:
        """The file to map regions from. Owned by whoever opened the device."""
        if self._memory is None:
            raise NoDevice("the device is not open")
        return self._memory.fd

    @property
    def migration(self) -> Migration:
        """The migration state that the device's user gave it; ENODEV while nobody has opened it."""
        if self._migration is None:
            raise NoDevice("the device is not open")
        return self._migration

    def info(self) -> DeviceInfo:
        return self._expect(GetInfo(), DeviceInfo)

    def region_info(self, index: int) -> RegionInfo:
        return self._expect(GetRegionInfo(index), RegionInfo)

    def irq_info(self, index: int) -> IrqInfo:
        return self._expect(GetIrqInfo(index), IrqInfo)

    def reset(self) -> None:
        """VFIO_DEVICE_RESET; jobs end at their await before the driver resets. The device runs, whatever it did."""
        self.cancel_jobs()
        self.migration.close()  # first: it may have put something into the memory that the driver resets
        self.ioctl(Reset())
        self.damage.add_all()
        self.migration.reset()
        if self._begin is not None:
            self._begin()

    def _expect(self, request: Request, kind: type[_T]) -> _T:
        reply = self.ioctl(request)
        if not isinstance(reply, kind):
            raise DriverError(
                f"{type(self.ops).__name__}.ioctl answered {request} with {reply!r}: expected {kind.__name__}"
            )
        return reply

    def _bind(self, state: MigrationState | None = None) -> None:
        """As the migration state has it, or as the one has it that is being entered."""
        state = self.migration.state if state is None else state
        performs = self._watcher or self.ops
        self.read, self.write, self.ioctl = performs.read, performs.write, performs.ioctl
        if state in _STOPPED:
            self.read = partial(_config_only, performs.read, state.name)
            self.write = partial(_config_only, performs.write, state.name)
        elif self._begin is not None and state in _BY_ITSELF:
            self.read = partial(_begin_at_access, self._begin, performs.read)
            self.write = partial(_begin_at_access, self._begin, performs.write)
            self.ioctl = partial(_begin_at_arming, self._begin, performs.ioctl)
        if performs is self.ops and state not in _STOPPED and self._begin is None:
            self.plain.fill(self.ops.plain_reads(), self.ops.plain_writes())
        else:
            self.plain.clear()

    def _begin_use(self) -> None:
        self._begin = None
        self._bind()
        self._resume()

    def _entered(self, state: MigrationState) -> None:
        """A running device pays nothing for it: what must not be is bound to what refuses it."""
        self.damage.add_all()  # it may be what was loaded
        if state in _BY_ITSELF:
            self._begin = None
            self._resume()
        else:
            self._runner().pause()
            self.ops.paused()
        self._bind(state)

    def _resume(self) -> None:
        self.ops.resumed()
        self._runner().resume()

    def _runner(self) -> JobRunner:
        if self._jobs is None:
            raise NoDevice("the device is not open: jobs run between open_device and close_device")
        return self._jobs

    def _end_jobs(self) -> None:
        """Also those that are started in the meantime; there are no others until the next user opens the device."""
        try:
            self._runner().cancel_all()
        finally:
            self._jobs = None

    def _forget(self) -> None:
        self.dma = DmaMappings()
        self._jobs = self.direct = self.programs = None
        self._memory = None
        self._migration = None
        self._begin = None
        self.read = self.write = self.ioctl = self.mmap = _closed
        self.plain.clear()
