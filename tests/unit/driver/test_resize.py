"""A pool that becomes larger or smaller while mdevs have taken of it."""

from dataclasses import dataclass

import pytest

from mdev_user.driver.pools import Accounts, Pool, Profile
from mdev_user.errors import NoSpace


@dataclass(frozen=True)
class Slice(Profile):
    lanes: int


def test_what_is_taken_stays_taken_and_nothing_is_available_below() -> None:
    accounts = Accounts({"lanes": Pool(8)}, {"one": Slice(lanes=1), "two": Slice(lanes=2)}, "x-")
    for _ in range(3):
        accounts.take("two")
    accounts.resize("lanes", 4)
    assert (accounts.free("lanes"), accounts.available("one"), accounts.available("two")) == (-2, 0, 0)
    with pytest.raises(NoSpace, match=r"^x-one takes 1 of lanes, 0 are free: remove an mdev of this parent first$"):
        accounts.take("one")
    accounts.resize("lanes", 0)
    with pytest.raises(NoSpace, match=r"0 are free: the parent has 0 in all; register it with lanes=1 or more$"):
        accounts.take("one")
    accounts.resize("lanes", 4)
    for _ in range(2):
        accounts.give_back("two")
    assert (accounts.available("one"), accounts.available("two")) == (2, 1)
    accounts.resize("lanes", 9)
    assert accounts.available("one") == 7


def test_a_pool_keeps_its_kind() -> None:
    accounts = Accounts({"lanes": Pool(8, homogeneous=True)}, {"one": Slice(lanes=1), "two": Slice(lanes=2)})
    accounts.resize("lanes", 4)
    accounts.take("one")
    assert accounts.available("two") == 0
