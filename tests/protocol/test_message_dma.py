"""DMA_READ and DMA_WRITE: a device reaches memory that was not shared, whatever the client answers."""

import os
import struct
import threading
from collections.abc import Iterator
from errno import EFAULT

import pytest
from typing_extensions import override

from mdev_user.errors import DmaFault, GuestError
from mdev_user.units import GiB, MiB
from mdev_user.vfio.dma import DmaFlags
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import ERROR, HEADER, NO_REPLY, REPLY, Command, command_message, reply_message
from mdev_user.vfio_user.message_dma import MOST_UNDER_WAY
from mdev_user.vfio_user.messages import DmaRead
from mdev_user.vfio_user.outgoing import Outgoing
from protocol.device import TestDevice
from protocol.served import Answer, Served, Wire

START, OUTCOME = 0x800, 0x900


class Dma(TestDevice):
    """Copies: a write of (source, target, length) at START makes a job that reads source and writes it to target."""

    outcome: Exception | str = ""

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        if offset == START:
            source, target, length = struct.unpack("=QQQ", data)
            self.device.spawn(self._copy(source, target, length), "copy")
        else:
            super().write(region, offset, data)

    async def _copy(self, source: int, target: int, length: int) -> None:
        try:
            data = await self.device.dma.read(source, length)
            await self.device.dma.write(target, data)
            self.outcome = "copied"
        except DmaFault as error:
            self.outcome = error
        self.scratch[OUTCOME] = 1


class GuestRam:
    """The guest's memory at the client."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def read(self, address: int, count: int) -> bytes:
        if address + count > len(self.data):
            raise DmaFault(f"{address:#x}")
        return bytes(self.data[address : address + count])

    def write(self, address: int, data: bytes) -> None:
        if address + len(data) > len(self.data):
            raise DmaFault(f"{address:#x}")
        self.data[address : address + len(data)] = data


@pytest.fixture
def device() -> Dma:
    return Dma()


@pytest.fixture
def served(device: Dma) -> Iterator[Served]:
    with Served(device) as served:
        yield served


def start(wire: Wire, source: int = 0x1000, target: int = 0x2000, length: int = 8) -> Answer:
    return wire.ask(Command.REGION_WRITE, struct.pack("=QIIQQQ", START, 0, 24, source, target, length), identity=0xAAAA)


@pytest.mark.parametrize("length", [1, 8, 4096, MiB, MiB + 1, 3 * MiB + 5])
def test_memory_is_copied_through_messages(served: Served, device: Dma, length: int) -> None:
    ram = GuestRam(8 * MiB)
    ram.data[:length] = pattern = os.urandom(length)
    client = Client.over(served.socket, ram)
    client.dma_map(0, GiB)
    client.region_write(0, START, struct.pack("=QQQ", 0, 4 * MiB, length))
    wait_until(client, device)
    assert device.outcome == "copied"
    assert ram.data[4 * MiB : 4 * MiB + length] == pattern


def test_a_client_can_serve_without_a_request_of_its_own(served: Served, device: Dma) -> None:
    ram = GuestRam(MiB)
    client = Client.over(served.socket, ram)
    client.region_write(0, START, struct.pack("=QQQ", 0, 0x1000, 64))
    client.serve()  # the read
    client.serve()  # the write
    wait_until(client, device)
    assert device.outcome == "copied"


def test_the_clients_transfer_size_is_kept_to(served: Served, device: Dma) -> None:
    wire = Wire(served.socket)
    wire.ask(Command.VERSION, struct.pack("=HH", 0, 0) + b'{"capabilities": {"max_data_xfer_size": 3}}\0')
    start(wire, length=8)
    asked = []
    for _ in range(3):
        request = wire.receive()
        address, count = struct.unpack("=QQ", request.payload)
        asked.append((address, count))
        wire.send(reply_message(request.header.id, Command.DMA_READ, request.payload + b"x" * count))
    assert asked == [(0x1000, 3), (0x1003, 3), (0x1006, 2)]
    for _ in range(3):
        request = wire.receive()
        assert request.header.command == Command.DMA_WRITE
        wire.send(reply_message(request.header.id, Command.DMA_WRITE, request.payload[:16]))
    wait_for(wire, device)
    assert device.outcome == "copied"


def wait_for(wire: Wire, device: Dma) -> None:
    for _ in range(1000):
        wire.works()
        if device.outcome:
            return
    raise AssertionError("the job did not end")


def answer_read(wire: Wire) -> None:
    request = wire.receive()
    assert request.header.command == Command.DMA_READ
    wire.send(reply_message(request.header.id, Command.DMA_READ, request.payload + b"12345678"))


@pytest.mark.parametrize("reply", [b"", struct.pack("=QI", 0x2000, 8), struct.pack("=QQ", 0x2000, 8)])
def test_every_known_reply_to_dma_write_is_taken(served: Served, device: Dma, reply: bytes) -> None:
    wire = Wire(served.socket)
    wire.hello()
    start(wire)
    answer_read(wire)
    request = wire.receive()
    assert request.payload == struct.pack("=QQ", 0x2000, 8) + b"12345678"
    wire.send(reply_message(request.header.id, Command.DMA_WRITE, reply))
    wait_for(wire, device)
    assert device.outcome == "copied"


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        bytes(15),
        struct.pack("=QQ", 0x1000, 8),
        struct.pack("=QQ", 0x1000, 8) + bytes(7),
        struct.pack("=QQ", 0x1000, 8) + bytes(9),
        struct.pack("=QQ", 0x1000, 7) + bytes(7),
        struct.pack("=QQ", 0x1001, 8) + bytes(8),
        struct.pack("=QQ", 0x1000, (1 << 64) - 1) + bytes(8),
    ],
)
def test_a_bad_reply_to_dma_read_is_a_fault_of_the_job_only(served: Served, device: Dma, reply: bytes) -> None:
    wire = Wire(served.socket)
    wire.hello()
    start(wire)
    wire.send(reply_message(wire.receive().header.id, Command.DMA_READ, reply))
    wait_for(wire, device)
    assert isinstance(device.outcome, DmaFault)
    assert wire.works()


@pytest.mark.parametrize(
    "reply",
    [
        bytes(1),
        bytes(15),
        bytes(17),
        struct.pack("=QQ", 0x2000, 7),
        struct.pack("=QI", 0x2000, 9),
        struct.pack("=QQ", 0x2001, 8),
    ],
)
def test_a_bad_reply_to_dma_write_is_a_fault_of_the_job_only(served: Served, device: Dma, reply: bytes) -> None:
    wire = Wire(served.socket)
    wire.hello()
    start(wire)
    answer_read(wire)
    wire.send(reply_message(wire.receive().header.id, Command.DMA_WRITE, reply))
    wait_for(wire, device)
    assert isinstance(device.outcome, DmaFault)
    assert wire.works()


@pytest.mark.parametrize("errno", [0, EFAULT, 5000, (1 << 32) - 1])
def test_an_error_reply_is_a_fault_of_the_job(served: Served, device: Dma, errno: int) -> None:
    wire = Wire(served.socket)
    wire.hello()
    start(wire)
    request = wire.receive()
    wire.send(HEADER.pack(request.header.id, Command.DMA_READ, HEADER.size, REPLY | ERROR, errno))
    wait_for(wire, device)
    assert isinstance(device.outcome, DmaFault)
    assert wire.works()


def test_fds_with_a_reply_are_refused_and_closed(served: Served, device: Dma) -> None:
    wire = Wire(served.socket)
    wire.hello()
    start(wire)
    request = wire.receive()
    fd = os.eventfd(0)
    wire.send(reply_message(request.header.id, Command.DMA_READ, request.payload + bytes(8)), [fd])
    os.close(fd)
    wait_for(wire, device)
    assert isinstance(device.outcome, DmaFault)


@pytest.mark.parametrize("command", [Command.DMA_WRITE, Command.REGION_READ, 0])
@pytest.mark.parametrize("with_fd", [False, True])
def test_a_reply_of_another_command_ends_the_connection(
    served: Served, device: Dma, command: int, with_fd: bool
) -> None:
    wire = Wire(served.socket)
    wire.hello()
    start(wire)
    fd = os.eventfd(0)
    wire.send(reply_message(wire.receive().header.id, command, bytes(16)), [fd] if with_fd else [])
    os.close(fd)
    assert "that nobody asked for" in served.ended()
    assert isinstance(device.outcome, DmaFault)


def test_a_reply_given_twice_ends_the_connection(served: Served) -> None:
    wire = Wire(served.socket)
    wire.hello()
    start(wire)
    request = wire.receive()
    wire.send(reply_message(request.header.id, Command.DMA_READ, request.payload + bytes(8)) * 2)
    assert "that nobody asked for" in served.ended()


def test_jobs_are_told_when_the_client_goes(served: Served, device: Dma) -> None:
    wire = Wire(served.socket)
    wire.hello()
    start(wire)
    wire.receive()
    wire.socket.close()
    served.ended()
    served.jobs.join()
    assert isinstance(device.outcome, DmaFault)


def test_a_client_that_answers_before_it_reads_on_is_heard(served: Served, device: Dma) -> None:
    """As one with a single thread does; neither end may wait for the other."""
    ram = GuestRam(16 * MiB)
    client = Client.over(served.socket, ram)
    client.dma_map(0, 16 * MiB)
    ram.data[: 4 * MiB] = os.urandom(4 * MiB)
    for at in range(0, 4 * MiB, MiB):
        client.region_write(0, START, struct.pack("=QQQ", at, 8 * MiB + at, MiB))
    while ram.data[8 * MiB : 12 * MiB] != ram.data[: 4 * MiB]:
        client.region_read(0, 0, 4)


def test_a_message_that_cannot_be_sent_is_a_fault_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its job has gone on by the time that the session sees the end, and waits for something else."""
    wire = Wire(served.socket)
    wire.hello()
    results: list[object] = []

    def send(_self: Outgoing, _message: bytes) -> None:
        raise BrokenPipeError

    with served.step_lock:
        for _ in range(MOST_UNDER_WAY + 1):
            served.session.send_dma_write(0, bytes(2 * MiB), results.append)
        monkeypatch.setattr(Outgoing, "send", send)
    asked = wire.receive()
    wire.send(reply_message(asked.header.id, Command.DMA_WRITE, asked.payload[:16]))
    served.socket.close()
    assert "driver" not in served.ended()
    assert len(results) == MOST_UNDER_WAY + 1
    assert all(isinstance(each, DmaFault) for each in results)


def test_dma_after_the_end_is_a_fault_at_once(served: Served) -> None:
    wire = Wire(served.socket)
    wire.hello()
    wire.socket.close()
    served.ended()
    with pytest.raises(DmaFault, match="gone"):
        served.session.send_dma_read(0, 4, print)
    with pytest.raises(DmaFault, match="gone"):
        served.session.send_dma_write(0, b"1234", print)


def test_replies_may_come_in_any_order(served: Served) -> None:
    wire = Wire(served.socket)
    wire.hello()
    results: dict[int, object] = {}

    def keep(iova: int) -> None:
        served.session.send_dma_read(iova, 4, lambda result: results.__setitem__(iova, result))

    with served.step_lock:
        for iova in (0x1000, 0x2000, 0x3000):
            keep(iova)
    requests = [wire.receive() for _ in range(3)]
    for request in reversed(requests):
        address, count = struct.unpack("=QQ", request.payload)
        wire.send(reply_message(request.header.id, Command.DMA_READ, request.payload + struct.pack("=I", address)))
        assert count == 4
    assert wire.works()
    assert results == {iova: struct.pack("=I", iova) for iova in (0x1000, 0x2000, 0x3000)}
    assert list(results) == [0x3000, 0x2000, 0x1000]


def test_no_bytes_need_no_message(served: Served) -> None:
    wire = Wire(served.socket)
    wire.hello()
    results: list[object] = []
    with served.step_lock:
        served.session.send_dma_read(0, 0, results.append)
        served.session.send_dma_write(0, b"", results.append)
    assert results == [b"", b""]


def test_a_bug_of_the_jobs_continuation_ends_the_session(served: Served) -> None:
    wire = Wire(served.socket)
    wire.hello()

    def fails(_result: object) -> None:
        raise ZeroDivisionError("author's mistake")

    with served.step_lock:
        served.session.send_dma_read(0x1000, 4, fails)
        served.session.send_dma_read(0x2000, 4, fails)
    request = wire.receive()
    wire.send(reply_message(request.header.id, Command.DMA_READ, request.payload + bytes(4)))
    assert served.ended() == "the driver failed: ZeroDivisionError: author's mistake"


# --- the client's side --------------------------------------------------------------------------------------


class FakeServer:
    """The other end of a client, by hand."""

    def __init__(self) -> None:
        import socket

        self.client_end, server_end = socket.socketpair()
        server_end.settimeout(20)
        self.wire = Wire(server_end)

    def agree(self) -> Client:
        clients: list[Client] = []
        ram = GuestRam(64)
        thread = threading.Thread(target=lambda: clients.append(Client.over(self.client_end, ram)))
        thread.start()
        hello = self.wire.receive()
        self.wire.send(reply_message(hello.header.id, Command.VERSION, hello.payload))
        thread.join()
        return clients[0]

    def close(self) -> None:
        self.client_end.close()
        self.wire.socket.close()


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


@pytest.mark.parametrize(
    ("message", "errno"),
    [
        (command_message(1, Command.DMA_READ, struct.pack("=QQ", 60, 8)), EFAULT),
        (command_message(1, Command.DMA_READ, struct.pack("=QQ", 0, 0)), 22),
        (command_message(1, Command.DMA_READ, bytes(15)), 22),
        (command_message(1, Command.DMA_WRITE, struct.pack("=QQ", 60, 8) + bytes(8)), EFAULT),
        (command_message(1, Command.DMA_WRITE, struct.pack("=QQ", 0, 8) + bytes(7)), 22),
        (command_message(1, Command.REGION_READ, struct.pack("=QII", 0, 0, 4)), 22),
        (command_message(1, Command.DMA_READ, struct.pack("=QQ", 0, 8)), 0),
        (command_message(1, Command.DMA_WRITE, struct.pack("=QQ", 0, 8) + bytes(8)), 0),
    ],
)
def test_a_client_answers_a_hostile_server(fake: FakeServer, message: bytes, errno: int) -> None:
    client = fake.agree()
    fd = os.eventfd(0)
    fake.wire.send(message)
    client.serve()
    assert fake.wire.receive().errno == errno
    fake.wire.send(message, [fd])
    os.close(fd)
    client.serve()
    assert fake.wire.receive().errno == 22


def test_a_client_does_not_answer_posted_messages(fake: FakeServer) -> None:
    client = fake.agree()
    payload = struct.pack("=QQ", 0, 8) + b"12345678"
    fake.wire.send(HEADER.pack(1, Command.DMA_WRITE, HEADER.size + len(payload), NO_REPLY, 0) + payload)
    client.serve()
    assert client.memory.read(0, 8) == b"12345678"
    fake.wire.send(command_message(2, Command.DMA_READ, struct.pack("=QQ", 0, 8)))
    client.serve()
    assert fake.wire.receive().header.id == 2


def test_a_client_without_memory_answers_efault(served: Served, device: Dma) -> None:
    client = Client.over(served.socket)
    client.region_write(0, START, struct.pack("=QQQ", 0, 0, 8))
    client.serve()
    wait_until(client, device)
    assert isinstance(device.outcome, DmaFault)


def wait_until(client: Client, device: Dma) -> None:
    for _ in range(1000):
        if device.outcome:
            return
        client.region_read(7, 0, 1)
    raise AssertionError("the job did not end")


def test_dma_flags_have_the_specifications_values() -> None:
    assert (DmaFlags.READ, DmaFlags.WRITE) == (1, 2)


def test_a_transfer_for_which_no_identity_is_left_is_a_fault_of_the_job(served: Served) -> None:
    wire = Wire(served.socket)
    wire.ask(Command.VERSION, struct.pack("=HH", 0, 0) + b'{"capabilities": {"max_data_xfer_size": 4}}\0')
    results: list[object] = []
    with served.step_lock:
        served.session.send_dma_read(0x1000, 8, results.append)
    request = wire.receive()
    taken = dict.fromkeys(range(1, 1 << 16), DmaRead(0, 4))
    with served.step_lock:
        served.session.connection._pending |= taken
        served.session.connection._pending[1 << 16] = DmaRead(0, 4)  # so that the answer frees none
    wire.send(reply_message(request.header.id, Command.DMA_READ, request.payload + bytes(4)))
    assert wire.works()
    assert isinstance(results[0], GuestError)
