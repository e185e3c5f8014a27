"""PCI addresses as text."""

import pytest

from mdev_user.errors import DriverError
from mdev_user.pci.address import PciAddress, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0000:00:00.0", PciAddress(0, 0, 0, 0)),
        ("4d44:00:01.0", PciAddress(0x4D44, 0, 1, 0)),
        ("ffff:ff:1f.7", PciAddress(0xFFFF, 0xFF, 0x1F, 7)),
        ("10000:e0:06.0", PciAddress(0x10000, 0xE0, 6, 0)),
        ("7fffffff:00:00.0", PciAddress(0x7FFFFFFF, 0, 0, 0)),
    ],
)
def test_address_is_read_and_written_as_linux_does(text: str, address: PciAddress) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["mtty", "00:1f.0", "000:00:00.0", "0000:0:00.0", "0000:00:00", "0000:00:00.0x", ""])
def test_other_names_are_no_addresses(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("4d44:00:20.0", "device up to 1f"),
        ("4d44:00:00.8", "function up to 7"),
        ("4d44:00:00.10", "function up to 7"),
        ("80000000:00:00.0", "domain up to 7fffffff"),
        ("4D44:00:00.0", "4d44:00:00.0, given '4D44:00:00.0'"),
        ("04d44:00:00.0", "4d44:00:00.0, given"),
        ("4d44:00:00.07", "4d44:00:00.7, given"),
    ],
)
def test_what_only_looks_like_one_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(DriverError, match=reason):
        parse_address(text)


def test_the_bus_names_the_directory_of_the_host_bridge() -> None:
    address = parse_address("4d44:0a:01.0")
    assert address is not None
    assert address.bus_name == "4d44:0a"
