"""Frames: where messages begin and end however they arrive, and what of a bad one still gets an answer."""

import os
import struct
import threading

import pytest

from mdev_user.vfio_user.framing import (
    HEADER,
    LARGEST_MESSAGE,
    REPLY,
    Command,
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
