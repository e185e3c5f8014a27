"""mtty holds what its declarations promise."""

from mdev_user.drivers.mtty import Mtty
from mdev_user.testing import check


def test_mtty() -> None:
    check(Mtty)
