"""Moving: a mover takes the state of one mdev while its user goes on, or gives it one before it has a user.

It asks for the migration states of VFIO, as a user would, but is none: a user who stops its device knows it, and this
one must not. So while a mover has a device stopped it *holds the step lock*. What the user asks for waits, and nothing
is lost; but a guest waits too, so the hold has an end (`MOST_HELD`), whatever the mover does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Protocol

from typing_extensions import override

from mdev_user.errors import Busy, GuestError, NoDevice, NotReady, NotSupported, StateError, Unmigratable
from mdev_user.host.jobs import Jobs
from mdev_user.host.region_file import RegionFile
from mdev_user.host.steps import PATIENCE, step_within
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.migration import Incoming, Outgoing
from mdev_user.vfio.migration_states import (
    PRE_COPY,
    RESUMING,
    RUNNING,
    STOP,
    STOP_COPY,
    MigrationFlags,
    MigrationState,
    next_state,
)
from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio_user.letting_in import let_in

MOST_HELD = 4.0
"""Seconds that a guest may wait for a mover: QEMU gives an access up after 5."""

_Arc = tuple[MigrationState, MigrationState]


@dataclass(frozen=True, eq=False)
class Use:
    """What an open device has, whoever uses it at the moment."""

    memory: RegionFile
    jobs: Jobs


class Place(Protocol):
    """The mdev whose state is moved."""

    @property
    def device(self) -> VfioDevice: ...

    @property
    def lock(self) -> StepLock:
        """Its step lock."""
        ...

    @property
    def use(self) -> Use | None:
        """None while the device is not open. It changes in steps of the mdev."""
        ...


class Move:
    """The migration of one mdev by one mover, in whose thread all is done but `Saving.hand_over`."""

    def __init__(self, place: Place) -> None:
        """EINVAL where the driver cannot be saved and loaded."""
        self.state = RUNNING
        self._place = place
        self._ops = place.device.ops
        self._guard = Lock()
        """Held for each request, so that nobody hands over in the middle of one."""
        self._held_until: float | None = None
        self._arcs: dict[_Arc, Callable[[], None]] = {}
        self.flags = self._ops.migration_flags() & ~MigrationFlags.P2P
        if not self.flags:
            raise NotSupported("its driver is written by hand and cannot be saved: only what is declared can")

    @property
    def deadline(self) -> float | None:
        """When the device goes on by itself, by the monotonic clock; None while nobody waits."""
        return self._held_until

    def set_state(self, target: int) -> None:
        """Go there. EINVAL, and nothing has changed, where there is no way; an arc that raises is not gone."""
        with self._guard:
            for arc in self._way(target):
                if arc not in self._arcs:
                    raise GuestError(
                        f"migration from {arc[0].name} to {arc[1].name}: this mover came for something else"
                    )
            for arc in self._way(target):
                self._arcs[arc]()
                self.state = arc[1]

    def _way(self, target: int) -> list[_Arc]:
        way: list[_Arc] = []
        state = self.state
        while (following := next_state(state, target, self.flags)) is not state:
            way.append((state, following))
            state = following
        return way

    def read(self, most: int) -> bytes:
        """Some of the state, at most ``most`` bytes. EINVAL where none is saved."""
        raise GuestError(f"migration: {most} bytes cannot be read: a state is loaded here")

    def write(self, data: bytes) -> None:
        """Some of the state. EINVAL where none is loaded, and StateError for what the device cannot be."""
        raise GuestError(f"migration: {len(data)} bytes cannot be written: a state is saved here")

    def data_size(self) -> int:
        """Bytes that are still to be read, about. EINVAL where none is saved."""
        raise GuestError("migration: there is no size: a state is loaded here")

    def goes_on_late(self) -> bool:
        """Let the device go on if its user has waited long enough, and say so."""
        with self._guard:
            if self._held_until is None or monotonic() < self._held_until:
                return False
            self._abandon()
            return True

    def end(self) -> None:
        """The mover is gone: whatever it had stopped goes on."""
        with self._guard:
            self._abandon()

    def forget(self) -> None:
        """Let go of what was kept for the mover, after `end`. With much memory that takes a while."""

    def _abandon(self) -> None:
        raise NotImplementedError

    def _check(self) -> None:
        """A part of each step: what must still be so."""
        if self._place.device.ops is not self._ops:
            raise NotReady("its driver was reloaded meanwhile: begin again")

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """One step of the mdev, or a part of the one that is held."""
        if self._held_until is not None:
            yield
            return
        let_in(self._place.lock)
        with step_within(self._place.lock, self._place.device.counters, name):
            self._check()
            yield


class Saving(Move):
    """A state is taken. The device goes on when this ends, unless it was handed over."""

    def __init__(self, place: Place) -> None:
        """ENODEV where there is no state, since nobody has the device open; EBUSY while its user migrates it."""
        super().__init__(place)
        self._use = place.use
        self._stream: Outgoing | None = None
        self._close: Callable[[], None] | None = None
        self._arcs = {
            (RUNNING, PRE_COPY): self._begin,
            (PRE_COPY, RUNNING): self._drop,
            (PRE_COPY, STOP_COPY): self._stop_stream,
            (RUNNING, STOP): self._hold,
            (STOP, RUNNING): self._release,
            (STOP, STOP_COPY): self._begin_stopped,
            (STOP_COPY, STOP): self._drop,
        }
        with self._step("save"):  # which checks whether there is something to save
            if (reason := self._ops.unmigratable()) is not None:
                raise Unmigratable(f"{place.device.uuid} cannot be saved now: {reason}")

    @override
    def read(self, most: int) -> bytes:
        with self._guard, self._step("save"):
            return self._reading().read(most)

    @override
    def data_size(self) -> int:
        with self._guard, self._step("save"):
            return self._reading().size()

    def hand_over(self, close: Callable[[], None]) -> None:
        """The state is at home elsewhere by now: at the `end`, ``close`` the device instead of letting it go on.

        So it is one step with what was read since the device was stopped. EBUSY when it is not stopped (any more): what
        was read is old. Called in another thread than the mover's; from here on that one can ask for nothing.
        """
        with self._guard:
            if self._held_until is None or monotonic() >= self._held_until:
                raise Busy("it is not stopped for its mover (any more): what was saved of it is old")
            self._close = close

    @override
    def _check(self) -> None:
        super()._check()
        if self._use is None:
            raise NoDevice("nobody has it open, so it has no state: a device is reset whenever it is opened")
        if self._place.use is not self._use:
            raise NoDevice("its user went away, and its state with it")
        if (state := self._place.device.migration.state) is not RUNNING:
            raise Busy(f"its user migrates it, and has it in {state.name}")

    @override
    def forget(self) -> None:
        # Not as a step: the device may be stuck, or another's by now, and nobody else has the stream.
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _reading(self) -> Outgoing:
        if self._stream is None or self._close is not None:
            raise GuestError(f"migration: expected PRE_COPY or STOP_COPY for this, it is in {self.state.name}")
        return self._stream

    def _begin(self) -> None:
        with self._step("save"):
            self._stream = self._ops.save_state(precopy=True)

    def _begin_stopped(self) -> None:
        self._stream = self._ops.save_state(precopy=False)
        self._stream.stop()

    def _stop_stream(self) -> None:
        self._hold()
        try:
            self._reading().stop()
        except BaseException:
            self._release()
            raise

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with self._step("save"):
                stream.close()

    def _hold(self) -> None:
        if not self._place.lock.acquire(timeout=PATIENCE):
            raise Busy(f"it has been in one step for more than {PATIENCE:g} s: its driver is stuck")
        try:
            self._check()
        except BaseException:
            self._place.lock.release()
            raise
        self._held_until = monotonic() + MOST_HELD

    def _release(self) -> None:
        if self._close is not None and self.state is not RUNNING:
            raise GuestError("migration: it was handed over and does not go on")
        if self._held_until is not None:
            self._held_until = None
            self._place.lock.release()

    @override
    def _abandon(self) -> None:
        self.state = RUNNING
        try:
            if self._close is not None:
                self._close()
        finally:
            self._release()


class Loading(Move):
    """A device that was opened for this is given a state. ``confirmed``: it is to be kept when this ends."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.confirmed = False
        self._loaded = False
        self._stream: Incoming | None = None
        self._arcs = {
            (RUNNING, STOP): self._withdraw,
            (STOP, RESUMING): self._begin,
            (RESUMING, STOP): self._load,
            (STOP, RUNNING): self._confirm,
        }

    @override
    def write(self, data: bytes) -> None:
        with self._guard, self._step("load"):
            if self._stream is None:
                raise GuestError(f"migration: expected RESUMING for data, it is in {self.state.name}")
            try:
                self._stream.write(data)
            except StateError:
                self._renew()
                raise

    def _begin(self) -> None:
        with self._step("load"):
            self._renew()

    def _renew(self) -> None:
        self._drop()
        self._stream = self._ops.load_state()

    def _load(self) -> None:
        with self._step("load"):
            if self._stream is None:
                raise StateError("migration: nothing was written")
            try:
                self._stream.finish()
            except StateError:
                self._renew()
                raise
            self._drop()
            self._loaded = True

    def _confirm(self) -> None:
        self.confirmed = self._loaded

    def _withdraw(self) -> None:
        self.confirmed = False

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    @override
    def _abandon(self) -> None:
        self._drop()
