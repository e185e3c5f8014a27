"""vgpu holds what its declarations promise."""

from mdev_user.drivers.vgpu.card import Card
from mdev_user.testing import check


def test_vgpu() -> None:
    check(Card)
