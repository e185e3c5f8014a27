"""When a mover has copied enough of a running device."""

import pytest

from mdev_user.daemon.mover import FEW, MOST_PASSES, Pass, is_enough
from mdev_user.units import MiB


@pytest.mark.parametrize(
    ("sizes", "enough"),
    [
        ([], False),
        ([88], True),
        ([64 * MiB], False),
        ([64 * MiB, FEW], True),
        ([64 * MiB, 16 * MiB], False),
        ([64 * MiB, 16 * MiB, 4 * MiB], False),
        ([64 * MiB, 16 * MiB, 15 * MiB], True),  # it is written as fast as it is copied
        ([64 * MiB, 64 * MiB], True),
        ([2 ** (60 - number) * MiB for number in range(MOST_PASSES)], True),
    ],
)
def test_passes_end_when_another_one_is_not_worth_it(sizes: list[int], enough: bool) -> None:
    assert is_enough([Pass(size, 0.1) for size in sizes]) is enough
