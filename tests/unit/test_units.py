"""Sizes and alignment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.units import PAGE, GiB, KiB, MiB, align_up, is_power_of_two

POWERS = st.integers(0, 63).map(lambda bit: 1 << bit)


def test_units_are_binary() -> None:
    assert (KiB, MiB, GiB, PAGE) == (1024, 1024**2, 1024**3, 4096)


@given(POWERS)
def test_powers_of_two_are_known(power: int) -> None:
    assert is_power_of_two(power)


@pytest.mark.parametrize("value", [0, -1, -2, -4096, 3, 6, 4095, 4097, 2**64 - 1])
def test_nothing_else_is_a_power_of_two(value: int) -> None:
    assert not is_power_of_two(value)


@given(st.integers(0, 2**64), POWERS)
def test_align_up_gives_the_smallest_multiple_that_is_not_below(value: int, alignment: int) -> None:
    aligned = align_up(value, alignment)
    assert aligned % alignment == 0
    assert 0 <= aligned - value < alignment
