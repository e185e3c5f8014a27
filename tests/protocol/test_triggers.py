"""Interrupts that a client fires itself, by DEVICE_SET_IRQS: every index, all vectors or those that booleans say."""

from errno import EINVAL

import pytest

from mdev_user.vfio.irqs import IrqTable
from mdev_user.vfio.requests import Irq
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import Command
from protocol.irqs import BOOL, EVENTFD, NONE, TRIGGER, count, irqs, set_irqs
from protocol.served import Served, Wire

COUNTS = {Irq.INTX: 1, Irq.MSI: 4, Irq.MSIX: 8, Irq.ERR: 1, Irq.REQ: 1}


@pytest.mark.parametrize(("data", "tail", "fired"), [(NONE, b"", [1, 1]), (BOOL, b"\0\2", [0, 1])])
def test_a_client_can_fire_its_own_vectors(
    wire: Wire, eventfds: list[int], data: int, tail: bytes, fired: list[int]
) -> None:
    wire.ask(Command.DEVICE_SET_IRQS, set_irqs(EVENTFD | TRIGGER, Irq.MSI, vectors=2), eventfds[:2])
    assert not wire.ask(Command.DEVICE_SET_IRQS, set_irqs(data | TRIGGER, Irq.MSI, 0, 2, tail)).errno
    assert [count(fd) for fd in eventfds[:2]] == fired


@pytest.mark.parametrize("index", COUNTS)
def test_every_kind_can_be_armed_fired_and_disabled(client: Client, eventfds: list[int], index: Irq) -> None:
    """QEMU arms ERR, and Linux's own users REQ, in the same way."""
    used = eventfds[: COUNTS[index]]
    client.arm(index, used)
    client.trigger(index, 0, len(used))
    assert [count(fd) for fd in eventfds] == [1] * len(used) + [0] * (8 - len(used))
    client.disarm(index)
    client.trigger(index, 0, len(used))
    assert not any(count(fd) for fd in eventfds)


def test_a_test_that_fires_nothing_would_be_seen(
    client: Client, eventfds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the loopback does nothing."""
    monkeypatch.setattr(IrqTable, "_loopback", lambda _table, _request: None)
    client.arm(Irq.MSI, eventfds[:1])
    client.trigger(Irq.MSI)
    assert not count(eventfds[0])


def test_only_the_vectors_from_start_on_fire(wire: Wire, eventfds: list[int]) -> None:
    wire.ask(Command.DEVICE_SET_IRQS, set_irqs(EVENTFD | TRIGGER, Irq.MSIX, vectors=8), eventfds)
    assert not wire.ask(Command.DEVICE_SET_IRQS, set_irqs(NONE | TRIGGER, Irq.MSIX, start=2, vectors=3)).errno
    assert [count(fd) for fd in eventfds] == [0, 0, 1, 1, 1, 0, 0, 0]
    assert not wire.ask(Command.DEVICE_SET_IRQS, set_irqs(BOOL | TRIGGER, Irq.MSIX, 6, 2, b"\0\1")).errno
    assert [count(fd) for fd in eventfds] == [0, 0, 0, 0, 0, 0, 0, 1]


def test_vectors_that_nobody_armed_are_fired_into_the_void(client: Client, served: Served) -> None:
    client.trigger(Irq.MSIX, 0, 8)
    assert served.device.counters.interrupts == 0


def test_a_trigger_of_the_clients_leaves_the_level_alone(client: Client, served: Served, eventfds: list[int]) -> None:
    """INTx masks itself when it fires, whoever fired it; an unmask does not fire what the device does not drive."""
    client.arm(Irq.INTX, eventfds[:1])
    client.trigger(Irq.INTX)
    client.trigger(Irq.INTX)
    assert count(eventfds[0]) == 1
    client.unmask()
    assert count(eventfds[0]) == 0
    with served.step_lock:
        irqs(served).irqs.set_level(True)
    assert count(eventfds[0]) == 1


@pytest.mark.parametrize(
    "payload",
    [
        set_irqs(NONE | TRIGGER, Irq.ERR, vectors=2),
        set_irqs(NONE | TRIGGER, Irq.REQ, start=1),
        set_irqs(BOOL | TRIGGER, Irq.REQ, vectors=2, tail=b"\1\1"),
        set_irqs(BOOL | TRIGGER, Irq.MSI, vectors=0),
        set_irqs(NONE | TRIGGER, Irq.MSI, start=4, vectors=1),
    ],
)
def test_vectors_that_are_not_there_are_einval(wire: Wire, payload: bytes) -> None:
    assert wire.ask(Command.DEVICE_SET_IRQS, payload).errno == EINVAL
    assert wire.works()
