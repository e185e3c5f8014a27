"""Regions beside the BARs: maps of registers, memory, and memory that is shown a second time."""

import mmap
import os
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from mdev_user.driver import (
    GFX_EDID,
    RO,
    U32,
    Alias,
    Bar,
    Device,
    DeviceRegion,
    DriverError,
    Function,
    Memory,
    Parent,
    Part,
    Parts,
    PciId,
    Pool,
    Profile,
    RegionType,
    Saved,
    on_read,
    on_write,
)
from mdev_user.driver.inspection.register_map import register_map
from mdev_user.driver.regions import INDEXES
from mdev_user.driver.saving.handover import check_shapes
from mdev_user.driver.saving.schema import schema_of
from mdev_user.testing import Guest
from mdev_user.testing.local import LocalHost
from mdev_user.units import KiB
from mdev_user.vfio.requests import DeviceInfo, GetInfo, GetRegionInfo, Region, RegionFlags, RegionInfo, region_offset
from mdev_user.vfio_user.connection import RemoteError

IDENTITY = PciId(vendor=0x1DE5, device=9, class_code=0x038000)
TRAPPED = RegionFlags.READ | RegionFlags.WRITE
MAPPED = TRAPPED | RegionFlags.MMAP
UUID1 = UUID(int=1)
OWN = RegionType(0x8000_1DE5, 7)


@dataclass(frozen=True)
class Slice(Profile):
    size: int


class Regs(Bar, index=0, size=64):
    seen = U32(0, RO)


class Control(DeviceRegion, index=9, size=64, kind=OWN):
    """What the device's user sets."""

    level, double = U32(0), U32(4, RO)


class Screen(Function[Slice]):
    identity = IDENTITY
    regs, control = Regs(), Control()
    video = Memory(index=2, size=lambda profile: 2 * profile.size, offset=0)
    log = Memory(index=10, size=lambda profile: profile.size, kind=RegionType(1, 2))
    display = Alias(video, index=16, kind=RegionType(1, 3))
    written = Saved(0)

    @on_write(Control.level)
    def set_level(self, level: int) -> None:
        self.regs.seen = level
        self.written += 1

    @on_read(Control.double)
    def double(self) -> int:
        return 2 * self.control.level


class Card(Parent[Slice]):
    function = Screen
    size = Pool(64 * KiB)
    types = {"small": Slice(4 * KiB), "large": Slice(16 * KiB)}


def info(guest: Guest, index: int) -> RegionInfo:
    reply = guest.device.ioctl(GetRegionInfo(index))
    assert isinstance(reply, RegionInfo)
    return reply


@pytest.mark.parametrize(("name", "size"), [("small", 4 * KiB), ("large", 16 * KiB)])
def test_user_is_told_of_them(name: str, size: int) -> None:
    with Guest(Card, name) as guest:
        assert info(guest, 9) == RegionInfo(9, TRAPPED, 64, type=OWN)
        log, display = info(guest, 10), info(guest, 16)
        assert (log.size, log.flags, log.type, log.offset) == (size, MAPPED, RegionType(1, 2), region_offset(10))
        assert (display.size, display.type, display.offset) == (2 * size, RegionType(1, 3), region_offset(2))


def test_those_behind_a_gap_are_not_counted() -> None:
    with Guest(Card) as guest:
        counted = guest.device.ioctl(GetInfo())
        assert isinstance(counted, DeviceInfo)
        assert counted.num_regions == 11


def test_registers_of_a_region_are_those_of_a_bar() -> None:
    with Guest(Card) as guest:
        guest.write(Control.level, 21)
        assert (guest.read(Control.double), guest.read(Regs.seen)) == (42, 21)
        guest.write_bytes(9, 1, b"\x01")
        assert guest.read(Control.level) == 21 + 256
        guest.reset()
        assert (guest.read(Control.level), guest.read(Regs.seen)) == (0, 0)


def test_state_of_a_region_is_saved() -> None:
    with Guest(Card) as one, Guest(Card) as two:
        one.write(Control.level, 7)
        two.device.load(one.device.save())
        assert (two.read(Control.level), two.read(Control.double)) == (7, 14)
        assert "control.level" in schema_of(Screen)


def test_accesses_of_a_region_have_names() -> None:
    values = {each.name: each.region for each in Device(Screen, Card.types["small"], UUID1).inspect()}
    assert (values["control.level"], values["regs.seen"]) == (9, 0)


def test_register_map_tells_of_them() -> None:
    bars = {each.index: each for each in register_map(Card).bars}
    assert [each.name for each in bars[9].registers] == ["level", "double"]
    assert (bars[9].about, bars[9].is_bar, bars[2].is_bar) == ("What the device's user sets.", False, True)
    assert bars[10].sizes == {"small": 4 * KiB, "large": 16 * KiB}
    assert [each.name for each in bars[16].memories] == ["video"]


def test_client_maps_both_memories_and_the_alias() -> None:
    with LocalHost() as host:
        parent = host.bus.register_parent("card", Card())
        with host.client(host.create(parent, "screen-small")) as client:
            assert client.region_info(9).type == OWN
            regions = {index: client.region_info(index) for index in (2, 10, 16)}
            maps = {index: mmap.mmap(each.fd, each.size, offset=each.offset) for index, each in regions.items()}
            maps[2][:5] = b"video"
            client.region_write(10, 0, b"log")
            assert (maps[16][:5], client.region_read(16, 0, 5)) == (b"video", b"video")
            assert (maps[10][:3], maps[2][:5]) == (b"log", b"video")
            with pytest.raises(RemoteError):
                client.region_read(11, 0, 4)
            for index, each in regions.items():
                maps[index].close()
                os.close(each.fd)


def test_region_of_another_kind_is_another_shape() -> None:
    """To a user who goes on with a newer version of the driver."""

    class Plain(Function[Slice]):
        identity = IDENTITY
        control = Control()

    class Changed(DeviceRegion, index=9, size=64, kind=GFX_EDID):
        level = U32(0)

    class Newer(Function[Slice]):
        identity = IDENTITY
        control = Changed()

    one, same, other = (Device(kind, Slice(1), UUID1) for kind in (Plain, Plain, Newer))
    check_shapes(one, same)
    with pytest.raises(DriverError, match="region 9 is another one"):
        check_shapes(one, other)


# --- mistakes -----------------------------------------------------------------------------------------------------


def below_the_first() -> None:
    class Wrong(DeviceRegion, index=8, size=64):
        pass


def no_type() -> None:
    class Wrong(DeviceRegion, size=64, kind=1):  # type: ignore[arg-type]  # the mistake
        pass


def index_taken() -> None:
    class Wrong(Function[Slice]):
        identity = IDENTITY
        control = Control()
        log = Memory(index=9, size=4096)

    Device(Wrong, Slice(1), UUID1)


def memory_of_another() -> None:
    class Wrong(Function[Slice]):
        identity = IDENTITY
        display = Alias(Memory(index=2, size=4096), index=9)

    Device(Wrong, Slice(1), UUID1)


def memory_beyond() -> None:
    Memory(index=INDEXES.stop, size=4096)


def memory_between() -> None:
    class Wrong(Function[Slice]):
        identity = IDENTITY
        log = Memory(index=int(Region.ROM), size=4096)

    Device(Wrong, Slice(1), UUID1)


def kind_of_a_bar() -> None:
    Memory(index=2, size=4096, kind=GFX_EDID)


def offset_beyond_the_bars() -> None:
    Memory(index=9, size=4096, offset=4096)


def alias_at_a_bar() -> None:
    Alias(Memory(index=2, size=4096), index=3)


def alias_of_a_bar() -> None:
    Alias(Regs(), index=9)  # type: ignore[arg-type]  # the mistake


def region_of_a_part() -> None:
    class Unit(Part[Slice]):
        control = Control()

    class Wrong(Function[Slice]):
        identity = IDENTITY
        units = Parts(Unit, count=1)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (below_the_first, r"Wrong: index \(class Wrong\(DeviceRegion, .*expected a number from 0x9 to 0x1f, given 0x8"),
        (no_type, r"Wrong: kind: expected a RegionType\(type, subtype\), given 1"),
        (index_taken, r"Wrong.log: region 9 is there already"),
        (memory_of_another, r"Wrong.display: expected a Memory of Wrong"),
        (memory_beyond, r"Memory: index: expected a number from 0x0 to 0x1f, given 0x20"),
        (memory_between, r"bar 6: a function has the bars 0 to 5"),
        (kind_of_a_bar, r"Memory: index 2: expected a kind with 9 and up only"),
        (offset_beyond_the_bars, r"Memory: index 9: .* an offset with a BAR only"),
        (alias_at_a_bar, r"Alias: index: expected a number from 0x9 to 0x1f, given 0x3"),
        (alias_of_a_bar, r"Alias: expected a Memory of the function"),
        (region_of_a_part, r"Unit.control: regions beside the BARs are the function's"),
    ],
)
def test_mistake_is_told(declare: Any, message: str) -> None:
    with pytest.raises(DriverError, match=message):
        declare()
