"""DEVICE_GET_REGION_INFO: sizes, flags, the fd to map from. Its capabilities are in test_capabilities."""

import mmap
import os
from errno import EINVAL

import pytest
from typing_extensions import override

from mdev_user.errors import GuestError
from mdev_user.vfio.requests import Area, Region, RegionFlags, RegionInfo
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import Command
from protocol.device import MEMORY_SIZE, TRAPPED, TestDevice
from protocol.region_info import INFO, ask_region, fields
from protocol.served import Served, Wire


def test_config_space_and_registers_are_trapped(client: Client) -> None:
    config = client.region_info(Region.CONFIG)
    assert (config.size, config.flags, config.fd) == (256, RegionFlags.READ | RegionFlags.WRITE, -1)
    assert config.offset == (1 << 62) + (7 << 40)


def test_a_region_that_is_not_there_has_no_size(client: Client) -> None:
    assert client.region_info(Region.VGA).size == 0


@pytest.mark.parametrize("index", [9, 100, 1 << 23, (1 << 32) - 1])
def test_a_region_that_no_device_has_is_einval(wire: Wire, index: int) -> None:
    assert ask_region(wire, index).errno == EINVAL
    assert wire.works()


@pytest.mark.parametrize("payload", [b"", bytes(31), INFO.pack(31, 0, 0, 0, 0, 0), INFO.pack(32, 0, 0, 0, 0, 0) + b"x"])
def test_a_bad_size_of_region_info_is_einval(wire: Wire, payload: bytes) -> None:
    assert wire.ask(Command.DEVICE_GET_REGION_INFO, payload).errno == EINVAL
    assert wire.works()


def test_a_region_mapped_whole_comes_with_its_fd_at_once(wire: Wire) -> None:
    answer = ask_region(wire, Region.BAR4)
    assert fields(answer) == {
        "argsz": 32, "flags": 7, "index": 4, "cap": 0, "size": MEMORY_SIZE, "offset": (1 << 62) + (4 << 40),
    }  # fmt: skip
    (fd,) = answer.fds
    os.close(fd)


def test_what_a_client_maps_is_what_the_device_sees(client: Client, served: Served) -> None:
    region = client.region_info(Region.BAR2)
    assert region.areas == (Area(TRAPPED, MEMORY_SIZE - TRAPPED),)
    with mmap.mmap(region.fd, region.areas[0].size, offset=region.offset + region.areas[0].offset) as mapped:
        mapped[:5] = b"guest"
        assert client.region_read(Region.BAR2, TRAPPED, 5) == b"guest"
        client.region_write(Region.BAR2, TRAPPED + 0x100, b"device")
        assert mapped[0x100:0x106] == b"device"
    os.close(region.fd)


class Choosy(TestDevice):
    """Says that regions may be mapped, and then lets only one area of BAR2 and nothing of BAR4."""

    @override
    def mmap(self, region: int, offset: int, length: int) -> None:
        if (region, offset) != (Region.BAR2, 0x2000):
            raise GuestError("not that one")

    @override
    def _region_info(self, index: int) -> RegionInfo:
        info = super()._region_info(index)
        if index != Region.BAR2:
            return info
        return RegionInfo(index, info.flags, info.size, (Area(0x1000, 0x1000), Area(0x2000, 0x1000)))


def test_areas_that_the_driver_refuses_to_map_are_trapped() -> None:
    with Served(Choosy()) as served:
        client = Client.over(served.socket)
        assert client.region_info(Region.BAR4).flags == RegionFlags.READ | RegionFlags.WRITE
        region = client.region_info(Region.BAR2)
        assert region.areas == (Area(0x2000, 0x1000),)
        os.close(region.fd)
