"""What tests of other people's programs share: the folder with Debian 13's, and a serial and a GPU-like parent."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from core import core_skip as skip_core
from mdev_user.guests.management import ManagementRoot, find_management_root
from mdev_user.testing.daemon import RunningDaemon
from tools.inside import Inside

VGPU = f"{Path(__file__).parent}/parents/vgpu.py:Gpu"
PCI_NAME = "4d44:00:01.0"


@pytest.fixture(scope="session")
def management_root() -> ManagementRoot:
    """Debian 13's libvirt, mdevctl and lspci."""
    root = find_management_root()
    if root is None:
        skip_core("no management root: `python -m mdev_user.guests management` makes it")
    return root


@pytest.fixture(scope="session")
def both_parents() -> Iterator[RunningDaemon]:
    """A daemon with a parent ``mtty`` and one that looks like a PCI function. Tests leave no mdev behind."""
    with RunningDaemon("mtty", f"{VGPU},name={PCI_NAME}") as daemon:
        yield daemon


@pytest.fixture(scope="session")
def inside(both_parents: RunningDaemon) -> Iterator[Inside]:
    """Programs that see its tree in /sys, and are told of no events."""
    with Inside(both_parents) as inside:
        yield inside


@pytest.fixture
def no_mdevs_left(both_parents: RunningDaemon) -> Iterator[None]:
    """Removes what a test created."""
    yield
    for each in both_parents.control.mdevs():
        both_parents.control.remove(UUID(each.uuid), wait=0, force=True)
