import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from mdev_user.guests.console import GuestFailed, GuestTimeout
from mdev_user.guests.qmp import Qmp

Play = Callable[[list[list[object]]], Qmp]


@pytest.fixture
def play() -> Iterator[Play]:
    """A QMP session with a played QEMU: it greets, then answers the n-th command with the n-th list of objects."""
    closing: list[Callable[[], object]] = []

    def start(answers: list[list[object]]) -> Qmp:
        ours, theirs = socket.socketpair()

        def serve() -> None:
            with theirs, theirs.makefile("rb") as lines:
                theirs.sendall(b'{"QMP": {"version": {}}}\r\n')
                for replies, _command in zip(answers, lines, strict=False):
                    theirs.sendall(b"".join(json.dumps(reply).encode() + b"\r\n" for reply in replies))

        thread = threading.Thread(target=serve)
        thread.start()
        qmp = Qmp(ours)
        closing.extend((qmp.close, thread.join))
        return qmp

    yield start
    for close in closing:
        close()


def test_a_command_is_negotiated_for_once_and_returns_its_value(play: Play) -> None:
    qmp = play([[{"return": {}}], [{"return": {"running": True}}], [{"return": []}]])
    assert qmp.execute("query-status") == {"running": True}
    assert qmp.execute("query-pci") == []


def test_events_are_set_aside(play: Play) -> None:
    event = {"event": "RESET", "data": {}}
    qmp = play([[{"return": {}}], [event, {"return": 1}]])
    assert qmp.execute("system_reset") == 1
    assert qmp.events == [event]


def test_a_refusal_carries_qemus_words(play: Play) -> None:
    qmp = play([[{"return": {}}], [{"error": {"class": "GenericError", "desc": "no such device"}}]])
    with pytest.raises(GuestFailed, match=r"QEMU refused device_del: .*no such device"):
        qmp.execute("device_del", {"id": "x"})


def test_the_end_of_qemu_is_reported(play: Play) -> None:
    with pytest.raises(GuestFailed, match="QEMU is gone"):
        play([[{"return": {}}]]).execute("quit")


def test_a_silent_qemu_is_given_up_on() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        qmp = Qmp(ours)
        with pytest.raises(GuestTimeout, match="did not answer query-status within"):
            qmp.execute("query-status", seconds=0.05)
        qmp.close()
