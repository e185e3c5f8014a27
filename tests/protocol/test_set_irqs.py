"""DEVICE_SET_IRQS: arming, firing, unmasking, taking away, and that no eventfd is kept that should not be."""

import os
import select
from errno import EINVAL

import pytest
from typing_extensions import override

from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.requests import Irq, IrqAction, Reply, Request, SetIrqs
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import Command
from mdev_user.vfio_user.messages import DeviceSetIrqs, IrqData
from protocol.device import TestDevice
from protocol.irqs import BOOL, EVENTFD, MASK, NONE, TRIGGER, UNMASK, count, irqs, set_irqs
from protocol.served import Served, Wire, open_fds

FULL = (1 << 64) - 2
"""An eventfd's counter cannot hold more."""


def test_every_armed_vector_fires_its_own_eventfd(client: Client, served: Served, eventfds: list[int]) -> None:
    client.arm(Irq.MSIX, eventfds)
    with served.step_lock:
        irqs(served).irqs.trigger(Irq.MSIX, 3)
        irqs(served).irqs.trigger(Irq.MSIX, 3)
        irqs(served).irqs.trigger(Irq.MSIX, 7)
    assert [count(fd) for fd in eventfds] == [0, 0, 0, 2, 0, 0, 0, 1]
    assert served.device.counters.interrupts == 3


def test_a_full_eventfd_does_not_block_the_device(client: Client, served: Served) -> None:
    blocking = os.eventfd(0)
    client.arm(Irq.MSI, [blocking])
    os.eventfd_write(blocking, FULL)
    with served.step_lock:
        irqs(served).irqs.trigger(Irq.MSI, 0)
    assert client.region_read(7, 0, 1) == b"\0"
    assert os.eventfd_read(blocking) >= FULL
    os.close(blocking)


def test_the_clients_eventfd_keeps_its_flags(client: Client) -> None:
    blocking = os.eventfd(0)
    client.arm(Irq.MSI, [blocking])
    assert os.get_blocking(blocking)
    os.close(blocking)


def test_arming_again_closes_the_eventfds_before(client: Client, eventfds: list[int]) -> None:
    client.arm(Irq.MSIX, eventfds)
    before = open_fds()
    for _ in range(50):
        client.arm(Irq.MSIX, eventfds)
    assert open_fds() == before


def test_disabling_an_index_closes_its_eventfds_and_no_others(
    client: Client, served: Served, eventfds: list[int]
) -> None:
    before = open_fds()
    client.arm(Irq.MSI, eventfds[:4])
    client.arm(Irq.MSIX, eventfds[4:])
    client.disarm(Irq.MSI)
    assert open_fds() == before + 4
    with served.step_lock:
        assert not irqs(served).irqs.trigger(Irq.MSI, 0)
        assert irqs(served).irqs.trigger(Irq.MSIX, 0)
    assert count(eventfds[4]) == 1


def test_eventfd_data_without_eventfds_takes_vectors_away(wire: Wire, served: Served, eventfds: list[int]) -> None:
    """QEMU arms MSI-X so before the guest has unmasked a vector."""
    assert not wire.ask(Command.DEVICE_SET_IRQS, set_irqs(EVENTFD | TRIGGER, Irq.MSIX, vectors=1)).errno
    before = open_fds()
    wire.ask(Command.DEVICE_SET_IRQS, set_irqs(EVENTFD | TRIGGER, Irq.MSIX, vectors=4), eventfds[:4])
    assert not wire.ask(Command.DEVICE_SET_IRQS, set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 1, 2)).errno
    assert open_fds() == before + 2
    with served.step_lock:
        fired = [irqs(served).irqs.trigger(Irq.MSIX, vector) for vector in range(4)]
    assert fired == [True, False, False, True]


BAD = [
    (b"", 0, EINVAL),
    (set_irqs(NONE | TRIGGER)[:-1], 0, EINVAL),
    (set_irqs(NONE | TRIGGER, argsz=19), 0, EINVAL),
    (set_irqs(NONE | TRIGGER, tail=b"x"), 0, EINVAL),
    (set_irqs(BOOL | TRIGGER), 0, EINVAL),
    (set_irqs(BOOL | TRIGGER, tail=b"xy"), 0, EINVAL),
    (set_irqs(EVENTFD | TRIGGER, tail=b"abcd"), 1, EINVAL),
    (set_irqs(0), 0, EINVAL),
    (set_irqs(TRIGGER), 0, EINVAL),
    (set_irqs(NONE), 0, EINVAL),
    (set_irqs(NONE | BOOL | TRIGGER, tail=b"x"), 0, EINVAL),
    (set_irqs(NONE | MASK | UNMASK), 0, EINVAL),
    (set_irqs(NONE | TRIGGER | 0x40), 0, EINVAL),
    (set_irqs(NONE | TRIGGER | 0x80000000), 0, EINVAL),
    (set_irqs(NONE | TRIGGER, index=5), 0, EINVAL),
    (set_irqs(NONE | TRIGGER, index=(1 << 32) - 1), 0, EINVAL),
    (set_irqs(NONE | TRIGGER, Irq.MSI, start=4), 0, EINVAL),
    (set_irqs(NONE | TRIGGER, Irq.MSI, start=(1 << 32) - 1), 0, EINVAL),
    (set_irqs(NONE | TRIGGER, Irq.MSI, vectors=(1 << 32) - 1), 0, EINVAL),
    (set_irqs(EVENTFD | TRIGGER, Irq.MSI, vectors=(1 << 32) - 1), 0, EINVAL),
    (set_irqs(EVENTFD | TRIGGER, Irq.MSIX, vectors=9), 0, EINVAL),
    (set_irqs(EVENTFD | TRIGGER, Irq.ERR, vectors=2), 2, EINVAL),
    (set_irqs(EVENTFD | TRIGGER, Irq.REQ, start=1), 1, EINVAL),
    (set_irqs(EVENTFD | TRIGGER, 9), 1, EINVAL),
    (set_irqs(EVENTFD | TRIGGER, Irq.MSI, vectors=2), 1, EINVAL),
    (set_irqs(EVENTFD | TRIGGER, Irq.MSI, vectors=1), 2, EINVAL),
    (set_irqs(EVENTFD | TRIGGER, Irq.MSI, vectors=5), 5, EINVAL),
    (set_irqs(EVENTFD | TRIGGER, Irq.MSI, vectors=0), 1, EINVAL),
    (set_irqs(EVENTFD | TRIGGER, Irq.MSI, vectors=0), 0, EINVAL),
    (set_irqs(NONE | TRIGGER, Irq.MSI), 1, EINVAL),
    (set_irqs(BOOL | TRIGGER, Irq.MSI, tail=b"x"), 1, EINVAL),
]


@pytest.mark.parametrize(("payload", "fds", "errno"), BAD)
def test_a_bad_set_irqs_gets_its_errno_and_keeps_nothing(
    wire: Wire, eventfds: list[int], payload: bytes, fds: int, errno: int
) -> None:
    before = open_fds()
    assert wire.ask(Command.DEVICE_SET_IRQS, payload, eventfds[:fds]).errno == errno
    assert open_fds() == before
    assert wire.works()


def test_what_is_no_eventfd_is_einval_and_all_are_closed(wire: Wire, eventfds: list[int]) -> None:
    reading, writing = os.pipe()
    before = open_fds()
    fds = [eventfds[0], reading]
    assert wire.ask(Command.DEVICE_SET_IRQS, set_irqs(EVENTFD | TRIGGER, Irq.MSI, vectors=2), fds).errno == EINVAL
    assert open_fds() == before
    os.close(reading)
    os.close(writing)
    assert wire.works()


def test_eventfds_are_closed_when_the_client_goes(client: Client, served: Served, eventfds: list[int]) -> None:
    before = open_fds()
    client.arm(Irq.MSIX, eventfds)
    client.arm(Irq.INTX, eventfds[:1])
    client.set_irqs(DeviceSetIrqs(Irq.INTX, 0, 1, IrqAction.UNMASK, IrqData.EVENTFD), eventfds[1:2])
    client.close()
    served.ended()
    assert open_fds() == before - 2  # both ends of the socket
    assert not served.watcher.callbacks


def test_the_clients_process_is_told_of_closed_eventfds(client: Client, eventfds: list[int]) -> None:
    """Nothing of ours keeps an eventfd alive: a poll of the client's still works after we closed ours."""
    client.arm(Irq.MSI, eventfds[:1])
    client.disarm(Irq.MSI)
    assert not select.select(eventfds[:1], [], [], 0)[0]


class NoIoctl(TestDevice):
    """A driver that has no ioctl at all: it cannot close what it refuses."""

    @override
    def ioctl(self, request: Request) -> Reply:
        return DeviceOps.ioctl(self, request)


class Forgetful(TestDevice):
    """A driver that keeps eventfds and never closes them."""

    @override
    def ioctl(self, request: Request) -> Reply:
        self.kept = request
        return None

    @override
    def close_device(self) -> None:
        assert isinstance(self.kept, SetIrqs)
        assert self.kept.eventfds is not None
        assert self.kept.eventfds[0] is not None
        self.kept.eventfds[0].signal()  # closed by now, and harmless
        super().close_device()


def test_eventfds_that_a_driver_cannot_refuse_properly_are_closed(eventfds: list[int]) -> None:
    with Served(NoIoctl()) as served:
        wire = Wire(served.socket)
        wire.hello()
        before = open_fds()
        assert wire.ask(Command.DEVICE_SET_IRQS, set_irqs(EVENTFD | TRIGGER), eventfds[:1]).errno == EINVAL
        assert wire.ask(Command.DEVICE_SET_IRQS, set_irqs(EVENTFD | TRIGGER)).errno == EINVAL
        assert wire.ask(Command.DEVICE_SET_IRQS, set_irqs(NONE | TRIGGER)).errno == EINVAL
        assert open_fds() == before


def test_eventfds_that_a_driver_forgets_are_closed_at_the_end(eventfds: list[int]) -> None:
    with Served(Forgetful()) as served:
        client = Client.over(served.socket)
        client.arm(Irq.MSI, eventfds[:1])
        client.close()
        assert served.ended() == "the client went away"
    assert count(eventfds[0]) == 0
