"""crc holds what its declarations promise."""

from mdev_user.drivers.crc import Card
from mdev_user.testing import check


def test_crc() -> None:
    check(Card)
