"""Frames: where messages begin and end however they arrive, and what of a bad one still gets an answer."""

import os
import struct
import threading
from errno import EINVAL, ENOTTY

import pytest

from mdev_user.vfio_user.framing import (
    ERROR,
    HEADER,
    LARGEST_MESSAGE,
    NO_REPLY,
    REPLY,
    Command,
    Header,
    command_message,
)
from protocol.served import Answer, Served, Wire

READ = struct.pack("=QII", 0x20, 7, 4)
READ_REPLY = READ + bytes(range(0x20, 0x24))
WRITE = struct.pack("=QII", 0, 0, 4) + b"abcd"


def three_messages() -> bytes:
    """A write, a read of another kind, a read: identities 1, 2, 3."""
    return b"".join(
        (
            command_message(1, Command.REGION_WRITE, WRITE),
            command_message(2, Command.DEVICE_GET_IRQ_INFO, struct.pack("=IIII", 16, 0, 1, 0)),
            command_message(3, Command.REGION_READ, READ),
        )
    )


def answers(wire: Wire, count: int) -> list[Answer]:
    return [wire.receive() for _ in range(count)]


def check_three(replies: list[Answer]) -> None:
    assert [(reply.header.id, reply.errno) for reply in replies] == [(1, 0), (2, 0), (3, 0)]
    assert struct.unpack("=IIII", replies[1].payload) == (16, 9, 1, 4)
    assert replies[2].payload == READ_REPLY


def test_glued_messages_are_answered_in_order(wire: Wire) -> None:
    wire.send(three_messages())
    check_three(answers(wire, 3))


def test_messages_cut_at_every_byte_are_the_same_messages(wire: Wire) -> None:
    data = three_messages()
    for cut in range(1, len(data)):
        wire.send(data[:cut])
        os.sched_yield()
        wire.send(data[cut:])
        check_three(answers(wire, 3))
    assert wire.works()


def test_messages_in_single_bytes_are_the_same_messages(wire: Wire) -> None:
    for byte in three_messages():
        wire.send(bytes([byte]))
    check_three(answers(wire, 3))


def test_thousands_of_glued_messages_are_all_answered(wire: Wire) -> None:
    data = b"".join(command_message(identity, Command.REGION_READ, READ) for identity in range(3000))
    sender = threading.Thread(target=wire.send, args=(data,))  # or both sides wait for the other to read
    sender.start()
    for identity in range(3000):
        answer = wire.receive()
        assert (answer.header.id, answer.payload) == (identity, READ_REPLY)
    sender.join()


def test_an_identity_may_repeat(wire: Wire) -> None:
    wire.send(command_message(5, Command.REGION_READ, READ) * 3)
    assert [answer.payload for answer in answers(wire, 3)] == [READ_REPLY] * 3


@pytest.mark.parametrize("size", [0, 1, 15, LARGEST_MESSAGE + 1, 1 << 31, (1 << 32) - 1])
def test_a_size_that_no_message_has_ends_the_connection(wire: Wire, served: Served, size: int) -> None:
    wire.send(HEADER.pack(1, Command.REGION_READ, size, 0, 0) + READ)
    assert wire.closed()
    assert f"message of {size} bytes" in served.ended()


def test_a_reply_that_nobody_asked_for_ends_the_connection(wire: Wire, served: Served) -> None:
    wire.send(HEADER.pack(0, Command.DMA_READ, HEADER.size, REPLY, 0))
    assert wire.closed()
    assert "that nobody asked for" in served.ended()


@pytest.mark.parametrize("command", [0, 6, 11, 12, 14, 15, 17, 18, 19, 255, 0xFFFF])
def test_a_command_that_is_not_served_is_einval(wire: Wire, command: int) -> None:
    assert wire.ask(command, bytes(32)).errno == EINVAL
    assert wire.works()


def test_device_feature_is_enotty(wire: Wire) -> None:
    assert wire.ask(Command.DEVICE_FEATURE, struct.pack("=II", 8, 0x10001)).errno == ENOTTY
    assert wire.works()


@pytest.mark.parametrize("flags", [0x2, 0xF, ERROR, 0x40, 0x80000000, 0x14 | ERROR])
def test_a_command_with_unknown_flags_is_einval(wire: Wire, flags: int) -> None:
    wire.send(HEADER.pack(1, Command.REGION_READ, HEADER.size + len(READ), flags, 0) + READ)
    if not flags & NO_REPLY:
        assert wire.receive().errno == EINVAL
    assert wire.works()


def test_the_errno_of_a_command_is_nobodys(wire: Wire) -> None:
    wire.send(HEADER.pack(1, Command.REGION_READ, HEADER.size + len(READ), 0, 99) + READ)
    assert wire.receive().payload == READ_REPLY


def posted(command: int, payload: bytes) -> bytes:
    return HEADER.pack(1, command, HEADER.size + len(payload), NO_REPLY, 0) + payload


@pytest.mark.parametrize(
    ("command", "payload"),
    [
        (Command.REGION_WRITE, WRITE),
        (Command.REGION_READ, READ),
        (Command.REGION_READ, READ[:-1]),
        (Command.REGION_WRITE, struct.pack("=QII", 1 << 40, 0, 4) + b"abcd"),
        (Command.DEVICE_RESET, b"x"),
        (Command.DEVICE_FEATURE, b""),
        (99, b""),
    ],
)
def test_no_reply_is_honoured_for_good_and_bad_requests(wire: Wire, command: int, payload: bytes) -> None:
    wire.send(posted(command, payload))
    assert wire.works()  # its answer is the first that comes


def test_posted_writes_are_done(wire: Wire) -> None:
    wire.send(posted(Command.REGION_WRITE, WRITE) + posted(Command.REGION_WRITE, WRITE))
    assert wire.ask(Command.REGION_READ, struct.pack("=QII", 0, 0, 4)).payload[16:] == b"abcd"


@pytest.mark.parametrize("cut", [1, 15, 16, 17, 31])
def test_a_client_that_goes_in_the_middle_of_a_message_is_named(wire: Wire, served: Served, cut: int) -> None:
    wire.send(command_message(1, Command.REGION_READ, READ)[:cut])
    wire.socket.close()
    assert served.ended() == "the client went away in the middle of a message"


def test_a_client_that_goes_is_the_normal_end(wire: Wire, served: Served) -> None:
    assert not served.session.hung_up()
    wire.socket.close()
    assert served.ended() == "the client went away"
    assert served.session.hung_up()
    assert not served.device.opened


def test_errors_are_counted_with_their_text(wire: Wire, served: Served) -> None:
    wire.ask(Command.DEVICE_RESET, b"x")
    assert served.device.counters.guest_errors == 1
    assert served.device.counters.last_guest_error == "payload of 1 bytes: expected 0"


def test_a_header_alone_asks_for_nothing_more(wire: Wire) -> None:
    answer = wire.ask(Command.DEVICE_RESET)
    assert answer.header == Header(7, Command.DEVICE_RESET, HEADER.size, REPLY, 0)
