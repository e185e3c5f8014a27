"""A PCI function with regions of its own device's, as a driver written by hand declares them."""

import pytest

from mdev_user.errors import DriverError, GuestError
from mdev_user.pci.bars import MemoryBar
from mdev_user.pci.config import ConfigSpace
from mdev_user.pci.identity import PciId
from mdev_user.vfio.pci_function import BarRegion, PciFunction
from mdev_user.vfio.requests import (
    GFX_EDID,
    MOST_REGIONS,
    DeviceInfo,
    GetInfo,
    GetRegionInfo,
    RegionFlags,
    RegionInfo,
    region_offset,
)

IDENTITY = PciId(vendor=0x1DE5, device=1, class_code=0x038000)
BARS = {0: BarRegion(MemoryBar(4096))}
TRAPPED = RegionFlags.READ | RegionFlags.WRITE


def function(*others: RegionInfo) -> PciFunction:
    return PciFunction(ConfigSpace(IDENTITY, {index: each.bar for index, each in BARS.items()}), BARS, others)


def region(index: int) -> RegionInfo:
    return RegionInfo(index, TRAPPED, 4096, type=GFX_EDID)


@pytest.mark.parametrize(
    ("indexes", "counted"), [((), 9), ((9,), 10), ((10, 9), 11), ((16,), 9), ((9, 16), 10), (range(9, 32), 32)]
)
def test_regions_are_counted_up_to_the_first_gap(indexes: tuple[int, ...], counted: int) -> None:
    info = function(*map(region, indexes)).ioctl(GetInfo())
    assert isinstance(info, DeviceInfo)
    assert info.num_regions == counted


def test_region_is_told_as_it_was_declared() -> None:
    made = function(region(9), region(16))
    assert made.ioctl(GetRegionInfo(16)) == region(16)
    assert made.region(16).offset == region_offset(16)
    with pytest.raises(GuestError, match="region index 10: expected 0 to 8, 9, 16"):
        made.ioctl(GetRegionInfo(10))


@pytest.mark.parametrize("indexes", [(8,), (0,), (-1,), (MOST_REGIONS,), (9, 9)])
def test_index_that_is_not_its_own_is_refused(indexes: tuple[int, ...]) -> None:
    with pytest.raises(DriverError, match=r"expected one of its own, from 9 to 31"):
        function(*map(region, indexes))
