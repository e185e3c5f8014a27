"""DEVICE_GET_INFO, DEVICE_GET_REGION_INFO and DEVICE_GET_IRQ_INFO: fields, argsz, capabilities, region fds."""

import mmap
import os
import struct
from errno import EINVAL
from typing import Any

import pytest
from typing_extensions import override

from mdev_user.errors import GuestError
from mdev_user.vfio.requests import Area, DeviceFlags, DeviceInfo, Irq, IrqFlags, Region, RegionFlags, RegionInfo
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import Command
from protocol.device import MEMORY_SIZE, TRAPPED, TestDevice
from protocol.served import Answer, Served, Wire

INFO = struct.Struct("=IIIIQQ")


def ask_region(wire: Wire, index: int, argsz: int = 32, tail: bytes = b"") -> Answer:
    return wire.ask(Command.DEVICE_GET_REGION_INFO, INFO.pack(argsz, 0, index, 0, 0, 0) + tail)


def fields(answer: Answer) -> dict[str, Any]:  # whatever the device says
    assert not answer.errno
    return dict(
        zip(("argsz", "flags", "index", "cap", "size", "offset"), INFO.unpack_from(answer.payload), strict=True)
    )


def test_device_info(client: Client) -> None:
    assert client.device_info() == DeviceInfo(DeviceFlags.RESET | DeviceFlags.PCI, 9, 5)


def test_device_info_on_the_wire(wire: Wire) -> None:
    answer = wire.ask(Command.DEVICE_GET_INFO, struct.pack("=IIII", 16, 0, 0, 0))
    assert answer.payload == struct.pack("=IIII", 16, 3, 9, 5)


@pytest.mark.parametrize("command", [Command.DEVICE_GET_INFO, Command.DEVICE_GET_IRQ_INFO])
@pytest.mark.parametrize(
    "payload", [b"", bytes(15), struct.pack("=IIII", 15, 0, 0, 0), struct.pack("=IIII", 16, 0, 0, 0) + b"x"]
)
def test_a_bad_size_of_info_is_einval(wire: Wire, command: int, payload: bytes) -> None:
    assert wire.ask(command, payload).errno == EINVAL
    assert wire.works()


def test_info_longer_than_the_structure_is_taken_up_to_its_argsz(wire: Wire) -> None:
    assert not wire.ask(Command.DEVICE_GET_INFO, struct.pack("=IIII", 24, 0, 0, 0) + bytes(8)).errno


def test_config_space_and_registers_are_trapped(client: Client) -> None:
    config = client.region_info(Region.CONFIG)
    assert (config.size, config.flags, config.fd) == (256, RegionFlags.READ | RegionFlags.WRITE, -1)
    assert config.offset == 7 << 40


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
        "argsz": 32, "flags": 7, "index": 4, "cap": 0, "size": MEMORY_SIZE, "offset": 4 << 40,
    }  # fmt: skip
    (fd,) = answer.fds
    os.close(fd)


def test_a_partly_mapped_region_is_asked_for_twice(wire: Wire) -> None:
    """As QEMU does: argsz 32, then 64; its second message is still no longer than the first."""
    first = ask_region(wire, Region.BAR2)
    assert len(first.payload) == 32
    assert fields(first)["argsz"] == 64
    assert fields(first)["flags"] == RegionFlags.READ | RegionFlags.WRITE | RegionFlags.MMAP
    assert not first.fds
    second = ask_region(wire, Region.BAR2, argsz=64)
    assert len(second.payload) == 64
    assert fields(second)["flags"] == RegionFlags.READ | RegionFlags.WRITE | RegionFlags.MMAP | RegionFlags.CAPS
    assert fields(second)["cap"] == 32
    assert struct.unpack_from("=HHIII", second.payload, 32) == (1, 1, 0, 1, 0)
    assert struct.unpack_from("=QQ", second.payload, 48) == (TRAPPED, MEMORY_SIZE - TRAPPED)
    (fd,) = second.fds
    os.close(fd)


def test_a_client_may_send_all_that_its_argsz_announces(wire: Wire) -> None:
    """As libvfio-user's client does."""
    answer = ask_region(wire, Region.BAR2, argsz=64, tail=bytes(32))
    assert len(answer.payload) == 64
    for fd in answer.fds:
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


def test_irq_info(client: Client) -> None:
    assert client.irq_info(Irq.INTX).flags == IrqFlags.EVENTFD | IrqFlags.MASKABLE | IrqFlags.AUTOMASKED
    assert client.irq_info(Irq.MSIX).count == 8
    assert client.irq_info(Irq.REQ).count == 0


@pytest.mark.parametrize("index", [5, 6, (1 << 32) - 1])
def test_an_interrupt_index_that_no_device_has_is_einval(wire: Wire, index: int) -> None:
    assert wire.ask(Command.DEVICE_GET_IRQ_INFO, struct.pack("=IIII", 16, 0, index, 0)).errno == EINVAL
    assert wire.works()
