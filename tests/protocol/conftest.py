"""Every test here gets a device served over a socketpair, and fails when it leaves a file descriptor behind.

Each runs with both loops: the one in Python and the native one.
"""

import os
from collections.abc import Iterator

import pytest

from core import core_skip
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.loops import CHOICE, why_not_native
from protocol.ram import memfd
from protocol.served import Served, Wire, open_fds


@pytest.fixture(autouse=True, params=["python", "native"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which loop answers accesses."""
    name: str = request.param
    if name == "native" and (absent := why_not_native()):
        core_skip(absent)
    monkeypatch.setenv(CHOICE, name)
    return name


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


@pytest.fixture
def ram(no_fd_is_left: None) -> Iterator[int]:
    fd = memfd()
    yield fd
    os.close(fd)


@pytest.fixture
def eventfds(no_fd_is_left: None) -> Iterator[list[int]]:
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(8)]
    yield fds
    for fd in fds:
        os.close(fd)
