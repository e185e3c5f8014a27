"""Listeners are given a moment to learn of a new mdev, and nobody waits where nobody tells them."""

import pytest

from mdev_user.daemon import events
from mdev_user.daemon.events import EventLog
from mdev_user.sysfs.uevents import Uevent

NEWS = (Uevent("add", "/devices/virtual/mtty/mtty", "mtty"),)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    taken: list[float] = []
    monkeypatch.setattr(events, "sleep", taken.append)
    return taken


def test_a_create_waits_for_who_tells_listeners(pauses: list[float]) -> None:
    log = EventLog()
    reader = log.attended(log.reader(None))
    log.tell(NEWS)
    log.attend()
    assert [0 < each <= events.ATTENTION for each in pauses] == [True]
    assert reader.read(0), "it is still there"


def test_a_create_waits_for_nobody_who_only_looks(pauses: list[float]) -> None:
    log = EventLog()
    reader = log.reader(0)
    log.tell(NEWS)
    log.attend()
    assert pauses == []
    assert reader.read(0), "it is still there"


def test_a_create_waits_for_nobody_who_has_gone(pauses: list[float]) -> None:
    log = EventLog()
    log.attended(log.reader(None)).read(0)
    log.tell(NEWS)
    log.attend()
    assert pauses == []
