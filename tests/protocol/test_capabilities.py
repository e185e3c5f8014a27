"""The capability chain of a region: argsz, areas that can be mapped, what a device-specific region is."""

import os
import struct
from collections.abc import Iterator

import pytest
from typing_extensions import override

from mdev_user.units import KiB
from mdev_user.vfio.requests import GFX_EDID, Area, Region, RegionFlags, RegionInfo
from mdev_user.vfio_user.client import Client
from protocol.device import ACCESS, MEMORY_SIZE, TRAPPED, TestDevice
from protocol.region_info import ask_region, fields
from protocol.served import Served, Wire

CAPS = RegionFlags.CAPS
SPARSE_MMAP, TYPE = 1, 2
EDID = 9


class WithCapabilities(TestDevice):
    """BAR2 has areas and a type, region 9 only a type."""

    @override
    def _region_info(self, index: int) -> RegionInfo:
        if index == EDID:
            return RegionInfo(index, ACCESS, 4 * KiB, type=GFX_EDID)
        info = super()._region_info(index)
        if index != Region.BAR2:
            return info
        areas = (Area(TRAPPED, 4 * KiB), Area(3 * TRAPPED, 4 * KiB))
        return RegionInfo(index, info.flags, info.size, areas, type=GFX_EDID)


@pytest.fixture
def chained() -> Iterator[Wire]:
    with Served(WithCapabilities()) as served:
        wire = Wire(served.socket)
        wire.hello()
        yield wire


def links(payload: bytes, at: int) -> list[tuple[int, int, int]]:
    """Of each capability where it lies, its id and version."""
    found = []
    while at:
        identity, version, following = struct.unpack_from("=HHI", payload, at)
        found.append((at, identity, version))
        at = following
    return found


def test_a_partly_mapped_region_is_asked_for_twice(wire: Wire) -> None:
    """As QEMU does: argsz 32, then 64; its second message is still no longer than the first."""
    first = ask_region(wire, Region.BAR2)
    assert len(first.payload) == 32
    assert fields(first)["argsz"] == 64
    assert fields(first)["flags"] == ACCESS | RegionFlags.MMAP
    assert not first.fds
    second = ask_region(wire, Region.BAR2, argsz=64)
    assert len(second.payload) == 64
    assert fields(second)["flags"] == ACCESS | RegionFlags.MMAP | CAPS
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


def test_two_capabilities_are_chained(chained: Wire) -> None:
    answer = ask_region(chained, Region.BAR2, argsz=1000)
    assert (fields(answer)["argsz"], len(answer.payload)) == (96, 96)
    assert links(answer.payload, fields(answer)["cap"]) == [(32, SPARSE_MMAP, 1), (80, TYPE, 1)]
    assert struct.unpack_from("=II", answer.payload, 40) == (2, 0)
    assert struct.unpack_from("=II", answer.payload, 88) == (GFX_EDID.type, GFX_EDID.subtype)
    for fd in answer.fds:
        os.close(fd)


@pytest.mark.parametrize(("index", "full"), [(Region.BAR2, 96), (EDID, 48)])
def test_without_room_for_all_of_them_there_is_none(chained: Wire, index: int, full: int) -> None:
    """Nor an fd, or each of two questions would bring one."""
    for argsz in (32, full - 1):
        answer = ask_region(chained, index, argsz)
        assert len(answer.payload) == 32
        assert not answer.fds
        assert (fields(answer)["argsz"], fields(answer)["cap"]) == (full, 0)
        assert not fields(answer)["flags"] & CAPS


def test_a_region_without_capabilities_needs_no_more(wire: Wire) -> None:
    answer = ask_region(wire, Region.BAR0, argsz=(1 << 32) - 1)
    assert (fields(answer)["argsz"], fields(answer)["flags"] & CAPS, len(answer.payload)) == (32, 0, 32)


def test_the_client_reads_both() -> None:
    with Served(WithCapabilities()) as served:
        region = Client.over(served.socket).region_info(Region.BAR2)
        assert region.areas == (Area(TRAPPED, 4 * KiB), Area(3 * TRAPPED, 4 * KiB))
        assert region.type == GFX_EDID
        os.close(region.fd)


def test_a_client_that_does_not_ask_again_would_know_no_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the one line that asks with more room."""
    monkeypatch.setattr("mdev_user.vfio_user.client._MOST_REGION_INFO", 0)
    with Served(WithCapabilities()) as served:
        region = Client.over(served.socket).region_info(Region.BAR2)
        assert (region.areas, region.type, region.fd) == ((), None, -1)
