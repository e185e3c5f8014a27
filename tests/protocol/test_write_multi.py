"""REGION_WRITE_MULTI: many writes in one message, as if each had come alone."""

import struct
from collections.abc import Iterator
from errno import EINVAL, ENOTTY

import pytest
from typing_extensions import override

from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.exchange import Exchange
from mdev_user.vfio_user.framing import HEADER, LARGEST_MESSAGE, Command, command_message
from mdev_user.vfio_user.messages import RegionWrite, RegionWriteMulti
from mdev_user.vfio_user.version import Capabilities
from protocol.device import SCRATCH_SIZE, TestDevice
from protocol.messages import hello
from protocol.served import CountingLock, Served, Wire

BAR0 = 0
MOST = (LARGEST_MESSAGE - HEADER.size - 8) // 24


class Recording(TestDevice):
    """Remembers its writes in their order; region 5 has a bug."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[int, int, bytes]] = []

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        if region == 5:
            raise ZeroDivisionError("author's mistake")
        super().write(region, offset, data)
        self.written.append((region, offset, data))


@pytest.fixture
def recorded() -> Iterator[tuple[Served, Recording]]:
    device = Recording()
    with Served(device) as served:
        yield served, device


def one(offset: int, data: bytes, count: int | None = None, region: int = BAR0) -> bytes:
    return struct.pack("=QII8s", offset, region, len(data) if count is None else count, data)


def multi(*writes: bytes, count: int | None = None) -> bytes:
    return struct.pack("=Q", len(writes) if count is None else count) + b"".join(writes)


def test_writes_of_every_size_are_done_in_order(recorded: tuple[Served, Recording]) -> None:
    served, device = recorded
    writes = [RegionWrite(8 * size, BAR0, bytes(range(size))) for size in range(1, 9)] * 2
    assert Client.over(served.socket).write_multi(writes) == 16
    assert device.written == [(write.region, write.offset, write.data) for write in writes]
    assert served.device.counters.writes == 16


def test_the_reply_is_how_many_were_completed(wire: Wire) -> None:
    assert wire.ask(Command.REGION_WRITE_MULTI, multi(one(0, b"abcd"), one(8, b"x"))).payload == struct.pack("=Q", 2)
    assert wire.ask(Command.REGION_WRITE_MULTI, multi()).payload == struct.pack("=Q", 0)


def test_a_write_that_fails_stops_no_other(client: Client, served: Served) -> None:
    """What a client has put together under load must do what it does one by one."""
    writes = [RegionWrite(offset, BAR0, b"abcd") for offset in (0, SCRATCH_SIZE, 8)] + [RegionWrite(0, 5, b"x")]
    assert client.write_multi(writes) == 2
    assert client.region_read(BAR0, 8, 4) == b"abcd"
    assert served.device.counters.guest_errors == 2


def test_200_posted_writes_of_qemus_are_done_and_not_answered(wire: Wire, served: Served) -> None:
    writes = [one(4 * (number % 16), number.to_bytes(4, "little")) for number in range(200)]
    wire.post(Command.REGION_WRITE_MULTI, multi(*writes))
    answer = wire.ask(Command.REGION_READ, struct.pack("=QII", 28, BAR0, 4))
    assert int.from_bytes(answer.payload[16:], "little") == 199
    assert served.device.counters.writes == 200


def test_a_message_full_of_writes_is_taken(wire: Wire, served: Served) -> None:
    answer = wire.ask(Command.REGION_WRITE_MULTI, multi(*[one(0, b"x")] * MOST))
    assert answer.payload == struct.pack("=Q", MOST)
    assert served.device.counters.writes == MOST


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes(7),
        multi(count=1),
        multi(one(0, b"x"), count=0),
        multi(one(0, b"x"), count=2),
        multi(one(0, b"x"), count=(1 << 64) - 1),
        multi(one(0, b"x"), count=1 << 61),
        multi(one(0, b"x"))[:-1],
        multi(one(0, b"x")) + b"x",
        multi(one(0, b"x"), one(0, b"", count=0)),
        multi(one(0, b"x"), one(0, b"x", count=9)),
        multi(one(0, b"x"), one(0, b"x", count=(1 << 32) - 1)),
        multi(one(0, b"x"), one((1 << 64) - 1, b"xy")),
    ],
)
def test_a_malformed_message_is_einval_and_writes_nothing(wire: Wire, served: Served, payload: bytes) -> None:
    assert wire.ask(Command.REGION_WRITE_MULTI, payload).errno == EINVAL
    assert served.device.counters.writes == 0
    assert wire.works()


def test_a_bug_in_one_write_ends_the_session_as_in_any(recorded: tuple[Served, Recording]) -> None:
    served, device = recorded
    client = Client.over(served.socket)
    with pytest.raises(ConnectionError):
        client.write_multi([RegionWrite(0, BAR0, b"a"), RegionWrite(0, 5, b"b"), RegionWrite(8, BAR0, b"c")])
    assert served.ended() == "the driver failed: ZeroDivisionError: author's mistake"
    assert len(device.written) == 1


def test_each_write_is_a_step_of_its_own(served: Served) -> None:
    """Between two of them a job or an interrupt gets its turn, as between single writes."""
    lock = CountingLock(served.step_lock)
    exchange = Exchange(served.device, served.watcher, step_lock=lock)
    exchange.process(hello())
    before = lock.taken
    request = RegionWriteMulti((RegionWrite(0, BAR0, b"a"),) * 50)
    exchange.process(command_message(1, Command.REGION_WRITE_MULTI, request.encode()))
    assert lock.taken >= before + 50
    exchange.close()


def test_a_client_sends_it_only_where_it_was_agreed_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.session.connection, "offer", Capabilities())
    client = Client.over(served.socket)
    with pytest.raises(Exception, match="does not take") as refused:
        client.write_multi([RegionWrite(0, BAR0, b"a")])
    assert not isinstance(refused.value, RemoteError)
    assert getattr(refused.value, "errno", 0) == ENOTTY
