"""Uevents over the control socket: followed or not, hostile questions, and readers that go away or do not read."""

import http.client
import socket
import threading
from collections.abc import Iterator
from time import monotonic

import msgspec
import pytest

from mdev_user.daemon import control
from mdev_user.daemon.client import Client, NoDaemon, Refused
from mdev_user.daemon.run_dir import RunDir
from mdev_user.daemon.views import UeventLine
from mdev_user.sysfs.uevents import Uevent
from unit.daemon.fake_operations import FakeOperations, served
from unit.daemon.test_control import ask
from unit.sysfs.scene import PATIENCE, until

QUESTIONS = {
    "after=-1": "expected after to be the number of a uevent, given '-1'",
    "after=": "expected after to be the number of a uevent, given ''",
    "after=1e3": "expected after to be the number of a uevent, given '1e3'",
    "after=%D9%A1": "expected after to be the number of a uevent, given '\u0661'",
    f"after={'9' * 5000}": f"expected after to be the number of a uevent, given {'9' * 60!r}",
    "after=4": "expected after to be a uevent's number, up to 3 so far, given 4",
    "after=1&after=2": "expected after and daemon and follow and attend after the ?, each once, given 'after'",
    "since=1": "expected after and daemon and follow and attend after the ?, each once, given 'since'",
    "follow=1": "expected follow to be true or false, given '1'",
}


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> FakeOperations:
    monkeypatch.setattr(control, "FOLLOW_SECONDS", 0.05)
    operations = FakeOperations()
    tell(operations, 3)
    return operations


@pytest.fixture
def run_dir(operations: FakeOperations) -> Iterator[RunDir]:
    with served(operations) as run_dir:
        yield run_dir


def tell(operations: FakeOperations, count: int, text: str = "") -> None:
    for _ in range(count):
        operations.log.announce(Uevent("change", "/devices/x", "mdev", {"TEXT": text}))


def numbers(lines: list[UeventLine]) -> list[int]:
    return [line.number for line in lines if line.kind == "uevent"]


def test_what_there_was_ends_without_follow(run_dir: RunDir, operations: FakeOperations) -> None:
    with Client(run_dir).events(1, follow=False) as stream:
        begin, *lines = stream
    assert (begin.kind, begin.daemon, begin.number) == ("begin", operations.log.name, 3)
    assert numbers(lines) == [2, 3]
    assert lines[0].properties == {"TEXT": ""}


def test_what_comes_is_told_at_once_with_follow(run_dir: RunDir, operations: FakeOperations) -> None:
    with Client(run_dir).events(3, follow=True) as stream:
        lines = iter(stream)
        assert next(lines).kind == "begin"
        for number in range(4, 10):
            tell(operations, 1)
            assert next(lines).number == number


def test_a_reader_of_another_daemon_is_told_that_all_is_lost(run_dir: RunDir) -> None:
    with Client(run_dir).events(900, daemon="the one before", follow=False) as stream:
        assert [line.kind for line in stream] == ["begin", "lost"]


def test_the_snapshot_is_answered(run_dir: RunDir, operations: FakeOperations) -> None:
    now = Client(run_dir).snapshot()
    assert (now.daemon, now.number, now.uevents) == (operations.log.name, 3, [])


@pytest.mark.parametrize(("query", "text"), QUESTIONS.items(), ids=range(len(QUESTIONS)))
def test_a_hostile_question_is_refused(run_dir: RunDir, query: str, text: str) -> None:
    assert ask(run_dir, "GET", f"/v1/events?{query}") == (400, {"error": text, "errno": "EINVAL"})


def test_a_refusal_reaches_the_caller(run_dir: RunDir) -> None:
    with pytest.raises(Refused, match="up to 3 so far, given 4"), Client(run_dir).events(4, follow=True):
        pass


def test_the_end_of_the_daemon_is_told_after_the_last_uevent(operations: FakeOperations) -> None:
    with served(operations) as run_dir, Client(run_dir).events(3, follow=True) as stream:
        lines = iter(stream)
        assert next(lines).kind == "begin"
        tell(operations, 1)
        operations.log.end()
        assert next(lines).number == 4
        with pytest.raises(NoDaemon, match="the daemon has ended"):
            next(lines)


def test_hanging_up_ends_a_wait_from_another_thread(run_dir: RunDir) -> None:
    with Client(run_dir).events(3, follow=True) as stream:
        lines = iter(stream)
        assert next(lines).kind == "begin"
        threading.Timer(0.1, stream.hang_up).start()
        with pytest.raises(NoDaemon, match="hung up"):
            next(lines)


def opened(run_dir: RunDir) -> http.client.HTTPResponse:
    """A follower that has read no more than the header; a chunk is in its own buffer at most."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(PATIENCE)
    connection.sock.connect(str(run_dir.control))
    connection.request("GET", "/v1/events?after=3&follow=true")
    response = connection.getresponse()
    assert response.status == 200
    return response


def waiting(operations: FakeOperations) -> int:
    """How many threads wait in the log now."""
    return len(operations.log._changed._waiters)  # type: ignore[attr-defined]  # of Condition, undocumented


def test_a_follower_that_goes_away_leaves_nothing_behind(run_dir: RunDir, operations: FakeOperations) -> None:
    clients = [opened(run_dir) for _ in range(20)]
    until(lambda: waiting(operations) > 10)
    for client in clients:
        client.close()
    until(lambda: waiting(operations) == 0)
    deadline = monotonic() + 4 * control.FOLLOW_SECONDS
    while monotonic() < deadline:
        assert waiting(operations) == 0  # nor does one come back


def test_one_that_does_not_read_holds_nobody_up_and_is_told_what_it_lost(
    run_dir: RunDir, operations: FakeOperations
) -> None:
    lazy = opened(run_dir)
    with Client(run_dir).events(3, follow=True) as stream:
        lines = iter(stream)
        next(lines)
        for number in range(4, 1004):  # 8 MB
            tell(operations, 1, "x" * 8000)
            assert next(lines).number == number
    told = list(read_until(lazy, 1003))
    lost = [line.count for line in told if line.kind == "lost"]
    assert len(numbers(told)) + sum(lost) == 1000
    assert sum(lost) > 500  # what it did not read was not kept for it


def read_until(response: http.client.HTTPResponse, last: int) -> Iterator[UeventLine]:
    """The lines up to a uevent."""
    for data in iter(response.readline, b""):
        if data.strip():  # else nothing happened for a moment
            line = msgspec.json.decode(data, type=UeventLine)
            yield line
            if line.kind == "uevent" and line.number == last:
                return
    pytest.fail(f"no uevent {last}")
