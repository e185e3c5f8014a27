"""A daemon with one mtty parent, shared by the tests of a file: they leave no mdev behind."""

from collections.abc import Iterator
from uuid import UUID

import pytest

from mdev_user.testing.daemon import RunningDaemon


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty") as daemon:
        yield daemon


@pytest.fixture
def daemon(shared_daemon: RunningDaemon) -> Iterator[RunningDaemon]:
    yield shared_daemon
    for each in shared_daemon.control.mdevs():
        shared_daemon.control.remove(UUID(each.uuid), wait=0, force=True)
