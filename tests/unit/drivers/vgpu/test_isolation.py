"""What a guest draws is in its own graphics memory, and in no other mdev's of the same parent."""

from collections.abc import Iterator

import pytest

from mdev_user.drivers.vgpu.card import Card
from mdev_user.testing import Guest
from unit.drivers.vgpu.gpu_driver import OK, GpuDriver

Two = tuple[GpuDriver, GpuDriver]
HALF = 1024, 8192
"""Of the type's graphics memory."""


@pytest.fixture
def two() -> Iterator[Two]:
    with Guest(Card, "GVTg_V5_8") as one, Guest(Card, "GVTg_V5_8") as other:
        yield GpuDriver(one), GpuDriver(other)


def reached(drivers: Two) -> bool:
    """Whether the second sees anything of what the first draws."""
    one, other = drivers
    drawn = one.show(1, 64, 64, seed=1)
    other.create(1, 64, 64)
    other.scanout(0, 1, 0, 0, 64, 64)
    return other.on_head() == drawn or drawn[:64] in bytes(other.gpu.graphics[: 1 << 20])


def test_no_mdev_reaches_what_another_draws(two: Two) -> None:
    assert not reached(two)


def test_one_memory_for_both_would_be_seen(two: Two) -> None:
    """The negative control."""
    one, other = two
    other.gpu._state["graphics"] = one.gpu.graphics
    other.create(1, 64, 64)
    assert one.show(1, 64, 64, seed=1)[:64] in bytes(other.gpu.graphics[: 1 << 20])


def test_what_one_uses_is_not_the_others_quota(two: Two) -> None:
    one, other = two
    assert one.create(1, *HALF) == one.create(2, *HALF) == OK
    assert one.create(3, 1, 1) != OK
    assert other.create(1, *HALF) == other.create(2, *HALF) == OK


def test_next_user_finds_nothing_of_the_last(two: Two) -> None:
    driver, _other = two
    driver.show(1, 64, 64, seed=1)
    driver.guest.close()
    driver.guest.open()
    assert driver.on_head() is None
    assert not any(driver.gpu.graphics[: 1 << 20])
