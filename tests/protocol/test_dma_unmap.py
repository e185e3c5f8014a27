"""DMA_UNMAP: memory is let go before the reply, all of it or none. Dirty bitmaps are in test_dirty_pages."""

import os
import struct
from errno import EINVAL

import pytest

from mdev_user.units import GiB
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.framing import Command
from protocol.ram import SIZE, dma_map, memfd, unmap
from protocol.served import Served, Wire, open_fds

DIRTY_BITMAP, ALL = 1, 2


def unmap_dirty(page_size: int, bitmap_size: int, argsz: int = 1000, size: int = SIZE) -> bytes:
    return unmap(0, size, DIRTY_BITMAP, argsz) + struct.pack("=QQ", page_size, bitmap_size)


def test_an_unmap_is_echoed_when_the_memory_is_let_go(wire: Wire, served: Served, ram: int) -> None:
    before = open_fds()
    wire.ask(Command.DMA_MAP, dma_map(), [ram])
    assert wire.ask(Command.DMA_UNMAP, unmap()).payload == unmap()
    assert not len(served.device.dma)
    assert served.memory.mapped_files == 0
    assert open_fds() == before


def test_an_unmap_of_a_range_takes_all_that_is_in_it(wire: Wire, served: Served, ram: int) -> None:
    """As QEMU does it when a guest with an IOMMU resets: large pieces, in which there may be nothing."""
    wire.ask(Command.DMA_MAP, dma_map(), [ram])
    wire.ask(Command.DMA_MAP, dma_map(iova=GiB), [ram])
    pieces = [unmap(0, 1 << 39), unmap(1 << 39, 1 << 39), unmap(1 << 63, 1 << 63)]
    assert [wire.ask(Command.DMA_UNMAP, each).payload for each in pieces] == pieces
    assert not len(served.device.dma)
    assert served.memory.mapped_files == 0
    assert served.device.counters.guest_errors == 0


def test_an_unmap_that_would_split_is_told_as_the_guests_error(wire: Wire, served: Served, ram: int) -> None:
    wire.ask(Command.DMA_MAP, dma_map(), [ram])
    wire.ask(Command.DMA_UNMAP, unmap(size=4096))
    assert "would split the mapping of" in served.device.counters.last_guest_error


@pytest.mark.parametrize(
    ("payload", "errno"),
    [
        (unmap(iova=4096), EINVAL),
        (unmap(size=4096), EINVAL),
        (unmap(iova=4096, size=4096), EINVAL),
        (unmap(size=0), EINVAL),
        (unmap(size=SIZE + 1), EINVAL),
        (unmap(iova=(1 << 64) - 1, size=(1 << 64) - 1), EINVAL),
        (unmap(iova=(1 << 64) - 4096, size=8192), EINVAL),
        (unmap(iova=4096, size=(1 << 64) - 4096), EINVAL),
        (unmap(flags=DIRTY_BITMAP), EINVAL),
        (unmap(flags=DIRTY_BITMAP, argsz=40), EINVAL),
        (unmap_dirty(4096, 8), EINVAL),  # nothing is logged
        (unmap_dirty(4096, 8, argsz=47), EINVAL),
        (unmap_dirty(4096, 1 << 63), EINVAL),
        (unmap(flags=ALL), EINVAL),
        (unmap(4096, 0, flags=ALL), EINVAL),
        (unmap(0, 0, flags=ALL | DIRTY_BITMAP), EINVAL),
        (unmap(flags=4), EINVAL),
        (unmap(argsz=23), EINVAL),
        (unmap()[:-1], EINVAL),
        (unmap() + b"x", EINVAL),
        (b"", EINVAL),
    ],
)
def test_a_bad_unmap_gets_its_errno_and_unmaps_nothing(
    wire: Wire, served: Served, ram: int, payload: bytes, errno: int
) -> None:
    wire.ask(Command.DMA_MAP, dma_map(), [ram])
    assert wire.ask(Command.DMA_UNMAP, payload).errno == errno
    assert len(served.device.dma) == 1
    assert wire.works()


def test_everything_is_let_go_when_the_client_goes(wire: Wire, served: Served, ram: int) -> None:
    by_file = memfd(seals=0)
    wire.ask(Command.DMA_MAP, dma_map(), [ram])
    wire.ask(Command.DMA_MAP, dma_map(iova=GiB), [by_file])
    os.close(by_file)
    wire.socket.close()
    served.ended()
    assert served.memory.mapped_files == 0


def test_the_clients_error_has_the_errno(client: Client) -> None:
    with pytest.raises(RemoteError, match="DMA_UNMAP") as refused:
        client.dma_unmap(0, 0)
    assert refused.value.errno == EINVAL


def test_all_of_it_can_be_unmapped_at_once(wire: Wire, served: Served, ram: int) -> None:
    wire.ask(Command.DMA_MAP, dma_map(), [ram])
    wire.ask(Command.DMA_MAP, dma_map(iova=(1 << 64) - SIZE), [ram])
    everything = unmap(0, 0, flags=ALL)
    assert wire.ask(Command.DMA_UNMAP, everything).payload == everything
    assert not len(served.device.dma)
    assert served.memory.mapped_files == 0
    assert wire.ask(Command.DMA_UNMAP, everything).payload == everything, "also when there is nothing"


def test_our_client_unmaps_a_range_and_everything(client: Client, served: Served, ram: int) -> None:
    client.dma_map(0, SIZE, ram)
    client.dma_map(GiB, SIZE, ram)
    client.dma_unmap(0, SIZE)
    assert len(served.device.dma) == 1
    client.dma_unmap_all()
    assert not len(served.device.dma)
