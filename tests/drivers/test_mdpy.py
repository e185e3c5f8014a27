"""mdpy holds what its declarations promise."""

from mdev_user.drivers.mdpy import Mdpy
from mdev_user.testing import check


def test_mdpy() -> None:
    check(Mdpy)
