"""edu holds what its declarations promise."""

from mdev_user.drivers.edu import Card
from mdev_user.testing import check


def test_edu() -> None:
    check(Card)
