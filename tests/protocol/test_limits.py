"""What a client can make one session hold: messages both ways, bytes that wait, mappings; and that it ends at once."""

import os
import struct
import threading

import pytest

from mdev_user.errors import DmaFault
from mdev_user.units import KiB, MiB
from mdev_user.vfio.dma import LARGEST_ACCESS, DmaFlags, DmaMappings, Mapping
from mdev_user.vfio_user import message_dma
from mdev_user.vfio_user.framing import HEADER, NO_REPLY, Command, command_message, reply_message
from mdev_user.vfio_user.message_dma import MOST_UNDER_WAY
from mdev_user.vfio_user.outgoing import MOST_LEFT
from protocol.served import Served, Wire, open_fds
from protocol.test_sending import until

READ = struct.pack("=QII", 0, 0, 4 * KiB)


def ask_memory(served: Served, count: int, done: list[object], length: int = 64) -> None:
    with served.step_lock:
        for number in range(count):
            served.session.send_dma_read(number * 0x1000, length, done.append)


def answer(wire: Wire) -> int:
    """The address that was asked for; it is answered with zeros."""
    request = wire.receive()
    address, count = struct.unpack("=QQ", request.payload)
    wire.send(reply_message(request.header.id, Command.DMA_READ, request.payload + bytes(count)))
    return int(address)


def test_a_client_that_answers_no_dma_gets_a_few_messages_and_the_others_wait(wire: Wire, served: Served) -> None:
    done: list[object] = []
    ask_memory(served, 1000, done)
    for number in range(MOST_UNDER_WAY):
        assert struct.unpack("=QQ", wire.receive().payload) == (number * 0x1000, 64)
    assert wire.works(), "nothing else was sent meanwhile"
    assert len(served.session.connection._pending) == MOST_UNDER_WAY
    wire.socket.close()
    served.ended()
    assert len(done) == 1000
    assert all(isinstance(each, DmaFault) for each in done)


def test_all_of_them_are_served_in_order_once_it_answers(wire: Wire, served: Served) -> None:
    done: list[object] = []
    ask_memory(served, 100, done)
    assert [answer(wire) for _ in range(100)] == [number * 0x1000 for number in range(100)]
    until(lambda: len(done) == 100)
    assert done == [bytes(64)] * 100


def test_bytes_that_wait_for_a_client_have_an_end(wire: Wire, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_dma, "MOST_BYTES", MiB)
    done: list[object] = []
    with served.step_lock:
        for _ in range(16):
            served.session.send_dma_write(0, bytes(64 * KiB), done.append)
        with pytest.raises(DmaFault, match="1048576 bytes wait"):
            served.session.send_dma_write(0, b"one more", done.append)
    request = wire.receive()
    wire.send(reply_message(request.header.id, Command.DMA_WRITE, request.payload[:16]))
    until(lambda: done)
    with served.step_lock:
        served.session.send_dma_write(0, b"there is room again", done.append)


def test_accesses_that_wait_for_a_client_have_an_end(
    wire: Wire, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_dma, "MOST_WAITING", 40)
    done: list[object] = []
    ask_memory(served, 40, done)
    with pytest.raises(DmaFault):
        ask_memory(served, 1, done)
    assert not done
    assert [answer(wire) for _ in range(40)]
    until(lambda: len(done) == 40)
    ask_memory(served, 40, done)


def test_a_client_that_reads_nothing_makes_us_hold_a_few_messages(wire: Wire, served: Served) -> None:
    """It asks for replies, and jobs want to write its memory."""
    done: list[object] = []
    with served.step_lock:
        for _ in range(100):
            served.session.send_dma_write(0, bytes(MiB), done.append)
    sender = threading.Thread(target=flood, args=(wire,))
    sender.start()
    until(lambda: served.device.counters.reads)
    for _ in range(50):
        with served.step_lock:
            assert len(served.session._outgoing.waiting) <= MOST_UNDER_WAY + MOST_LEFT + 1
    served.session.close("removed by force")
    assert served.ended() == "removed by force"
    assert not served.session._outgoing.waiting
    sender.join()


def flood(wire: Wire) -> None:
    message = command_message(1, Command.REGION_READ, READ) * 50
    try:
        while True:
            wire.socket.sendall(message)
    except OSError:
        return


def test_a_flood_of_posted_writes_ends_when_the_session_is_closed(wire: Wire, served: Served) -> None:
    posted = struct.pack("=QII", 0, 0, 1) + b"x"
    message = HEADER.pack(1, Command.REGION_WRITE, HEADER.size + len(posted), NO_REPLY, 0) + posted

    def send() -> None:
        try:
            while True:
                wire.socket.sendall(message * 1000)
        except OSError:
            return

    sender = threading.Thread(target=send)
    sender.start()
    until(lambda: served.device.counters.writes > 1000)
    served.session.close("removed by force")
    assert served.ended() == "removed by force"
    sender.join()


def test_a_message_that_comes_byte_by_byte_is_a_message(wire: Wire) -> None:
    request = command_message(9, Command.REGION_READ, struct.pack("=QII", 0x10, 7, 4))
    for at in range(len(request)):
        wire.socket.sendall(request[at : at + 1])
    assert wire.receive().payload[16:] == bytes(range(0x10, 0x14))
    assert wire.works()


def test_a_client_in_the_middle_of_a_header_is_disconnected_at_once(wire: Wire, served: Served) -> None:
    wire.socket.sendall(b"\x01\x00\x01")
    served.session.close("removed by force")
    assert served.ended() == "removed by force"


def test_fds_of_a_message_that_never_ends_are_a_few_and_are_closed(wire: Wire, served: Served) -> None:
    before = open_fds()
    devnull = os.open("/dev/null", os.O_RDONLY)
    half = command_message(2, Command.DMA_MAP, bytes(32))
    wire.send(half[:4], [devnull] * 16)
    wire.send(half[4:9], [devnull] * 16)
    assert "file descriptors" in served.ended()
    os.close(devnull)
    assert open_fds() == before - 1, "the server's end of the socket is closed, too"


def test_one_access_of_a_device_has_an_end() -> None:
    """Its length is often a register of the guest's."""
    mappings = DmaMappings()
    mappings.map(Mapping(0, 1 << 40, DmaFlags.READ, None))
    assert mappings.segments(0, LARGEST_ACCESS, DmaFlags.READ)
    with pytest.raises(DmaFault, match="in parts"):
        mappings.segments(0, LARGEST_ACCESS + 1, DmaFlags.READ)
