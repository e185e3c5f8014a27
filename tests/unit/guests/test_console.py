"""The command channel against a guest played by a thread, so that it can answer late, wrongly or never."""

import base64
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from mdev_user.guests import console
from mdev_user.guests.console import Answer, CommandChannel, GuestFailed, GuestTimeout, request

Reply = Callable[[bytes, bytes], bytes]  # token, script -> bytes on the wire


def answer(token: bytes, output: bytes, status: int = 0) -> bytes:
    coded = base64.encodebytes(output)
    return b"begin %b\n%bend %b %d\n" % (token, coded, token, status)


class PlayedGuest:
    """Reads requests from ``connection`` and answers each with what ``reply`` gives; None ends it."""

    def __init__(self, connection: socket.socket, reply: Reply | None) -> None:
        self._connection = connection
        self._reply = reply
        self.limits: list[int] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._connection, self._connection.makefile("rb") as lines:
            for line in lines:
                word, token, limit = line.split()
                assert word == b"run"
                self.limits.append(int(limit))
                coded = b"".join(iter(lambda: lines.readline().rstrip(), b"end"))
                if self._reply is None:
                    return
                self._connection.sendall(self._reply(token, base64.b64decode(coded)))

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def play() -> Iterator[Callable[[Reply | None], CommandChannel]]:
    closing: list[Callable[[], None]] = []

    def start(reply: Reply | None) -> CommandChannel:
        ours, theirs = socket.socketpair()
        channel = CommandChannel(ours)
        closing.extend((channel.close, PlayedGuest(theirs, reply).join))
        return channel

    yield start
    for close in closing:
        close()


Play = Callable[[Reply | None], CommandChannel]


def test_script_and_output_pass_byte_for_byte(play: Play) -> None:
    channel = play(answer)
    script = "printf 'é\x01\x03\x04\\n'\n" + "#" * 10_000
    assert channel.run(script, 5) == Answer(0, script.encode())


def test_binary_output_and_status_come_back(play: Play) -> None:
    channel = play(lambda token, script: answer(token, bytes(range(256)) * 64, 3))
    assert channel.run("x", 5) == Answer(3, bytes(range(256)) * 64)


def test_a_late_answer_is_not_taken_for_the_next_ones(play: Play) -> None:
    def reply(token: bytes, script: bytes) -> bytes:
        return answer(b"0", b"begin 1\nlate", 1) + answer(token, script)

    channel = play(reply)
    assert channel.run("first", 5).output == b"first"
    assert channel.run("second", 5).output == b"second"


def test_answers_cut_anywhere_are_put_together() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        channel = CommandChannel(ours)
        whole = b"noise\r\nready\r\n" + answer(b"1", b"output")

        def send() -> None:
            for position in range(len(whole)):
                theirs.sendall(whole[position : position + 1])

        sender = threading.Thread(target=send)
        sender.start()
        channel.await_ready(5)
        assert channel.run("x", 5) == Answer(0, b"output")
        sender.join()
        channel.close()


def test_no_line_of_a_request_is_longer_than_a_tty_takes() -> None:
    lines = request(b"1", "x" * 100_000, 5).split(b"\n")
    assert max(map(len, lines)) < 4096
    assert lines[0] == b"run 1 5"
    assert base64.b64decode(b"".join(lines[1:-2])) == b"x" * 100_000
    assert lines[-2:] == [b"end", b""]


def test_a_guest_that_ends_is_told_apart_from_a_slow_one(play: Play) -> None:
    channel = play(None)
    with pytest.raises(GuestFailed, match="the guest is gone") as gone:
        channel.run("poweroff", 5)
    assert not isinstance(gone.value, GuestTimeout)


def test_a_guest_that_never_answers_is_given_up_on(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_GRACE", 0.1)
    channel = play(lambda token, script: b"")
    with pytest.raises(GuestTimeout, match="did not answer in time"):
        channel.run("sleep 100", 0.1)


def test_a_command_killed_at_its_limit_is_a_timeout(play: Play) -> None:
    wait = threading.Event()

    def killed(token: bytes, script: bytes) -> bytes:
        wait.wait(0.2)
        return answer(token, b"so far", 137)

    channel = play(killed)
    with pytest.raises(GuestTimeout, match=r"still running after 0\.1 s: sleep 9\nso far"):
        channel.run("sleep 9", 0.1)


def test_a_command_that_kills_itself_is_no_timeout(play: Play) -> None:
    assert play(lambda token, script: answer(token, b"", 137)).run("kill -9 $$", 60).status == 137


def test_endless_output_is_refused(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_OUTPUT_LIMIT", 1000)
    channel = play(lambda token, script: answer(token, bytes(2000)))
    with pytest.raises(GuestFailed, match="printed more than"):
        channel.run("yes", 5)
