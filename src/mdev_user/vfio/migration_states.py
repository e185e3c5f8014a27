"""The migration states of a VFIO device, and the way from one to another.

The states, their numbers and the ways are those of ``enum vfio_device_mig_state`` (``include/uapi/linux/vfio.h``) and
of `vfio_mig_get_next_state` (``drivers/vfio/vfio_main.c``): a user asks for a state, and the device goes there arc by
arc, by the shortest way, which begins or ends no stream between.
"""

from collections.abc import Mapping
from enum import IntEnum, IntFlag

from mdev_user.errors import GuestError


class MigrationState(IntEnum):
    """What a device does: what it may do by itself, and which stream is being read or written."""

    ERROR = 0
    STOP = 1
    RUNNING = 2
    STOP_COPY = 3
    RESUMING = 4
    RUNNING_P2P = 5
    PRE_COPY = 6
    PRE_COPY_P2P = 7


class MigrationFlags(IntFlag):
    """What a device can do; without STOP_COPY it cannot be migrated."""

    STOP_COPY = 1
    P2P = 2
    PRE_COPY = 4


ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = MigrationState

_NEEDED = {
    STOP: MigrationFlags.STOP_COPY,
    RUNNING: MigrationFlags.STOP_COPY,
    STOP_COPY: MigrationFlags.STOP_COPY,
    RESUMING: MigrationFlags.STOP_COPY,
    RUNNING_P2P: MigrationFlags.STOP_COPY | MigrationFlags.P2P,
    PRE_COPY: MigrationFlags.STOP_COPY | MigrationFlags.PRE_COPY,
    PRE_COPY_P2P: MigrationFlags.STOP_COPY | MigrationFlags.P2P | MigrationFlags.PRE_COPY,
}
"""What a device needs to have for each state; ERROR nobody can ask for."""

_USUAL = {
    STOP: RUNNING_P2P,
    RUNNING: RUNNING_P2P,
    STOP_COPY: STOP,
    RESUMING: STOP,
    RUNNING_P2P: STOP,
    PRE_COPY: RUNNING,
    PRE_COPY_P2P: RUNNING_P2P,
}
"""Where each state leads that is not on the way to one of `_SPECIAL`."""

_SPECIAL: Mapping[MigrationState, Mapping[MigrationState, MigrationState]] = {
    STOP: {STOP_COPY: STOP_COPY, RESUMING: RESUMING},
    RUNNING: {PRE_COPY: PRE_COPY},
    STOP_COPY: {PRE_COPY: ERROR, PRE_COPY_P2P: ERROR},
    RESUMING: {},
    RUNNING_P2P: {RUNNING: RUNNING, PRE_COPY: RUNNING, PRE_COPY_P2P: PRE_COPY_P2P},
    PRE_COPY: {PRE_COPY_P2P: PRE_COPY_P2P, STOP_COPY: PRE_COPY_P2P},
    PRE_COPY_P2P: {PRE_COPY: PRE_COPY, STOP_COPY: STOP_COPY},
}
"""By the state and the target, the state in between; ERROR where there is no way."""


def next_state(current: MigrationState, target: int, flags: MigrationFlags) -> MigrationState:
    """The next state on the way from ``current`` to ``target``; ``current`` itself when it is the target.

    EINVAL where Linux refuses: ERROR at either end, a state that needs what ``flags`` do not have, and from STOP_COPY
    back to PRE_COPY (what was copied would have to be forgotten: the way leads over RUNNING, in two requests).
    """
    for state, what in ((current, "leave"), (target, "enter")):
        if not _has(state, flags):
            raise GuestError(f"migration: a device with {flags!s} cannot {what} {_name(state)}")
    target = MigrationState(target)
    if current is target:
        return current
    state = current
    while True:
        state = _SPECIAL[state].get(target, _USUAL[state])
        if state is ERROR:
            raise GuestError(f"migration: there is no way from {current.name} to {target.name}: go to RUNNING first")
        if _has(state, flags):
            return state


def _has(state: int, flags: MigrationFlags) -> bool:
    needed = _NEEDED.get(state)  # type: ignore[call-overload]  # an int that is none of ours is not there either
    return needed is not None and needed & flags == needed


def _name(state: int) -> str:
    return MigrationState(state).name if state in list(MigrationState) else f"state {state}"
