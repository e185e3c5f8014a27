"""DEVICE_GET_INFO: what the device is, and how much of everything it has."""

import struct
from errno import EINVAL

import pytest

from mdev_user.vfio.requests import DeviceFlags, DeviceInfo
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import Command
from protocol.served import Wire


def info(argsz: int = 16, tail: bytes = b"") -> bytes:
    return struct.pack("=IIII", argsz, 0, 0, 0) + tail


def test_device_info(client: Client) -> None:
    assert client.device_info() == DeviceInfo(DeviceFlags.RESET | DeviceFlags.PCI, 9, 5)


def test_device_info_on_the_wire(wire: Wire) -> None:
    assert wire.ask(Command.DEVICE_GET_INFO, info()).payload == struct.pack("=IIII", 16, 3, 9, 5)


@pytest.mark.parametrize("payload", [b"", bytes(15), info(argsz=15), info(tail=b"x")])
def test_a_bad_size_is_einval(wire: Wire, payload: bytes) -> None:
    assert wire.ask(Command.DEVICE_GET_INFO, payload).errno == EINVAL
    assert wire.works()


def test_what_is_longer_than_the_structure_is_taken_up_to_its_argsz(wire: Wire) -> None:
    assert not wire.ask(Command.DEVICE_GET_INFO, info(argsz=24, tail=bytes(8))).errno
