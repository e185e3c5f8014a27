"""The guest's memory: what is mapped, pages that were written, accesses across both."""

import pytest

from mdev_user.errors import DmaFault
from mdev_user.testing.ram import Ram


def made() -> Ram:
    ram = Ram()
    ram.map(0x1000, 0x2000)
    ram.map(0x3000, 0x1000)
    ram.map(0x8000, 0x1000)
    return ram


def test_access_crosses_pages_and_neighbours() -> None:
    ram = made()
    data = bytes(range(1, 251)) * 20
    ram[0x1F00 : 0x1F00 + len(data)] = data
    assert ram[0x1F00 : 0x1F00 + len(data)] == data
    assert ram[0x1EFF] == b"\0"
    assert ram[0x1000:0x1F00] == bytes(0xF00)


def test_only_pages_that_were_written_are_there() -> None:
    ram = made()
    ram.read(0x1000, 0x3000)
    assert ram.pages == {}
    ram.write(0x2FFF, b"ab")
    assert list(ram.pages) == [0x2000, 0x3000]
    ram.unmap(0x3000, 0x1000)
    assert list(ram.pages) == [0x2000]


@pytest.mark.parametrize(("address", "length"), [(0xFFF, 1), (0x3FFF, 2), (0x7FFF, 2), (0x8FFF, 2), (0x1000, 0x8000)])
def test_access_that_is_not_all_mapped_does_nothing(address: int, length: int) -> None:
    ram = made()
    with pytest.raises(DmaFault, match="there is 0x1000"):
        ram.read(address, length)
    with pytest.raises(DmaFault):
        ram.write(address, bytes(length - 1) + b"x")
    assert ram.pages == {}


def test_nothing_can_be_read_anywhere() -> None:
    assert made().read(0, 0) == b""
