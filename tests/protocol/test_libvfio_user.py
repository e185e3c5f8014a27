"""Our client at libvfio-user's sample servers, where they are at hand: MDEV_USER_LIBVFIO_USER names their folder.

What their server does differently is a row of docs/reference/vfio-user.md.
"""

import mmap
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from errno import EINVAL, ENOTTY
from pathlib import Path

import pytest

from mdev_user.errors import UnknownRequest
from mdev_user.vfio.migration_states import PRE_COPY, RESUMING, RUNNING, STOP, STOP_COPY, MigrationFlags
from mdev_user.vfio.requests import Area, DeviceFlags, Irq, IrqAction, Region, RegionFlags
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.messages import DeviceSetIrqs, Feature, FeatureOps, IrqData, RegionWrite
from protocol.dma_device import until
from protocol.irqs import count
from protocol.served import PATIENCE, open_fds

FOLDER = os.environ.get("MDEV_USER_LIBVFIO_USER", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="MDEV_USER_LIBVFIO_USER names no folder of libvfio-user's samples")

PAGE = 4096
END = 1 << 20
"""No region of the sample is as long."""
LATER = 1000
"""Seconds: BAR0 of the sample takes a time in the future."""

LISTENING = "00010000"
"""The flags of a socket that listens, in /proc/net/unix."""

Start = Callable[..., Client]


class Memory:
    """Guest memory that the server asks for by messages."""

    def __init__(self) -> None:
        self.bytes = bytearray(PAGE)

    def read(self, address: int, count: int) -> bytes:
        return bytes(self.bytes[address : address + count])

    def write(self, address: int, data: bytes) -> None:
        self.bytes[address : address + len(data)] = data


@pytest.fixture(autouse=True)
def loop() -> None:
    """There is no server of ours here, so once is enough."""


@pytest.fixture
def start(no_fd_is_left: None) -> Iterator[Start]:
    """Starts a sample server and connects to it; it ends with its client."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    programs: list[subprocess.Popen[bytes]] = []
    clients: list[Client] = []

    def start(name: str = "server", memory: Memory | None = None) -> Client:
        path = folder / str(len(programs))
        command = [Path(FOLDER) / name, path]
        programs.append(program := subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
        until(lambda: listens(path) or program.poll() is not None)
        try:
            clients.append(Client(path, memory, timeout=PATIENCE))
        except (ConnectionError, FileNotFoundError):  # its own sample is refused its BAR of 12 KiB, in June 2026
            pytest.skip(f"{name} does not start: {program.communicate(timeout=PATIENCE)[1].decode().strip()}")
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    for program in programs:
        program.kill()
        program.communicate(timeout=PATIENCE)
    shutil.rmtree(folder)


def listens(path: Path) -> bool:
    """By the kernel's table: the server takes one connection, which is not to be spent on a question."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return any(line.endswith(f" {path}") and line.split()[3] == LISTENING for line in lines)


@pytest.fixture
def client(start: Start) -> Client:
    return start()


def errno_of(call: Callable[[], object]) -> int:
    with pytest.raises(RemoteError) as refused:
        call()
    return refused.value.errno or 0


def test_version_is_agreed_on_without_write_multi(client: Client) -> None:
    assert client.connection.peer is not None
    assert not client.connection.peer.write_multiple
    with pytest.raises(UnknownRequest):
        client.write_multi([RegionWrite(0, Region.BAR1, b"x")])


def test_device_info(client: Client) -> None:
    info = client.device_info()
    assert (info.flags, info.num_regions, info.num_irqs) == (DeviceFlags.RESET | DeviceFlags.PCI, 9, 5)


def test_region_info_with_areas_and_what_is_mapped(client: Client) -> None:
    config = client.region_info(Region.CONFIG)
    assert (config.size, config.fd) == (256, -1)
    region = client.region_info(Region.BAR1)
    assert region.areas == (Area(0, PAGE), Area(2 * PAGE, PAGE))
    assert RegionFlags.MMAP in region.flags
    with mmap.mmap(region.fd, PAGE, offset=region.offset) as mapped:
        client.region_write(Region.BAR1, 0, b"by message")
        assert mapped[:10] == b"by message"
        mapped[:6] = b"mapped"
        assert client.region_read(Region.BAR1, 0, 6) == b"mapped"
    os.close(region.fd)


def test_irq_info(client: Client) -> None:
    assert [client.irq_info(index).count for index in (Irq.INTX, Irq.MSI, Irq.MSIX)] == [1, 0, 0]
    assert errno_of(lambda: client.irq_info(5)) == EINVAL


def test_region_io_fds_are_counted_and_closed(start: Start) -> None:
    client = start()
    assert client.region_io_fds(Region.BAR1) == 0
    before = open_fds()
    assert errno_of(lambda: client.region_io_fds(50)) == EINVAL
    assert open_fds() == before


def test_accesses(client: Client) -> None:
    assert client.region_read(Region.CONFIG, 0, 4) == struct.pack("=HH", 0xDEAD, 0xBEEF)
    client.region_write(Region.BAR1, 0, b"abcd")
    assert client.region_read(Region.BAR1, 0, 4) == b"abcd"
    client.region_write(Region.BAR1, 0, b"efgh", posted=True)
    assert client.region_read(Region.BAR1, 0, 4) == b"efgh"
    assert errno_of(lambda: client.region_read(Region.BAR1, END, 4)) == EINVAL
    assert errno_of(lambda: client.region_read(50, 0, 4)) == EINVAL
    client.region_write(Region.BAR1, END, b"lost", posted=True)
    assert client.region_read(Region.BAR1, 0, 4) == b"efgh"


def test_an_interrupt_is_armed_fired_and_disabled(client: Client, eventfds: list[int]) -> None:
    client.arm(Irq.INTX, eventfds[:1])
    client.trigger(Irq.INTX)
    assert count(eventfds[0]) == 1
    client.set_irqs(DeviceSetIrqs(Irq.INTX, 0, 1, IrqAction.TRIGGER, IrqData.BOOL, (True,)))
    assert count(eventfds[0]) == 1
    client.mask()
    client.unmask()
    client.disarm(Irq.INTX)
    client.trigger(Irq.INTX)
    assert count(eventfds[0]) == 0
    assert errno_of(lambda: client.trigger(Irq.MSI)) == EINVAL


def test_memory_is_mapped_and_unmapped(client: Client, ram: int) -> None:
    client.dma_map(0, 16 * PAGE, ram)
    assert errno_of(lambda: client.dma_map(PAGE, PAGE))
    client.dma_unmap(0, 16 * PAGE)
    client.dma_map(0, PAGE)
    client.dma_map(1 << 32, PAGE, ram)
    client.dma_unmap_all()
    client.dma_map(0, 16 * PAGE, ram)


def test_dma_by_messages_and_what_it_made_dirty(start: Start, eventfds: list[int], ram: int) -> None:
    """A second after BAR0 is written the sample interrupts and writes to both, without a file by messages."""
    memory = Memory()
    client = start(memory=memory)
    client.dma_map(0, PAGE)
    client.dma_map(1 << 20, 4 * PAGE, ram)
    client.arm(Irq.INTX, eventfds[:1])
    assert client.start_dma_logging(PAGE) == PAGE
    assert client.report_dma_logging(1 << 20, 4 * PAGE, PAGE) == bytes(8)
    client.region_write(Region.BAR0, 0, struct.pack("=q", int(time.time()) + 1))
    written = b"".join(bytes([letter]) * 1024 for letter in b"ABCD")
    while bytes(memory.bytes) != written:
        client.serve()
    client.serve()
    client.serve()  # it reads in two pieces what it wrote
    assert count(eventfds[0]) == 1
    assert os.pread(ram, PAGE, 0) == written
    assert client.report_dma_logging(1 << 20, 4 * PAGE, PAGE) == struct.pack("=Q", 1)
    assert client.dma_unmap_dirty(1 << 20, 4 * PAGE, PAGE) == bytes(8)
    client.stop_dma_logging()


def test_features(client: Client) -> None:
    assert client.feature_flags() == MigrationFlags.STOP_COPY | MigrationFlags.PRE_COPY
    client.probe_feature(Feature.MIG_DEVICE_STATE, FeatureOps.GET | FeatureOps.SET)
    assert client.migration_state() is RUNNING
    assert errno_of(client.migration_data_size) in {EINVAL, ENOTTY}


def drain(client: Client, most: int) -> bytes:
    data = b""
    while len(piece := client.read_migration_data(most)) == most:
        data += piece
    return data + piece


@pytest.mark.parametrize("most", [1000, 4096 + 8, 1 << 16])
def test_a_device_goes_on_elsewhere(start: Start, most: int) -> None:
    client, other = start(), start()
    client.region_write(Region.BAR0, 0, struct.pack("=q", int(time.time()) + LATER))
    client.region_write(Region.BAR1, 0, b"abcd")
    client.set_migration_state(PRE_COPY)
    region = client.region_info(Region.BAR1)
    size = region.size
    os.close(region.fd)
    assert len(drain(client, most)) == size
    client.set_migration_state(STOP_COPY)
    data = drain(client, most)
    assert len(data) == size + 8
    assert client.migration_state() is STOP_COPY
    client.set_migration_state(STOP)
    other.set_migration_state(RESUMING)
    other.write_migration_data(data)
    other.set_migration_state(RUNNING)
    assert other.region_read(Region.BAR1, 0, 4) == b"abcd"
    assert abs(struct.unpack("=q", other.region_read(Region.BAR0, 0, 8))[0]) <= LATER


def test_reset(client: Client) -> None:
    client.reset()
    assert client.region_read(Region.CONFIG, 0, 2) == struct.pack("=H", 0xDEAD)


def test_another_sample_is_a_device_too(start: Start) -> None:
    client = start("gpio-pci-idio-16")
    assert client.region_read(Region.CONFIG, 0, 4) == struct.pack("=HH", 0x494F, 0x0DC8)
    assert len(client.region_read(Region.BAR2, 0, 1)) == 1
