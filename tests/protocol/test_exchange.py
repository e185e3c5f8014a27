"""One message at a time, without a socket or a thread: the same answers as a session's."""

import os
import random
import struct
from collections.abc import Iterator

import pytest

from mdev_user.errors import PeerError
from mdev_user.vfio_user.exchange import Exchange
from mdev_user.vfio_user.framing import HEADER, Command, Header, command_message, reply_message
from mdev_user.vfio_user.steps import DriverFailed
from protocol.device import TestDevice
from protocol.irqs import EVENTFD, TRIGGER, set_irqs
from protocol.messages import any_message, hello
from protocol.served import Served, Wire, open_fds


@pytest.fixture
def exchange(served: Served) -> Iterator[Exchange]:
    exchange = Exchange(served.device, served.watcher)
    assert len(exchange.process(hello())) == 1
    yield exchange
    exchange.close()


READ = command_message(3, Command.REGION_READ, struct.pack("=QII", 0x10, 7, 4))


def test_one_message_is_answered_before_the_call_returns(exchange: Exchange) -> None:
    ((reply, fds),) = exchange.process(READ)
    assert Header.decode(reply).id == 3
    assert reply[-4:] == bytes(range(0x10, 0x14))
    assert not fds


def test_half_a_message_waits_for_the_other(exchange: Exchange) -> None:
    assert exchange.process(READ[:20]) == []
    assert exchange.midway
    assert len(exchange.process(READ[20:] + READ)) == 2
    assert not exchange.midway


def test_it_answers_what_a_session_answers(served: Served) -> None:
    """The same spoilt messages to both, which have a device each."""
    chance = random.Random(5)
    messages = [message for message in (any_message(chance) for _ in range(400)) if not message[8] & 0x10]
    wire = Wire(served.socket)
    wire.hello()
    with Served() as other:
        exchange = Exchange(other.device, other.watcher)
        exchange.process(hello())
        for message in messages:
            wire.send(message)
            answer = wire.receive()
            ((reply, fds),) = exchange.process(message)
            assert HEADER.pack(*answer.header) + answer.payload == reply
            assert len(answer.fds) == len(fds)
            for fd in answer.fds:
                os.close(fd)
        exchange.close()


def test_fds_are_its_own_and_closed_at_the_end(exchange: Exchange) -> None:
    before = open_fds()
    arm = command_message(1, Command.DEVICE_SET_IRQS, set_irqs(EVENTFD | TRIGGER, 1, vectors=2))
    ((reply, _),) = exchange.process(arm, [os.eventfd(0), os.eventfd(0)])
    assert not Header.decode(reply).failed
    exchange.process(READ[:5], [os.eventfd(0)])
    assert open_fds() == before + 3
    exchange.close()
    assert open_fds() == before


def test_a_region_comes_with_the_devices_own_fd(exchange: Exchange, served: Served) -> None:
    ask = command_message(1, Command.DEVICE_GET_REGION_INFO, struct.pack("=IIIIQQ", 32, 0, 4, 0, 0, 0))
    ((_reply, fds),) = exchange.process(ask)
    assert fds == (served.device.memory_fd,)


def test_what_jobs_ask_the_client_for_is_sent_too(exchange: Exchange) -> None:
    done: list[object] = []
    exchange.send_dma_read(0x1000, 4, done.append)
    ((request, _),) = exchange.take_sent()
    assert Header.decode(request).command == Command.DMA_READ
    assert exchange.process(reply_message(0, Command.DMA_READ, request[16:] + b"abcd")) == []
    assert done == [b"abcd"]
    exchange.send_dma_write(0x1000, b"x", done.append)
    exchange.close()
    assert isinstance(done[1], Exception)


def test_the_end_of_a_connection_is_an_exception(exchange: Exchange) -> None:
    with pytest.raises(PeerError, match="message of 0 bytes"):
        exchange.process(bytes(16))
    with pytest.raises(PeerError):
        exchange.process(READ)


def test_a_bug_of_the_driver_is_an_exception(
    exchange: Exchange, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_arguments: object) -> bytes:
        raise ZeroDivisionError("author's mistake")

    assert isinstance(served.ops, TestDevice)
    monkeypatch.setattr(served.device, "read", wrong)
    with pytest.raises(DriverFailed, match="author's mistake"):
        exchange.process(READ)
