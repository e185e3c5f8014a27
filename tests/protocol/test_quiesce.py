"""Quiet when it must be: after an unmap, a reset, a stop or the end, nothing of the device reaches the guest."""

import os
from collections.abc import Iterator

import pytest

from mdev_user.errors import DmaFault
from mdev_user.host.jobs import Jobs
from mdev_user.units import MiB
from mdev_user.vfio.migration_states import PRE_COPY, RUNNING, RUNNING_P2P, STOP, MigrationState
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import Command, reply_message
from protocol.dma_device import ServedDma, until
from protocol.ram import SIZE, dma_map, unmap
from protocol.served import Answer, Wire


@pytest.fixture
def dma() -> Iterator[ServedDma]:
    with ServedDma() as served:
        yield served


@pytest.fixture
def client(dma: ServedDma, ram: int) -> Client:
    client = Client.over(dma.socket)
    client.dma_map(0, SIZE, ram)
    return client


@pytest.fixture
def wire(dma: ServedDma) -> Wire:
    wire = Wire(dma.socket)
    wire.hello()
    return wire


def number(ram: int) -> int:
    return int.from_bytes(os.pread(ram, 8, 0), "little")


def counts(ram: int) -> bool:
    """Whether the device's counter goes on; one that stands still is looked at for a hundred of its periods."""
    seen = number(ram)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("protocol.dma_device.PATIENCE", 0.05)
            until(lambda: number(ram) != seen)
    except AssertionError:
        return False
    return True


def start_counting(dma: ServedDma, ram: int) -> None:
    dma.start(dma.dma.count_in_guest(0))
    until(lambda: number(ram))


@pytest.mark.parametrize("state", [STOP, RUNNING_P2P])
def test_a_device_that_must_not_write_does_not(client: Client, dma: ServedDma, ram: int, state: MigrationState) -> None:
    start_counting(dma, ram)
    client.set_migration_state(state)
    assert not counts(ram)
    client.set_migration_state(RUNNING)
    until(lambda: counts(ram))


def test_a_device_that_is_copied_while_it_runs_writes_on(client: Client, dma: ServedDma, ram: int) -> None:
    start_counting(dma, ram)
    client.set_migration_state(PRE_COPY)
    until(lambda: counts(ram))


def test_without_the_pause_it_would_write(
    client: Client, dma: ServedDma, ram: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the one line that pauses its jobs."""
    monkeypatch.setattr(Jobs, "pause", lambda _jobs: None)
    start_counting(dma, ram)
    client.set_migration_state(STOP)
    until(lambda: counts(ram))


def test_a_reset_ends_what_the_device_does(client: Client, dma: ServedDma, ram: int) -> None:
    start_counting(dma, ram)
    client.reset()
    assert not counts(ram)


def test_a_reset_starts_a_stopped_device_without_its_jobs(client: Client, dma: ServedDma, ram: int) -> None:
    start_counting(dma, ram)
    client.set_migration_state(STOP)
    client.reset()
    assert client.migration_state() is RUNNING
    assert not counts(ram)
    start_counting(dma, ram)


def test_what_is_unmapped_is_not_reached_any_more(client: Client, dma: ServedDma, ram: int) -> None:
    assert dma.write(0, b"before") == 6
    client.dma_unmap(0, SIZE)
    assert isinstance(dma.write(0, b"behind"), DmaFault)
    assert os.pread(ram, 6, 0) == b"before"


def test_the_end_of_a_connection_is_the_end_of_dma(client: Client, dma: ServedDma, ram: int) -> None:
    start_counting(dma, ram)
    client.close()
    dma.ended()
    assert not counts(ram)


def test_an_answer_that_comes_after_the_unmap_is_taken(wire: Wire, dma: ServedDma) -> None:
    """A message under way holds no memory: its client answers it as it likes, the next access is refused."""
    assert not wire.ask(Command.DMA_MAP, dma_map()).errno
    dma.start(dma.dma.read_guest(0, 4))
    asked = wire.receive()
    assert wire.ask(Command.DMA_UNMAP, unmap()).payload == unmap()
    wire.send(reply_message(asked.header.id, Command.DMA_READ, asked.payload + b"abcd"))
    assert dma.outcome() == b"abcd"
    dma.start(dma.dma.read_guest(0, 4))
    assert isinstance(dma.outcome(), DmaFault)


def test_an_answer_that_comes_after_the_reset_is_nobodys(wire: Wire, dma: ServedDma) -> None:
    assert not wire.ask(Command.DMA_MAP, dma_map()).errno
    dma.start(dma.dma.read_guest(0, 4))
    asked = wire.receive()
    assert not wire.ask(Command.DEVICE_RESET).errno
    wire.send(reply_message(asked.header.id, Command.DMA_READ, asked.payload + b"abcd"))
    assert wire.works()
    assert not dma.dma.outcomes


def test_an_answer_that_comes_while_it_is_stopped_waits(wire: Wire, dma: ServedDma) -> None:
    assert not wire.ask(Command.DMA_MAP, dma_map()).errno
    dma.start(dma.dma.read_guest(0, 4))
    asked = wire.receive()
    enter(wire, STOP)
    wire.send(reply_message(asked.header.id, Command.DMA_READ, asked.payload + b"abcd"))
    assert wire.works()
    assert not dma.dma.outcomes
    enter(wire, RUNNING)
    assert dma.outcome() == b"abcd"


def test_a_long_write_sends_nothing_more_while_it_is_stopped(wire: Wire, dma: ServedDma) -> None:
    asked = long_write(wire, dma)
    enter(wire, STOP)
    answer(wire, asked)
    assert wire.works()  # and not another DMA_WRITE before it
    enter(wire, RUNNING)
    answer(wire, wire.receive())
    assert dma.outcome() == 2 * MiB


def test_a_long_write_that_was_reset_sends_nothing_more(wire: Wire, dma: ServedDma) -> None:
    asked = long_write(wire, dma)
    assert not wire.ask(Command.DEVICE_RESET).errno
    answer(wire, asked)
    assert wire.works()
    assert not dma.dma.outcomes


def test_a_long_write_does_not_go_on_in_what_is_mapped_later(wire: Wire, dma: ServedDma) -> None:
    asked = long_write(wire, dma)
    assert not wire.ask(Command.DMA_UNMAP, unmap(size=2 * MiB)).errno
    assert not wire.ask(Command.DMA_MAP, dma_map(size=2 * MiB)).errno
    answer(wire, asked)
    assert wire.works()
    assert isinstance(dma.outcome(), DmaFault)


def long_write(wire: Wire, dma: ServedDma) -> Answer:
    """Begin one of two messages, of which the first has come."""
    assert not wire.ask(Command.DMA_MAP, dma_map(size=2 * MiB)).errno
    dma.start(dma.dma.write_guest(0, bytes(2 * MiB)))
    return wire.receive()


def answer(wire: Wire, asked: Answer) -> None:
    assert asked.header.command == Command.DMA_WRITE
    wire.send(reply_message(asked.header.id, Command.DMA_WRITE, asked.payload[:16]))


def enter(wire: Wire, state: MigrationState) -> None:
    payload = b"\x10\0\0\0\2\0\2\0" + bytes([state]) + b"\0\0\0\xff\xff\xff\xff"
    assert not wire.ask(Command.DEVICE_FEATURE, payload).errno
