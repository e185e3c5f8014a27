"""Who follows the uevents is given a moment to learn of a new mdev, and nobody waits where nobody follows."""

from threading import Thread
from time import monotonic, sleep

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


def follow(log: EventLog) -> Thread:
    """A reader that waits for what comes."""
    reader = log.reader(None)
    reader.read(0)
    thread = Thread(target=reader.read, args=(10,))
    thread.start()
    deadline = monotonic() + 10
    while not log._waiting:
        assert monotonic() < deadline
        sleep(0.001)
    return thread


def test_a_create_waits_for_who_follows(pauses: list[float]) -> None:
    log = EventLog()
    reader = follow(log)
    log.tell(NEWS)
    log.attend()
    reader.join(10)
    assert [0 < each <= events.ATTENTION for each in pauses] == [True]


def test_a_create_waits_for_nobody_where_nobody_follows(pauses: list[float]) -> None:
    log = EventLog()
    log.tell(NEWS)
    log.attend()
    reader = log.reader(0)  # it is still reading what was before
    reader.read(0)
    log.tell(NEWS)
    log.attend()
    assert pauses == []
