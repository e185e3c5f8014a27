"""Numbers and structures of <linux/vfio.h>."""

import struct

import pytest

from mdev_user.uapi.abi import vfio as abi


def test_ioctl_numbers_begin_at_100_of_vfios_type() -> None:
    assert abi.Command.GET_API_VERSION == 0x3B64
    assert abi.Command.DEVICE_FEATURE == abi.Command.IOMMU_DIRTY_PAGES == 0x3B75


def test_set_irqs_has_one_kind_of_data() -> None:
    sizes = {1: 0, 2: 1, 4: 4, 0: None, 6: None, 7: None}
    for kind, size in sizes.items():
        assert abi.SetIrqs(20, kind | 0x20, 0, 0, 1).item_size == size


def chain(data: bytes) -> dict[int, bytes]:
    """The capabilities by id."""
    (at,) = struct.unpack_from("=I", data, 16)
    found = {}
    while at:
        identity, _version, following = struct.unpack_from("=HHI", data, at)
        found[identity] = data[at + 8 : following or len(data)]
        at = following
    return found


def test_iommu_info_has_the_ranges_that_programs_look_for() -> None:
    full = abi.iommu_info(0xFFFF_F000, [(0, 0xFF), (0x1000, 0x1FFF)], 77, 1 << 28)
    fitted = abi.fitted_iommu_info(full, 4096)
    assert struct.unpack_from("=IIQI", fitted) == (4096, 3, 0xFFFF_F000, 24)
    found = chain(fitted)
    assert struct.unpack("=II4Q", found[1]) == (2, 0, 0, 0xFF, 0x1000, 0x1FFF)
    assert struct.unpack("=IIQQ", found[2]) == (0, 0, 0x1000, 1 << 28)
    assert struct.unpack_from("=I", found[3]) == (77,)


@pytest.mark.parametrize("argsz", [16, 20, 24, 60])
def test_iommu_info_without_room_says_how_much_it_takes(argsz: int) -> None:
    full = abi.iommu_info(0xFFFF_F000, [(0, 0xFF)], 77, 1 << 28)
    fitted = abi.fitted_iommu_info(full, argsz)
    assert len(fitted) == min(argsz, 24)
    assert struct.unpack_from("=IIQ", fitted) == (len(full), 3, 0xFFFF_F000)
    assert not any(fitted[16:])
