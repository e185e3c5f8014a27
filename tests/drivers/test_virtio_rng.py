"""virtio-rng holds what its declarations promise."""

from mdev_user.drivers.virtio_rng import Card
from mdev_user.testing import check


def test_virtio_rng() -> None:
    check(Card)
