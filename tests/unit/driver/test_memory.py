"""Private memory: what a driver keeps of its guest's, that no user of the device has as a region."""

from dataclasses import dataclass

import pytest

from mdev_user.driver import (
    PAGE,
    U32,
    WO,
    Bar,
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
    on_write,
)  # fmt: skip
from mdev_user.testing import Guest
from mdev_user.vfio.requests import MOST_REGIONS, GetRegionInfo


@dataclass(frozen=True)
class Slice(Profile):
    pages: int


class Regs(Bar, index=0, size=PAGE):
    put = U32(0x00, WO)


class Box(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=0x0001, class_code=0xFF0000)
    regs = Regs()
    inside = Memory(size=lambda profile: profile.pages * PAGE)
    more = Memory(size=PAGE)

    @on_write(Regs.put)
    def put(self, value: int) -> None:
        self.inside[value % len(self.inside)] = 0x55


class Card(Parent[Slice]):
    function = Box
    pages = Pool(64)
    types = {"small": Slice(pages=2), "large": Slice(pages=16)}


def box(guest: Guest) -> Box:
    function = guest.device.function
    assert isinstance(function, Box)
    return function


def test_private_memory_has_the_size_of_the_type_and_is_no_region() -> None:
    with Guest(Card, "large") as guest:
        assert len(box(guest).inside) == 16 * PAGE
        assert len(box(guest).more) == PAGE
        sizes = {guest.device.ioctl(GetRegionInfo(index)).size for index in range(9) if index != 7}  # type: ignore[union-attr]  # a RegionInfo
        assert 16 * PAGE not in sizes
        for index in range(9, MOST_REGIONS):
            with pytest.raises(Exception, match="region"):
                guest.device.ioctl(GetRegionInfo(index))


def test_private_memory_is_saved_and_zeroed_for_the_next_user() -> None:
    with Guest(Card) as guest, Guest(Card) as other:
        guest.write(Regs.put, 4097)
        other.device.load(guest.device.save())
        assert bytes(box(other).inside) == bytes(4097) + b"\x55" + bytes(4094)
        guest.close()
        guest.open()
        assert not any(box(guest).inside)


def test_two_private_memories_do_not_overlap() -> None:
    with Guest(Card) as guest:
        guest.write(Regs.put, 0)
        assert not any(box(guest).more)


class Far(DeviceRegion, index=31, size=PAGE):
    word = U32(0)


def test_region_where_private_memory_lies_is_refused() -> None:
    class Crowded(Box):
        far = Far()

    with pytest.raises(DriverError, match="region 31 is there already"):

        class Cards(Parent[Slice]):
            function = Crowded
            pages = Pool(64)
            types = {"small": Slice(pages=2)}


def test_private_memory_has_no_offset_and_is_the_functions() -> None:
    with pytest.raises(DriverError, match="an offset with a BAR only"):
        Memory(size=PAGE, offset=PAGE)

    class Lane(Part[Slice]):
        inside = Memory(size=PAGE)

    with pytest.raises(DriverError, match="private memory is the function's"):
        Parts(Lane, count=2)
