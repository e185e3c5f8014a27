"""Attribute groups: several attributes by one write, all or nothing."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.driver import (
    Attribute,
    AttributeGroup,
    DriverError,
    Function,
    InvalidValue,
    Parent,
    PciId,
    Pool,
    Profile,
)  # fmt: skip
from mdev_user.testing import Guest


class Mode(Enum):
    SLOW = 0
    FAST = 1


@dataclass(frozen=True)
class Slice(Profile):
    lanes: int


class Sample(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=4, class_code=0x120000)
    weight = Attribute(4, range=(1, 16), group="scheduling")
    limit = Attribute(0, range=(0, 240), unit="Hz", group="scheduling")
    mode, shown = Attribute(Mode.SLOW, group="scheduling"), Attribute(initial=True)
    schedule = AttributeGroup(weight, limit, mode, group="scheduling")

    @limit.stored
    def look(self) -> None:
        if self.limit > 10 * self.weight:
            raise InvalidValue(f"limit: expected at most {10 * self.weight}, given {self.limit}")


class Card(Parent[Slice]):
    function = Sample
    lanes = Pool(4)
    types = {"1": Slice(1)}
    total, spare = Attribute(8, range=(1, 8)), Attribute(0, range=(0, 8))
    plan = AttributeGroup(total, spare)


FILE = "scheduling/schedule"


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("weight=8 limit=30 mode=fast", "weight=8 limit=30 mode=fast"),
        ("limit=0x10", "weight=4 limit=16 mode=slow"),
        ("mode=fast\nweight=1\n", "weight=1 limit=0 mode=fast"),
    ],
)
def test_group_takes_any_of_its_attributes_in_one_write(text: str, then: str) -> None:
    with Guest(Card) as guest:
        assert guest.show(FILE) == "weight=4 limit=0 mode=slow"
        guest.store(FILE, text)
        assert guest.show(FILE) == then
        assert f"weight={guest.show('scheduling/weight')}" in then


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("weight=8 limit=241", "limit: expected 0 to 240 Hz, given 241"),
        ("weight=8 limit=x", "limit: expected a number, given 'x'"),
        ("weight=8 limt=3", "expected weight=... limit=... mode=..., given 'limt=3'; did you mean limit"),
        ("weight=8 30", "expected weight=... limit=... mode=..., given '30'"),
        ("weight=8 weight=9", "expected weight once, given it twice"),
        ("weight=8 shown=0", "given 'shown=0'"),
        ("weight=8 mode=fats", "unknown value 'fats'"),
        ("", "or some of them, given nothing"),
    ],
)
def test_what_cannot_be_taken_leaves_all_as_it_was(text: str, told: str) -> None:
    with Guest(Card) as guest:
        with pytest.raises(InvalidValue, match=re.escape(told)):
            guest.store(FILE, text)
        assert guest.show(FILE) == "weight=4 limit=0 mode=slow"


@pytest.mark.parametrize(("file", "text"), [(FILE, "mode=fast weight=2 limit=21"), ("scheduling/limit", "41")])
def test_what_the_driver_refuses_leaves_all_as_it_was(file: str, text: str) -> None:
    with Guest(Card) as guest:
        with pytest.raises(InvalidValue, match=r"limit: expected at most [24]0, given [24]1"):
            guest.store(file, text)
        assert guest.show(FILE) == "weight=4 limit=0 mode=slow"
        guest.store(FILE, "weight=2 limit=20")


@given(text=st.text(st.sampled_from("weightlimod=0123456789 \n-x"), max_size=40))
def test_any_text_is_taken_whole_or_refused(text: str) -> None:
    with Guest(Card) as guest:
        before = guest.show(FILE)
        try:
            guest.store(FILE, text)
        except InvalidValue:
            assert guest.show(FILE) == before
        else:
            weight, limit, _mode = (word.partition("=")[2] for word in guest.show(FILE).split())
            assert 1 <= int(weight) <= 16
            assert 0 <= int(limit) <= 240


def test_parents_have_groups_too() -> None:
    card = Card()
    (plan,) = (each for each in card.parent_attributes if each.name == "plan")
    card.store_parent(plan, b"spare=2 total=6\n")
    assert (card.total, card.spare, card.show_parent(plan)) == (6, 2, "total=6 spare=2\n")
    with pytest.raises(InvalidValue):
        card.store_parent(plan, b"spare=3 total=9\n")
    assert (card.total, card.spare) == (6, 2)


def test_group_of_another_classs_attribute_is_told() -> None:
    with pytest.raises(DriverError, match=r"Other\.schedule: expected attributes of Other, given weight"):

        class Other(Function[Slice]):
            identity = Sample.identity
            schedule = AttributeGroup(Sample.weight)


@pytest.mark.parametrize(
    "make",
    [AttributeGroup, lambda: AttributeGroup(Attribute("x")), lambda: AttributeGroup(Attribute(1, writable=False))],
)
def test_group_is_of_attributes_that_one_word_can_set(make: Callable[[], object]) -> None:
    with pytest.raises(DriverError, match="AttributeGroup: expected attributes"):
        make()
