"""DEVICE_GET_IRQ_INFO: how many vectors of each kind there are, and how they behave."""

import struct
from errno import EINVAL

import pytest

from mdev_user.vfio.requests import Irq, IrqFlags
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import Command
from protocol.served import Wire

EDGE = IrqFlags.EVENTFD | IrqFlags.NORESIZE


def info(index: int = 0, argsz: int = 16, tail: bytes = b"") -> bytes:
    return struct.pack("=IIII", argsz, 0, index, 0) + tail


def test_intx_is_a_level_that_masks_itself(client: Client) -> None:
    assert client.irq_info(Irq.INTX).flags == IrqFlags.EVENTFD | IrqFlags.MASKABLE | IrqFlags.AUTOMASKED
    assert client.irq_info(Irq.INTX).count == 1


@pytest.mark.parametrize(("index", "count"), [(Irq.MSI, 4), (Irq.MSIX, 8), (Irq.ERR, 1), (Irq.REQ, 1)])
def test_the_others_are_edges(client: Client, index: Irq, count: int) -> None:
    assert (client.irq_info(index).flags, client.irq_info(index).count) == (EDGE, count)


@pytest.mark.parametrize("index", [5, 6, (1 << 32) - 1])
def test_an_index_that_no_device_has_is_einval(wire: Wire, index: int) -> None:
    assert wire.ask(Command.DEVICE_GET_IRQ_INFO, info(index)).errno == EINVAL
    assert wire.works()


@pytest.mark.parametrize("payload", [b"", bytes(15), info(argsz=15), info(tail=b"x")])
def test_a_bad_size_is_einval(wire: Wire, payload: bytes) -> None:
    assert wire.ask(Command.DEVICE_GET_IRQ_INFO, payload).errno == EINVAL
    assert wire.works()
