"""The ways between migration states: every pair, with every set of flags, as Linux's own table has them."""

from itertools import product

import pytest

from mdev_user.errors import GuestError
from mdev_user.vfio.migration_states import MigrationFlags, MigrationState, next_state

STATES = ["ERROR", "STOP", "RUNNING", "STOP_COPY", "RESUMING", "RUNNING_P2P", "PRE_COPY", "PRE_COPY_P2P"]
# The kernel's table for a device that can do everything: a row for each state, a column for each target, each in the
# order of STATES; a digit is the number of the next state, 0 a refusal.
LINUX = ["00000000", "01534555", "05255565", "01131100", "01114111", "01211527", "02272267", "05535567"]
NEEDED = [0, 1, 1, 1, 1, 3, 5, 7]
"""Flags by state: STOP_COPY 1, P2P 2, PRE_COPY 4."""


def linux(current: int, target: int, flags: int) -> int:
    """As the kernel finds it: states that the device does not have are passed over. 0 where it answers EINVAL."""
    for state in (current, target):
        if state == 0 or NEEDED[state] & flags != NEEDED[state]:
            return 0
    state = int(LINUX[current][target])
    while NEEDED[state] & flags != NEEDED[state]:
        state = int(LINUX[state][target])
    return state


def ours(current: int, target: int, flags: int) -> int:
    try:
        return next_state(MigrationState(current), target, MigrationFlags(flags))
    except GuestError:
        return 0


def test_numbers_are_those_of_linux() -> None:
    assert [each.name for each in MigrationState] == STATES
    assert [int(each) for each in MigrationState] == list(range(8))
    assert {each.name: int(each) for each in MigrationFlags} == {"STOP_COPY": 1, "P2P": 2, "PRE_COPY": 4}


@pytest.mark.parametrize("flags", range(8))
def test_every_pair_goes_where_linux_goes(flags: int) -> None:
    pairs = list(product(range(8), repeat=2))
    assert len(pairs) == 64
    for current, target in pairs:
        assert ours(current, target, flags) == linux(current, target, flags), (STATES[current], STATES[target])


@pytest.mark.parametrize(
    ("flags", "way"),
    [
        (1, "RUNNING STOP STOP_COPY"),
        (1, "STOP_COPY STOP RUNNING"),
        (1, "RESUMING STOP STOP_COPY"),
        (5, "PRE_COPY STOP_COPY"),
        (5, "STOP RUNNING PRE_COPY"),
        (5, "PRE_COPY RUNNING STOP RESUMING"),
        (7, "RUNNING RUNNING_P2P STOP STOP_COPY"),
        (7, "PRE_COPY PRE_COPY_P2P STOP_COPY"),
        (7, "RESUMING STOP RUNNING_P2P PRE_COPY_P2P"),
        (7, "STOP_COPY STOP RUNNING_P2P RUNNING"),
        (7, "PRE_COPY RUNNING RUNNING_P2P STOP"),
        (7, "STOP STOP"),
    ],
)
def test_way_is_that_of_the_header(flags: int, way: str) -> None:
    state, *others = (MigrationState[each] for each in way.split())
    for each in others:
        state = next_state(state, others[-1], MigrationFlags(flags))
        assert state is each
    assert next_state(state, others[-1], MigrationFlags(flags)) is state


@pytest.mark.parametrize("target", [0, 8, -1, 1 << 32])
def test_nobody_can_ask_for_what_is_no_state(target: int) -> None:
    with pytest.raises(GuestError, match="cannot enter"):
        next_state(MigrationState.RUNNING, target, MigrationFlags(7))


def test_device_that_cannot_be_migrated_goes_nowhere() -> None:
    assert [ours(2, target, 0) for target in range(8)] == [0] * 8
