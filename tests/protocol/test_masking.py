"""Masking and unmasking by DEVICE_SET_IRQS: with nothing, with booleans, by an eventfd; what cannot be masked."""

import os
from errno import EINVAL, ENOTTY

import pytest
from typing_extensions import override

from mdev_user.vfio.irqs import IrqTable
from mdev_user.vfio.requests import Irq, IrqAction, Reply, Request, SetIrqs
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import Command
from mdev_user.vfio_user.messages import DeviceSetIrqs, IrqData
from protocol.device import TestDevice
from protocol.irqs import BOOL, EVENTFD, MASK, NONE, UNMASK, count, irqs, set_irqs
from protocol.served import Served, Wire


def raise_level(served: Served) -> None:
    with served.step_lock:
        irqs(served).irqs.set_level(True)


def test_a_level_fires_again_after_its_unmask_until_it_falls(
    client: Client, served: Served, eventfds: list[int]
) -> None:
    client.arm(Irq.INTX, eventfds[:1])
    with served.step_lock:
        irqs(served).irqs.set_level(True)
        irqs(served).irqs.set_level(True)
    assert count(eventfds[0]) == 1
    client.unmask()
    assert count(eventfds[0]) == 1
    with served.step_lock:
        irqs(served).irqs.set_level(False)
    client.unmask()
    assert count(eventfds[0]) == 0


def test_without_an_unmask_the_second_interrupt_does_not_come(
    client: Client, served: Served, eventfds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the same steps as above, but the unmask does nothing."""
    monkeypatch.setattr(IrqTable, "unmask", lambda _table: None)
    client.arm(Irq.INTX, eventfds[:1])
    raise_level(served)
    assert count(eventfds[0]) == 1
    client.unmask()
    raise_level(served)
    assert count(eventfds[0]) == 0


def test_a_masked_level_waits_for_its_unmask(client: Client, served: Served, eventfds: list[int]) -> None:
    client.arm(Irq.INTX, eventfds[:1])
    client.mask()
    raise_level(served)
    assert count(eventfds[0]) == 0
    client.unmask()
    assert count(eventfds[0]) == 1


def test_booleans_mask_and_unmask_where_they_are_true(client: Client, served: Served, eventfds: list[int]) -> None:
    def set_by(action: IrqAction, value: bool) -> None:
        client.set_irqs(DeviceSetIrqs(Irq.INTX, 0, 1, action, IrqData.BOOL, (value,)))

    client.arm(Irq.INTX, eventfds[:1])
    set_by(IrqAction.MASK, False)
    raise_level(served)
    assert count(eventfds[0]) == 1
    set_by(IrqAction.UNMASK, False)
    assert count(eventfds[0]) == 0
    set_by(IrqAction.UNMASK, True)
    assert count(eventfds[0]) == 1
    set_by(IrqAction.UNMASK, True)  # it fires again while the level is up
    assert count(eventfds[0]) == 1
    with served.step_lock:
        irqs(served).irqs.set_level(False)
    set_by(IrqAction.UNMASK, True)
    set_by(IrqAction.MASK, True)
    raise_level(served)
    assert count(eventfds[0]) == 0


def test_an_eventfd_that_unmasks_can_be_taken_away(client: Client, served: Served, eventfds: list[int]) -> None:
    client.arm(Irq.INTX, eventfds[:1])
    by_eventfd = DeviceSetIrqs(Irq.INTX, 0, 1, IrqAction.UNMASK, IrqData.EVENTFD)
    client.set_irqs(by_eventfd, eventfds[1:2])
    assert served.watcher.callbacks
    client.set_irqs(by_eventfd)
    assert not served.watcher.callbacks


@pytest.mark.parametrize(
    ("payload", "fds", "errno"),
    [
        (set_irqs(EVENTFD | MASK), 1, ENOTTY),
        (set_irqs(EVENTFD | MASK), 0, ENOTTY),
        *((set_irqs(NONE | action, index), 0, ENOTTY) for index in (1, 2, 3, 4) for action in (MASK, UNMASK)),
        (set_irqs(BOOL | MASK, Irq.MSIX, vectors=2, tail=b"\1\1"), 0, ENOTTY),
        (set_irqs(EVENTFD | UNMASK, Irq.MSI), 1, ENOTTY),
        (set_irqs(NONE | MASK, vectors=0), 0, EINVAL),
        (set_irqs(NONE | UNMASK, vectors=2), 0, EINVAL),
        (set_irqs(NONE | UNMASK, start=1), 0, EINVAL),
    ],
)
def test_what_cannot_be_masked_is_enotty_and_what_is_not_there_einval(
    wire: Wire, eventfds: list[int], payload: bytes, fds: int, errno: int
) -> None:
    """As Linux's vfio-pci: only INTx, and no eventfd can mask it."""
    wire.ask(Command.DEVICE_SET_IRQS, set_irqs(EVENTFD | 0x20), eventfds[:1])
    assert wire.ask(Command.DEVICE_SET_IRQS, payload, eventfds[1 : 1 + fds]).errno == errno
    assert wire.works()


@pytest.mark.parametrize("action", [MASK, UNMASK])
def test_before_an_eventfd_is_set_there_is_nothing_to_mask(wire: Wire, action: int) -> None:
    assert wire.ask(Command.DEVICE_SET_IRQS, set_irqs(NONE | action)).errno == EINVAL


def test_an_eventfd_can_unmask(client: Client, served: Served, eventfds: list[int]) -> None:
    client.arm(Irq.INTX, eventfds[:1])
    client.set_irqs(DeviceSetIrqs(Irq.INTX, 0, 1, IrqAction.UNMASK, IrqData.EVENTFD), eventfds[1:2])
    with served.step_lock:
        irqs(served).irqs.set_level(True)
    assert count(eventfds[0]) == 1
    (signalled,) = served.watcher.callbacks.values()
    os.eventfd_write(eventfds[1], 1)
    with served.step_lock:
        signalled()
    assert count(eventfds[0]) == 1
    assert count(eventfds[1]) == 0, "the signal was not consumed"
    client.disarm(Irq.INTX)


def test_a_signal_that_another_reader_consumed_does_not_block(
    client: Client, served: Served, eventfds: list[int]
) -> None:
    blocking = os.eventfd(0)
    client.arm(Irq.INTX, eventfds[:1])
    client.set_irqs(DeviceSetIrqs(Irq.INTX, 0, 1, IrqAction.UNMASK, IrqData.EVENTFD), [blocking])
    (signalled,) = served.watcher.callbacks.values()
    with served.step_lock:
        signalled()
    os.close(blocking)


def test_a_signal_that_comes_after_its_eventfd_was_closed_is_ignored(
    client: Client, served: Served, eventfds: list[int]
) -> None:
    client.arm(Irq.INTX, eventfds[:1])
    client.set_irqs(DeviceSetIrqs(Irq.INTX, 0, 1, IrqAction.UNMASK, IrqData.EVENTFD), eventfds[1:2])
    (signalled,) = served.watcher.callbacks.values()
    with served.step_lock:
        irqs(served).irqs.disarm_all()
        irqs(served).irqs.set_level(True)
        signalled()
    assert not served.watcher.callbacks


class FailingUnmask(TestDevice):
    """A bug in the step that a watched eventfd starts."""

    @override
    def ioctl(self, request: Request) -> Reply:
        if isinstance(request, SetIrqs) and request.action is IrqAction.UNMASK:
            assert request.eventfds is not None
            assert request.eventfds[0] is not None
            request.eventfds[0].watch(self._fails)
            return None
        return super().ioctl(request)

    def _fails(self) -> None:
        raise ZeroDivisionError("author's mistake")


def test_a_bug_in_a_watched_step_ends_the_session_with_its_reason(eventfds: list[int]) -> None:
    with Served(FailingUnmask()) as served:
        client = Client.over(served.socket)
        client.set_irqs(DeviceSetIrqs(Irq.INTX, 0, 1, IrqAction.UNMASK, IrqData.EVENTFD), eventfds[:1])
        (signalled,) = served.watcher.callbacks.values()
        with served.step_lock:
            signalled()
        assert served.ended() == "the driver failed: ZeroDivisionError: author's mistake (in unmask)"
