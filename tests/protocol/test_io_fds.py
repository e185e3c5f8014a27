"""DEVICE_GET_REGION_IO_FDS: no part of a region is accessed through file descriptors, and that is what is said."""

import struct
from errno import EINVAL

import pytest

from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import Command
from protocol.served import Wire


def io_fds(index: int = 0, argsz: int = 16, flags: int = 0, count: int = 0, tail: bytes = b"") -> bytes:
    return struct.pack("=IIII", argsz, flags, index, count) + tail


@pytest.mark.parametrize("index", range(9))
def test_every_region_has_none(wire: Wire, index: int) -> None:
    answer = wire.ask(Command.DEVICE_GET_REGION_IO_FDS, io_fds(index, argsz=1000))
    assert answer.payload == io_fds(index)
    assert not answer.fds


def test_our_client_is_told_none(client: Client) -> None:
    assert client.region_io_fds(0) == 0


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        io_fds()[:-1],
        io_fds(argsz=15),
        io_fds(tail=b"x"),
        io_fds(flags=1),
        io_fds(count=1),
        io_fds(index=9),
        io_fds(index=(1 << 32) - 1),
    ],
)
def test_a_bad_question_is_einval(wire: Wire, payload: bytes) -> None:
    assert wire.ask(Command.DEVICE_GET_REGION_IO_FDS, payload).errno == EINVAL
    assert wire.works()
