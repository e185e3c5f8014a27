"""mbochs holds what its declarations promise."""

from mdev_user.drivers.mbochs import Mbochs
from mdev_user.testing import check


def test_mbochs() -> None:
    check(Mbochs)
