"""What is there, folded from uevents, and what must be told to who knows another past."""

from dataclasses import replace

from mdev_user.sysfs.present import Present
from mdev_user.sysfs.uevents import Uevent

PARENT = Uevent("add", "/p", "mtty")
MDEV = Uevent("add", "/p/1", "mdev")
BOUND = {"DRIVER": "mtty"}


def told(*uevents: Uevent, first: int = 1) -> Present:
    present = Present()
    for number, uevent in enumerate(uevents, first):
        present.apply(number, uevent)
    return present


def changes(before: Present, after: Present) -> list[tuple[str, str]]:
    found = list(before.changes_to(after))
    for number, uevent in found:
        before.apply(number, uevent)
    assert sorted(map(str, before.entries())) == sorted(map(str, after.entries()))
    return [(uevent.action, uevent.devpath) for _number, uevent in found]


def test_what_was_added_and_not_removed_is_there_with_the_number_of_its_add() -> None:
    remove, again = replace(MDEV, action="remove"), replace(MDEV, properties={"A": "1"})
    assert told(PARENT, MDEV).entries() == [(1, PARENT), (2, MDEV)]
    assert told(PARENT, MDEV, remove).entries() == [(1, PARENT)]
    assert told(PARENT, MDEV, remove, again).entries() == [(1, PARENT), (4, again)]


def test_a_bound_device_is_an_add_with_its_driver() -> None:
    bind, unbind = replace(MDEV, action="bind", properties=BOUND), replace(MDEV, action="unbind")
    assert told(MDEV, bind).entries() == [(1, replace(MDEV, properties=BOUND))]
    assert told(MDEV, bind, unbind).entries() == [(1, MDEV)]


def test_what_only_tells_changes_nothing() -> None:
    change = replace(MDEV, action="change", properties={"MDEV_STATE": "registered"})
    asked = [replace(MDEV, action=each, properties={"SYNTH_UUID": "0"}) for each in ("add", "remove", "bind")]
    assert told(MDEV, change, *asked).entries() == [(1, MDEV)]
    assert told(replace(MDEV, action="bind"), replace(MDEV, action="remove")).entries() == []


def test_the_changes_make_one_present_another() -> None:
    other = Uevent("add", "/p/2", "mdev")
    assert changes(told(PARENT), told(PARENT, MDEV, other)) == [("add", "/p/1"), ("add", "/p/2")]
    assert changes(told(PARENT, MDEV), told(PARENT, MDEV)) == []
    assert changes(told(PARENT, MDEV, other), told()) == [("remove", "/p/2"), ("remove", "/p/1"), ("remove", "/p")]


def test_a_device_that_came_where_another_went_is_told_as_both() -> None:
    again = told(PARENT, MDEV, replace(MDEV, action="remove"), MDEV)
    assert changes(told(PARENT, MDEV), again) == [("remove", "/p/1"), ("add", "/p/1")]


def test_a_missed_bind_or_unbind_is_told() -> None:
    bound = told(PARENT, MDEV, replace(MDEV, action="bind", properties=BOUND))
    assert changes(told(PARENT, MDEV), bound) == [("bind", "/p/1")]
    bound = told(PARENT, MDEV, replace(MDEV, action="bind", properties=BOUND))
    assert changes(bound, told(PARENT, MDEV)) == [("unbind", "/p/1")]
