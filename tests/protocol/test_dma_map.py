"""DMA_MAP: which memory is taken how, and what is refused without keeping its file descriptor."""

import faulthandler
import fcntl
import os
import socket
from collections.abc import Callable
from errno import EEXIST, EINVAL, ENOSPC
from pathlib import Path

import pytest

from mdev_user.errors import DmaFault
from mdev_user.units import GiB, KiB, MiB
from mdev_user.vfio.dma import DmaFlags
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import Command
from mdev_user.vfio_user.guest_memory import GuestMemory
from protocol.ram import SIZE, dma_map, memfd
from protocol.served import Served, Wire, open_fds


def device_read(served: Served, iova: int, length: int) -> bytes:
    with served.step_lock:
        segments = served.device.dma.segments(iova, length, DmaFlags.READ)
        return b"".join(s.mapping.backing.read(s.offset, s.length) for s in segments if s.mapping.backing)


def device_write(served: Served, iova: int, data: bytes) -> None:
    with served.step_lock:
        (segment,) = served.device.dma.segments(iova, len(data), DmaFlags.WRITE)
        assert segment.mapping.backing
        segment.mapping.backing.write(segment.offset, data)


@pytest.mark.parametrize("seals", [fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW], ids=["mapped", "by file"])
def test_the_device_reaches_the_clients_memory(client: Client, served: Served, seals: int) -> None:
    fd = memfd(seals=seals)
    os.pwrite(fd, b"from the guest", 0x1010)
    client.dma_map(0x10_0000, SIZE - 4 * KiB, fd, offset=4 * KiB)
    assert device_read(served, 0x10_0010, 14) == b"from the guest"
    device_write(served, 0x10_0100, b"from the device")
    assert os.pread(fd, 15, 0x1100) == b"from the device"
    assert served.memory.mapped_files == (1 if seals == fcntl.F_SEAL_SHRINK else 0)
    os.close(fd)


def test_a_mapped_files_descriptor_is_not_kept(client: Client, served: Served, ram: int) -> None:
    client.dma_map(0, 4 * KiB, ram)
    before = open_fds()
    for page in range(1, 16):
        client.dma_map(page * 4 * KiB, 4 * KiB, ram, offset=page * 4 * KiB)
    assert open_fds() == before


def test_256_maps_of_one_file_are_one_mmap(client: Client, served: Served) -> None:
    fd = memfd(MiB)
    before = open_fds()
    for page in range(256):
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)  # as QEMU: an fd of its own with every message
        client.dma_map(page * 4 * KiB, 4 * KiB, again, offset=page * 4 * KiB)
        os.close(again)
    assert served.memory.mapped_files == 1
    assert open_fds() == before + 1  # mmap keeps one
    assert len(served.device.dma) == 256
    for page in range(256):
        client.dma_unmap(page * 4 * KiB, 4 * KiB)
    assert served.memory.mapped_files == 0
    assert open_fds() == before
    os.close(fd)


def test_memory_without_a_file_is_taken_and_remembered(client: Client, served: Served) -> None:
    client.dma_map(0xFFFC_0000, 256 * KiB, flags=DmaFlags.READ)
    client.dma_map(0, GiB)
    (small, _flash) = served.device.dma
    assert small.backing is None
    assert served.session.largest_unshared == GiB


def test_shared_memory_is_not_remembered_as_unshared(client: Client, served: Served, ram: int) -> None:
    client.dma_map(0, SIZE, ram)
    assert served.session.largest_unshared == 0


def test_a_file_that_grew_is_mapped_again(client: Client, served: Served) -> None:
    fd = memfd()
    client.dma_map(0, SIZE, fd)
    os.ftruncate(fd, 2 * SIZE)
    client.dma_map(SIZE, SIZE, fd, offset=SIZE)
    os.pwrite(fd, b"old", 0)
    os.pwrite(fd, b"new", SIZE)
    assert device_read(served, 0, 3) == b"old"
    assert device_read(served, SIZE, 3) == b"new"
    client.dma_unmap(0, SIZE)
    assert served.memory.mapped_files == 1
    client.dma_unmap(SIZE, SIZE)
    assert served.memory.mapped_files == 0
    os.close(fd)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        dma_map()[:-1],
        dma_map(argsz=31),
        dma_map(argsz=0),
        dma_map() + b"x",
        dma_map(flags=0),
        dma_map(flags=4),
        dma_map(flags=0x80000003),
        dma_map(size=0),
        dma_map(size=1),
        dma_map(iova=1),
        dma_map(size=(8 << 40) + 4096),
        dma_map(size=(1 << 64) - 4096),
        dma_map(iova=(1 << 64) - 4096, size=8192),
        dma_map(offset=(1 << 64) - 4096),
        dma_map(offset=(1 << 63) - 4096),
    ],
)
@pytest.mark.parametrize("with_fd", [False, True])
def test_a_bad_map_is_einval_and_keeps_nothing(wire: Wire, served: Served, payload: bytes, with_fd: bool) -> None:
    before = open_fds()
    fd = memfd()
    errno = wire.ask(Command.DMA_MAP, payload, [fd] if with_fd else []).errno
    os.close(fd)
    offset_only = payload in {dma_map(offset=(1 << 64) - 4096), dma_map(offset=(1 << 63) - 4096)}
    assert errno == (EINVAL if with_fd or not offset_only else 0)
    assert open_fds() == before
    assert served.memory.mapped_files == 0
    assert wire.works()


def test_argsz_may_announce_more_than_is_sent(wire: Wire) -> None:
    assert not wire.ask(Command.DMA_MAP, dma_map(argsz=64)).errno
    assert not wire.ask(Command.DMA_MAP, dma_map(iova=GiB, argsz=40) + bytes(8)).errno


def test_an_overlap_is_eexist_and_keeps_nothing(wire: Wire, served: Served, ram: int) -> None:
    assert not wire.ask(Command.DMA_MAP, dma_map(), [ram]).errno
    other = memfd()
    before = open_fds()
    assert wire.ask(Command.DMA_MAP, dma_map(iova=SIZE - 4096), [other]).errno == EEXIST
    assert open_fds() == before
    assert served.memory.mapped_files == 1
    os.close(other)


def test_the_agreed_number_of_mappings_is_enospc(wire: Wire, served: Served, ram: int) -> None:
    served.device.dma.limit = 2
    assert not wire.ask(Command.DMA_MAP, dma_map(0, 4096), [ram]).errno
    assert not wire.ask(Command.DMA_MAP, dma_map(4096, 4096)).errno
    assert wire.ask(Command.DMA_MAP, dma_map(8192, 4096), [ram]).errno == ENOSPC
    assert wire.works()


def test_two_fds_are_einval(wire: Wire, ram: int) -> None:
    assert wire.ask(Command.DMA_MAP, dma_map(), [ram, ram]).errno == EINVAL
    assert wire.works()


def read_only(path: Path) -> int:
    return os.open(path, os.O_RDONLY)


FOREIGN: dict[str, Callable[[Path], int]] = {
    "pipe": lambda _path: os.pipe()[0],
    "directory": lambda path: os.open(path.parent, os.O_RDONLY),
    "device": lambda _path: os.open("/dev/zero", os.O_RDWR),
    "socket": lambda _path: socket.socket(socket.AF_UNIX).detach(),
    "eventfd": lambda _path: os.eventfd(0),
    "write-only": lambda path: os.open(path, os.O_WRONLY),
    "read-only": read_only,
    "append": lambda path: os.open(path, os.O_RDWR | os.O_APPEND),
    "path only": lambda path: os.open(path, os.O_PATH),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_is_no_memory_for_reading_and_writing_is_einval(wire: Wire, tmp_path: Path, kind: str) -> None:
    (path := tmp_path / "ram").write_bytes(bytes(SIZE))
    before = open_fds()
    fd = FOREIGN[kind](path)
    assert wire.ask(Command.DMA_MAP, dma_map(), [fd]).errno == EINVAL
    os.close(fd)
    if kind == "pipe":
        os.close(fd + 1)
    assert open_fds() == before
    assert wire.works()


def test_read_only_memory_is_taken_for_reading(wire: Wire, served: Served, tmp_path: Path) -> None:
    (path := tmp_path / "rom").write_bytes(b"rom" * SIZE)
    fd = read_only(path)
    assert not wire.ask(Command.DMA_MAP, dma_map(flags=1), [fd]).errno
    os.close(fd)
    assert device_read(served, 0, 6) == b"romrom"
    with pytest.raises(DmaFault):
        device_write(served, 0, b"x")


def test_memory_sealed_against_writing_is_taken_for_reading_only(wire: Wire, served: Served) -> None:
    fd = memfd(seals=fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE)
    assert wire.ask(Command.DMA_MAP, dma_map(), [fd]).errno == EINVAL
    assert not wire.ask(Command.DMA_MAP, dma_map(flags=1), [fd]).errno
    assert device_read(served, 0, 4) == bytes(4)
    os.close(fd)


# --- memory that goes away ------------------------------------------------------------------------------------


def test_sealed_memory_cannot_be_truncated_under_us(client: Client, served: Served, ram: int) -> None:
    client.dma_map(0, SIZE, ram)
    with pytest.raises(PermissionError):
        os.ftruncate(ram, 0)
    assert device_read(served, SIZE - 4, 4) == bytes(4)


def test_a_truncated_file_is_a_fault_and_no_signal(client: Client, served: Served) -> None:
    fd = memfd(seals=0)
    client.dma_map(0, SIZE, fd)
    os.ftruncate(fd, 4096)
    assert device_read(served, 0, 4096) == bytes(4096)
    with pytest.raises(DmaFault, match="ends before"):
        device_read(served, 4000, 200)
    with pytest.raises(DmaFault, match="ends before"):
        device_write(served, 8192, b"x")
    assert os.fstat(fd).st_size == 4096, "our write made the guest's file longer"
    os.close(fd)


def test_a_range_behind_the_files_end_is_a_fault_until_it_is_there(client: Client, served: Served) -> None:
    fd = memfd()
    client.dma_map(0, SIZE, fd, offset=SIZE)
    with pytest.raises(DmaFault):
        device_read(served, 0, 4)
    os.ftruncate(fd, 2 * SIZE)
    assert device_read(served, 0, 4) == bytes(4)
    os.close(fd)


def test_mapping_an_unsealed_file_would_kill_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: in a process of its own, without the look at the seals, the same access ends in SIGBUS."""
    pid = os.fork()
    if not pid:
        monkeypatch.setattr("mdev_user.vfio_user.file_status.seals", lambda _fd: fcntl.F_SEAL_SHRINK)
        faulthandler.disable()
        fd = memfd(seals=0)
        backing = GuestMemory().backing(os.dup(fd), 0, SIZE, DmaFlags.READ)
        os.ftruncate(fd, 0)
        backing.read(0, 4)
        os._exit(0)
    _pid, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == 7
