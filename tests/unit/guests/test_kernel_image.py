import struct

import pytest

from mdev_user.guests.kernel_image import NotABzImage, payload

PACKED = b"\x28\xb5\x2f\xfdcompressed"


def image(*, sectors: int = 3, version: int = 0x020F, offset: int = 0x40, length: int = len(PACKED) + 4) -> bytes:
    data = bytearray((sectors + 1) * 512 + 0x40) + PACKED + b"SIZE"
    data[0x1F1] = sectors
    data[0x202:0x208] = b"HdrS" + struct.pack("<H", version)
    struct.pack_into("<II", data, 0x248, offset, length)
    return bytes(data)


def test_payload_comes_without_the_size_behind_it() -> None:
    assert payload(image()) == PACKED


def test_a_sector_count_of_zero_means_four() -> None:
    data = bytearray(image(sectors=4))
    data[0x1F1] = 0
    assert payload(bytes(data)) == PACKED


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "expected a bzImage"),
        (bytes(4096), "expected a bzImage"),
        (image(version=0x0207), "2.08 or later, got 2.07"),
        (image(length=1 << 31), "expected a payload of 2147483648 bytes"),
        (image(length=4), "expected a payload of 4 bytes"),
        (image(offset=0xFFFF_FF00), "got an image of"),
    ],
)
def test_what_is_no_bzimage_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(NotABzImage, match=reason):
        payload(data)
