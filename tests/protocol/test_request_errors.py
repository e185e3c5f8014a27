"""What is wrong with a request gets its errno, and the next one works."""

import struct
from errno import EINVAL

import pytest

from mdev_user.vfio_user.framing import ERROR, HEADER, NO_REPLY, REPLY, Command, Header
from protocol.served import Served, Wire

READ = struct.pack("=QII", 0x20, 7, 4)
READ_REPLY = READ + bytes(range(0x20, 0x24))
FROM_THE_SERVER = [Command.DMA_READ, Command.DMA_WRITE]


@pytest.mark.parametrize("command", [0, Command.DIRTY_PAGES, 19, 255, 0xFFFF, *FROM_THE_SERVER])
def test_a_command_that_is_not_the_clients_is_einval(wire: Wire, command: int) -> None:
    assert wire.ask(command, bytes(32)).errno == EINVAL
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


def test_errors_are_counted_with_their_text(wire: Wire, served: Served) -> None:
    wire.ask(Command.DEVICE_RESET, b"x")
    assert served.device.counters.guest_errors == 1
    assert served.device.counters.last_guest_error == "payload of 1 bytes: expected 0"


def test_a_header_alone_asks_for_nothing_more(wire: Wire) -> None:
    answer = wire.ask(Command.DEVICE_RESET)
    assert answer.header == Header(7, Command.DEVICE_RESET, HEADER.size, REPLY, 0)


def test_an_error_reply_is_its_header_alone(wire: Wire) -> None:
    answer = wire.ask(Command.REGION_READ, struct.pack("=QII", 0, 7, 0))
    assert answer.header == Header(7, Command.REGION_READ, HEADER.size, REPLY | ERROR, EINVAL)


def test_a_posted_request_that_is_wrong_is_counted_and_not_answered(wire: Wire, served: Served) -> None:
    wire.post(Command.DEVICE_RESET, b"x")
    wire.post(99)
    assert wire.works()  # its answer is the first that comes
    assert served.device.counters.guest_errors == 2
