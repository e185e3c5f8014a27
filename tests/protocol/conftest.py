"""Every test here gets a device served over a socketpair, and fails when it leaves a file descriptor behind."""

from collections.abc import Iterator

import pytest

from mdev_user.vfio_user.client import Client
from protocol.served import Served, Wire, open_fds


@pytest.fixture(autouse=True)
def no_fd_is_left() -> Iterator[None]:
    before = open_fds()
    yield
    assert open_fds() == before, "file descriptors were leaked"


@pytest.fixture
def served(no_fd_is_left: None) -> Iterator[Served]:
    with Served() as served:
        yield served


@pytest.fixture
def wire(served: Served) -> Wire:
    """A raw wire behind VERSION."""
    wire = Wire(served.socket)
    wire.hello()
    return wire


@pytest.fixture
def client(served: Served) -> Client:
    return Client.over(served.socket)
