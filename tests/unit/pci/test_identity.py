"""The ids of a function."""

from typing import Any

import pytest

from mdev_user.errors import DriverError
from mdev_user.pci.identity import PciId
from mdev_user.pci.masked import ImageBuilder


def drawn(identity: PciId) -> bytes:
    builder = ImageBuilder(0x40)
    identity.draw(builder)
    image = builder.image()
    assert not any(image.writable + image.w1c + image.live)
    return image.values


def test_ids_lie_where_the_header_has_them() -> None:
    values = drawn(PciId(0x1234, 0x5678, 0x0C0330, 0x9A, 0xBCDE, 0xF012))
    assert values[:4] == bytes.fromhex("34127856")
    assert values[8:12] == bytes.fromhex("9a30030c")
    assert values[0x2C:0x30] == bytes.fromhex("debc12f0")


def test_the_subsystem_is_the_function_itself_unless_given() -> None:
    assert drawn(PciId(0x4348, 0x3253, 0x070002, 0x10))[0x2C:0x30] == bytes.fromhex("48435332")
    assert drawn(PciId(0x4348, 0x3253, 0x070002, subsystem_vendor=0, subsystem=0))[0x2C:0x30] == bytes(4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vendor", 0x10000),
        ("vendor", 0xFFFF),
        ("vendor", -1),
        ("device", 0x10000),
        ("class_code", 0x1000000),
        ("revision", 0x100),
        ("subsystem_vendor", 0x10000),
        ("subsystem", -1),
    ],
)
def test_an_id_out_of_range_is_refused(field: str, value: int) -> None:
    declared: dict[str, Any] = {"vendor": 1, "device": 2, "class_code": 3, field: value}
    with pytest.raises(DriverError, match=rf"PciId\.{field}"):
        PciId(**declared)
