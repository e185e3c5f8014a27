"""NO_REPLY: what is posted is done, or counted as an error, and not answered."""

import struct

import pytest

from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import Command
from protocol.device import SCRATCH_SIZE
from protocol.served import Served, Wire

READ = struct.pack("=QII", 0x20, 7, 4)
WRITE = struct.pack("=QII", 0, 0, 4) + b"abcd"


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
    wire.post(command, payload)
    assert wire.works()  # its answer is the first that comes


def test_posted_writes_are_done_in_order(client: Client) -> None:
    for value in range(200):
        client.region_write(0, 8, bytes([value]), posted=True)
    assert client.region_read(0, 8, 1) == b"\xc7"


def test_a_posted_write_that_fails_is_counted_and_stops_nothing(client: Client, served: Served) -> None:
    client.region_write(0, SCRATCH_SIZE, b"abcd", posted=True)
    client.region_write(0, 0, b"abcd", posted=True)
    assert client.region_read(0, 0, 4) == b"abcd"
    assert (served.device.counters.writes, served.device.counters.guest_errors) == (1, 1)


def test_posted_and_other_writes_keep_their_order(wire: Wire) -> None:
    for number in range(100):
        wire.post(Command.REGION_WRITE, struct.pack("=QII", 0, 0, 4) + number.to_bytes(4, "little"))
        answer = wire.ask(Command.REGION_READ, struct.pack("=QII", 0, 0, 4))
        assert int.from_bytes(answer.payload[16:], "little") == number
