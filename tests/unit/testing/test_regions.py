"""The memory that a guest under test maps: where it was touched, and that a copy of the process has its own."""

import os

import pytest

from mdev_user.testing.regions import Regions
from mdev_user.units import PAGE

# Newer Pythons warn of a fork beside threads that other tests have left; what is copied here takes no lock.
pytestmark = pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
SIZE = 16 * PAGE


def test_only_what_was_touched_can_be_other_than_zero() -> None:
    regions = Regions()
    assert regions.extents(0, SIZE) == []
    view = regions.view(0, SIZE)
    assert regions.extents(0, SIZE) == []
    for at in (PAGE, 2 * PAGE + 5, SIZE - 1):
        view[at] = 1
    assert regions.extents(0, SIZE) == [(PAGE, 3 * PAGE), (15 * PAGE, SIZE)]
    assert regions.extents(1, SIZE) == []
    for page in range(16):
        view[page * PAGE] = 1
    assert regions.extents(0, SIZE) == [(0, SIZE)]


def test_a_copy_of_the_process_has_memory_of_its_own() -> None:
    view = Regions().view(0, SIZE)
    view[0] = 1
    pid = os.fork()
    if pid == 0:
        view[0] = 2
        os._exit(view[0])
    _pid, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 2
    assert view[0] == 1
