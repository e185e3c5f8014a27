"""A hand-written parent's jobs with a real client: DMA through a file and by messages, interrupts, and no deadlock."""

import os
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from zlib import crc32

import pytest

from daemon.parents.engine import (
    CAREFUL,
    COPY,
    CRC,
    DONE,
    DOORBELL,
    FAULT,
    FOREVER,
    LENGTH,
    MILLISECONDS,
    RESULT,
    SLOW,
    SOURCE,
    STATUS,
    TARGET,
    WAIT,
    Card,
)
from mdev_user.errors import DmaFault
from mdev_user.host.jobs import Jobs
from mdev_user.mdev.device import Mdev
from mdev_user.testing.local import LocalHost
from mdev_user.units import MiB
from mdev_user.vfio.requests import Irq
from mdev_user.vfio.work import MOST_PENDING
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError
from unit.host.parts import SECONDS, eventually

IOVA, SIZE = 0x1000_0000, 4 * MiB
COMMAND = struct.pack("<H", 0x0006)
"""Memory space and bus master."""


class Memory:
    """A guest's memory in a memfd: mapped by its fd, or served to the device's messages."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, SIZE)
        self.messages = 0

    def read(self, address: int, count: int) -> bytes:
        self.messages += 1
        return os.pread(self.fd, count, self._offset(address, count))

    def write(self, address: int, data: bytes) -> None:
        self.messages += 1
        os.pwrite(self.fd, data, self._offset(address, len(data)))

    def _offset(self, address: int, count: int) -> int:
        if not 0 <= address - IOVA <= SIZE - count:
            raise DmaFault(f"{count} bytes at {address:#x}")
        return address - IOVA


@pytest.fixture
def host() -> Iterator[LocalHost]:
    with LocalHost() as host:
        yield host


@pytest.fixture
def mdev(host: LocalHost) -> Mdev:
    return host.create(host.bus.register_parent("card", Card()), "card-engine")


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory()
    yield memory
    os.close(memory.fd)


class Guest:
    """A client with memory and an interrupt, and the words of a driver of the engine."""

    def __init__(self, client: Client, eventfd: int) -> None:
        self.client = client
        self.eventfd = eventfd

    def put(self, register: int, value: int, size: int = 4) -> None:
        self.client.region_write(0, register, value.to_bytes(size, "little"))

    def get(self, register: int, size: int = 4) -> int:
        return int.from_bytes(self.client.region_read(0, register, size), "little")

    def start(self, command: int, source: int = IOVA, length: int = 0, target: int = 0) -> None:
        self.put(SOURCE, source, 8)
        self.put(LENGTH, length)
        self.put(TARGET, target, 8)
        self.put(DOORBELL, command)

    def interrupted(self, seconds: float = SECONDS) -> bool:
        """Serve the device's messages until it interrupts."""
        poll = select.poll()
        poll.register(self.eventfd, select.POLLIN)
        poll.register(self.client.socket, select.POLLIN)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            while not self.client.connection.idle:  # what came along with a reply
                self.client.serve()
            ready = {fd for fd, _events in poll.poll(50)}
            if self.eventfd in ready:
                return os.eventfd_read(self.eventfd) == 1
            if ready:
                self.client.serve()
        return False

    def acknowledge(self) -> None:
        self.put(STATUS, DONE | FAULT)
        self.client.unmask()


@contextmanager
def guest_of(host: LocalHost, mdev: Mdev, memory: Memory, *, shared: bool, irq: Irq = Irq.INTX) -> Iterator[Guest]:
    eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with Client(host.socket(mdev), memory, SECONDS) as client:
            client.dma_map(IOVA, SIZE, memory.fd if shared else -1)
            client.region_write(7, 4, COMMAND)
            client.arm(irq, [eventfd])
            yield Guest(client, eventfd)
    finally:
        os.close(eventfd)


both_ways = pytest.mark.parametrize("shared", [True, False], ids=["by fd", "by messages"])


@both_ways
@pytest.mark.parametrize("irq", [Irq.INTX, Irq.MSI])
def test_a_doorbell_starts_a_job_that_reads_memory_and_interrupts(
    host: LocalHost, mdev: Mdev, memory: Memory, shared: bool, irq: Irq
) -> None:
    data = bytes(range(256)) * 300
    os.pwrite(memory.fd, data, 4096)
    with guest_of(host, mdev, memory, shared=shared, irq=irq) as guest:
        for number in range(1, 4):
            guest.start(CRC, IOVA + 4096, len(data) - number)
            assert guest.interrupted()
            assert guest.get(STATUS) == DONE
            assert guest.get(RESULT) == crc32(data[: len(data) - number])
            guest.put(STATUS, DONE)
            if irq is Irq.INTX:
                guest.client.unmask()
        counters = host.endpoint(mdev).device.counters
        assert counters.dma_read_bytes == 3 * len(data) - 6
        assert counters.interrupts == 3
        assert counters.guest_errors == 0
    assert bool(memory.messages) is not shared


@both_ways
def test_a_job_copies_more_than_a_message_holds(host: LocalHost, mdev: Mdev, memory: Memory, shared: bool) -> None:
    data = os.urandom(MiB + MiB // 2)
    os.pwrite(memory.fd, data, 0)
    with guest_of(host, mdev, memory, shared=shared) as guest:
        guest.start(COPY, IOVA, len(data), IOVA + 2 * MiB)
        assert guest.interrupted()
        assert os.pread(memory.fd, len(data), 2 * MiB) == data
        counters = host.endpoint(mdev).device.counters
        assert (counters.dma_read_bytes, counters.dma_write_bytes) == (len(data), len(data))


def test_message_dma_never_waits_for_the_access_that_started_it(host: LocalHost, mdev: Mdev, memory: Memory) -> None:
    """A VMM answers no message while it waits for its own write: the write must be answered first, or both hang."""
    with guest_of(host, mdev, memory, shared=False) as guest:
        for _ in range(50):
            began = time.monotonic()
            guest.start(CRC, IOVA, 64)
            assert guest.get(DOORBELL) == 0
            assert guest.interrupted()
            assert time.monotonic() - began < 2
            guest.acknowledge()


def test_other_accesses_are_answered_while_a_message_waits_for_its_answer(
    host: LocalHost, mdev: Mdev, memory: Memory
) -> None:
    held = threading.Event()
    read = memory.read

    def slow_read(address: int, count: int) -> bytes:
        held.set()
        return read(address, count)

    memory.read = slow_read  # type: ignore[method-assign]  # to see when it is asked
    with guest_of(host, mdev, memory, shared=False) as guest:
        guest.start(CRC, IOVA, 64)
        # The DMA_READ lies in the socket; the client's next request is answered behind it, and both get their own.
        guest.put(MILLISECONDS, 77)
        assert guest.get(MILLISECONDS) == 77
        assert guest.interrupted()
        assert held.is_set()


@both_ways
def test_an_address_that_the_guest_has_not_mapped_is_its_counted_error(
    host: LocalHost, mdev: Mdev, memory: Memory, shared: bool
) -> None:
    with guest_of(host, mdev, memory, shared=shared) as guest:
        guest.start(CAREFUL, IOVA + SIZE - 4, 8)
        assert guest.interrupted()
        assert guest.get(STATUS) == FAULT
        guest.acknowledge()
        counters = host.endpoint(mdev).device.counters
        assert counters.guest_errors == 1
        guest.start(CRC, IOVA + SIZE - 4, 8)  # a driver that does not expect it: the job ends, nothing else
        eventually(lambda: counters.guest_errors == 2)
        guest.start(CRC, IOVA, 8)
        assert guest.interrupted()


def test_a_client_that_cannot_give_its_memory_is_a_fault(host: LocalHost, mdev: Mdev, memory: Memory) -> None:
    with guest_of(host, mdev, memory, shared=False) as guest:
        guest.client.dma_map(IOVA + SIZE, 4096)  # mapped, but not served
        guest.start(CAREFUL, IOVA + SIZE, 8)
        assert guest.interrupted()
        assert guest.get(STATUS) == FAULT


def test_reset_cancels_jobs(host: LocalHost, mdev: Mdev, memory: Memory) -> None:
    with guest_of(host, mdev, memory, shared=True) as guest:
        guest.put(MILLISECONDS, 150)
        guest.put(DOORBELL, WAIT)
        guest.client.reset()
        assert not guest.interrupted(0.4)
        guest.put(MILLISECONDS, 1)
        guest.put(DOORBELL, WAIT)
        assert guest.interrupted()


def test_a_client_that_leaves_cancels_jobs_and_so_does_a_remove(host: LocalHost, mdev: Mdev, memory: Memory) -> None:
    endpoint = host.endpoint(mdev)
    pending: list[set[object]] = []
    for leave in (Client.close, lambda _client: endpoint.disconnect()):
        with guest_of(host, mdev, memory, shared=False) as guest:
            guest.put(DOORBELL, FOREVER)
            guest.start(CRC, IOVA, 64)  # its message is never answered
            runner = endpoint.device._jobs
            assert isinstance(runner, Jobs)
            eventually(lambda runner=runner: len(runner._pending) == 2)  # type: ignore[misc]  # bound at once
            pending.append(runner._pending)  # type: ignore[arg-type]  # of jobs, which are private
            leave(guest.client)
            eventually(lambda: endpoint.peer is None)
            assert not runner._pending
    host.bus.remove(mdev.uuid)


def test_a_guest_cannot_start_jobs_without_end(host: LocalHost, mdev: Mdev, memory: Memory) -> None:
    with guest_of(host, mdev, memory, shared=True) as guest:
        for _ in range(MOST_PENDING):
            guest.put(DOORBELL, FOREVER)
        with pytest.raises(RemoteError):
            guest.put(DOORBELL, FOREVER)
        counters = host.endpoint(mdev).device.counters
        assert counters.guest_errors == 1
        assert "1024 jobs are pending; forever was not started" in counters.last_guest_error
        guest.client.reset()
        guest.put(DOORBELL, FOREVER)


def test_a_slow_step_of_a_job_is_counted_and_named(host: LocalHost, mdev: Mdev, memory: Memory) -> None:
    with guest_of(host, mdev, memory, shared=True) as guest:
        guest.put(MILLISECONDS, 20)
        guest.put(DOORBELL, SLOW)
        assert guest.interrupted()
        counters = host.endpoint(mdev).device.counters
        eventually(lambda: counters.slowest_step == "job slow")
        assert counters.slow_steps >= 1


def test_a_slow_step_of_one_mdev_delays_no_others_accesses_and_another_ones_jobs_little(
    host: LocalHost, mdev: Mdev, memory: Memory
) -> None:
    other = host.create(host.bus.parent("card"), "card-engine")
    with guest_of(host, mdev, memory, shared=True) as guest, guest_of(host, other, memory, shared=True) as neighbour:
        lock = host.endpoint(mdev).lock
        with lock:  # a driver that does not return from an access, with jobs waiting for it
            runner = host.endpoint(mdev).device._jobs
            assert isinstance(runner, Jobs)
            for _ in range(200):
                runner.submit(lambda: None)
            began = time.monotonic()
            for _ in range(10):
                neighbour.start(CRC, IOVA, 16)
                assert neighbour.interrupted()
                neighbour.acknowledge()
            assert time.monotonic() - began < 1.5
        guest.start(CRC, IOVA, 16)
        assert guest.interrupted()


def test_an_access_that_awaited_dma_itself_would_hang(host: LocalHost, mdev: Mdev, memory: Memory) -> None:
    """The negative control of the jobs: DMA within the access that starts it waits for a client that waits for it."""
    with guest_of(host, mdev, memory, shared=False) as guest:
        endpoint = host.endpoint(mdev)
        answered, in_time = threading.Event(), list[bool]()
        write: Callable[[int, int, bytes], object] = endpoint.device.write

        def write_and_wait(region: int, offset: int, data: bytes) -> None:
            write(region, offset, data)
            session = endpoint.session
            assert session is not None
            session.send_dma_read(IOVA, 4, lambda _result: answered.set())
            in_time.append(answered.wait(0.3))  # a driver that blocks in its access

        endpoint.device.write = write_and_wait
        guest.put(MILLISECONDS, 1)
        assert in_time == [False]
        endpoint.device.write = write
        assert answered.wait(SECONDS)
