"""The migration of an open VFIO device: the state it is in, and the stream that is read or written meanwhile.

What each state means is told in ``include/uapi/linux/vfio.h`` (the comments of ``enum vfio_device_mig_state``). Where
the bytes come from and go to is the driver's: an `Outgoing` and an `Incoming` made by its operations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mdev_user.errors import GuestError, MdevUserError, StateError, UnknownRequest, Unmigratable
from mdev_user.vfio.migration_states import (
    ERROR,
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    RUNNING,
    STOP_COPY,
    MigrationFlags,
    MigrationState,
    next_state,
)

if TYPE_CHECKING:
    from mdev_user.vfio.device import VfioDevice

_PRE_COPYING = frozenset({PRE_COPY, PRE_COPY_P2P})
_SAVING = _PRE_COPYING | {STOP_COPY}


@dataclass(frozen=True, slots=True)
class Precopy:
    """What VFIO_MIG_GET_PRECOPY_INFO tells, in bytes; estimates."""

    initial_bytes: int
    """Of what the other end needs before the device is stopped, what was not yet read."""
    dirty_bytes: int
    """Of what has changed since it was read."""


class Outgoing(Protocol):
    """The state of a device on its way out. To make one costs nothing; it is used under the step lock."""

    def read(self, most: int) -> bytes:
        """At most ``most`` bytes, more than 0. b"": nothing at the moment (pre-copy), the end (stopped)."""
        ...

    def stop(self) -> None:
        """The device is stopped: what is read from here on is the rest, and then the end."""
        ...

    def precopy(self) -> Precopy: ...

    def size(self) -> int:
        """How many bytes are still to be read at most, about."""
        ...

    def close(self) -> None: ...


class Incoming(Protocol):
    """The state of another device on its way in, which nobody believes. Used under the step lock."""

    def write(self, data: bytes) -> None:
        """Some more of the stream. StateError as soon as it can be told that the device cannot be that."""
        ...

    def finish(self) -> None:
        """Be what the stream says. StateError, and nothing has changed, when it is not whole or cannot be."""
        ...

    def close(self) -> None: ...


class Migration:
    """Of one open device, from its open to its close; everything here is a step of it."""

    __slots__ = ("_device", "_entered", "_incoming", "_outgoing", "state")

    def __init__(self, device: "VfioDevice", entered: Callable[[MigrationState], None]) -> None:
        """``entered`` is called with each state on the way: it stops and resumes what runs of the device."""
        self.state = RUNNING
        self._device, self._entered = device, entered
        self._outgoing: Outgoing | None = None
        self._incoming: Incoming | None = None

    @property
    def flags(self) -> MigrationFlags:
        """What the device can do; 0 when it cannot be migrated, and then everything here is ENOTTY."""
        return self._device.ops.migration_flags()

    def set_state(self, target: int) -> None:
        """Go there. EINVAL where Linux refuses. Where it fails on the way, ``state`` is how far it came.

        EOPNOTSUPP, and nothing has changed, when the device cannot be saved at the moment, and is to be.
        A stream that the device cannot be is a StateError at the end of RESUMING: the device is as it was, what was
        written is forgotten, and RESUMING goes on. Any other failure there, and a driver's bug anywhere, ends in ERROR.
        """
        flags = self._flags()
        if target in _SAVING and target != self.state:  # before anything is stopped for nothing
            self._check_migratable()
        while (state := next_state(self.state, target, flags)) is not self.state:
            self._take(state)

    def read(self, most: int) -> bytes:
        """Some bytes of the device's state, ``most`` at the most. EINVAL but in PRE_COPY, PRE_COPY_P2P, STOP_COPY."""
        outgoing = self._saved("read")
        if most <= 0:
            raise GuestError(f"migration: expected to read 1 byte or more, given {most}")
        try:
            return outgoing.read(most)
        except MdevUserError:
            raise
        except BaseException:
            self._fail()
            raise

    def write(self, data: bytes) -> None:
        """Some bytes of another device's state. EINVAL but in RESUMING; after a StateError it begins anew."""
        self._flags()
        if self._incoming is None:
            raise GuestError(f"migration: data can be written in RESUMING, and the state is {self.state.name}")
        try:
            self._incoming.write(data)
        except StateError:
            self._begin_load()
            raise
        except BaseException:
            self._fail()
            raise

    def precopy(self) -> Precopy:
        """VFIO_MIG_GET_PRECOPY_INFO; EINVAL but in PRE_COPY and PRE_COPY_P2P."""
        self._flags()
        if self._outgoing is None or self.state not in _PRE_COPYING:
            raise GuestError(f"migration: there is something to tell in PRE_COPY, and the state is {self.state.name}")
        return self._outgoing.precopy()

    def data_size(self) -> int:
        """Bytes that are still to be read until the device is elsewhere, about; in any state but ERROR."""
        self._flags()
        if self.state is ERROR:
            raise GuestError("migration: the device has failed: reset it")
        if self._outgoing is not None:
            return self._outgoing.size()
        outgoing = self._device.ops.save_state(precopy=False)
        try:
            return outgoing.size()
        finally:
            outgoing.close()

    def reset(self) -> None:
        """The device was reset: it is RUNNING, whatever it was, and no stream is left."""
        self._close_streams()
        if self.state is not RUNNING:
            self.state = RUNNING
            self._entered(RUNNING)

    def close(self) -> None:
        """The device is closed, or about to be reset: no stream is left."""
        self._close_streams()

    def _check_migratable(self) -> None:
        if (reason := self._device.ops.unmigratable()) is not None:
            raise Unmigratable(f"{self._device.uuid} cannot be saved now: {reason}")

    def _flags(self) -> MigrationFlags:
        flags = self.flags
        if not flags:
            raise UnknownRequest("this device cannot be migrated: its driver has no way to save it")
        return flags

    def _saved(self, verb: str) -> Outgoing:
        self._flags()
        if self._outgoing is None:
            raise GuestError(f"migration: data can be {verb} in PRE_COPY and STOP_COPY, the state is {self.state.name}")
        return self._outgoing

    def _take(self, state: MigrationState) -> None:
        """One arc. What runs is stopped before the stream is; what begins to run does so when the stream is gone."""
        before = self.state
        self._entered(state)
        try:
            if before is RESUMING:
                self._load()
            else:
                self._change_stream(before, state)
        except StateError:
            self._entered(before)
            raise
        except BaseException as error:
            if before is RESUMING or not isinstance(error, MdevUserError):
                self._fail()
            else:
                self._entered(before)
            raise
        self.state = state

    def _change_stream(self, before: MigrationState, state: MigrationState) -> None:
        if state is RESUMING:
            self._begin_load()
        elif state not in _SAVING:
            self._close_streams()
        elif before not in _SAVING:
            self._outgoing = self._device.ops.save_state(precopy=state is not STOP_COPY)
        elif state is STOP_COPY and self._outgoing is not None:
            self._outgoing.stop()

    def _begin_load(self) -> None:
        self._close_streams()
        self._incoming = self._device.ops.load_state()

    def _load(self) -> None:
        if self._incoming is None:
            raise StateError("migration: nothing was written")
        try:
            self._incoming.finish()
        except StateError:
            self._begin_load()
            raise
        self._close_streams()

    def _fail(self) -> None:
        self._close_streams()
        self.state = ERROR
        self._entered(ERROR)

    def _close_streams(self) -> None:
        outgoing, self._outgoing = self._outgoing, None
        incoming, self._incoming = self._incoming, None
        for stream in (outgoing, incoming):
            if stream is not None:
                stream.close()
