"""Guest memory: bounds, errors of the file, and who closes what. What a client can send is in tests/protocol."""

import fcntl
import os
import threading
from collections.abc import Iterator

import pytest

from mdev_user.errors import DmaFault, GuestError
from mdev_user.units import KiB
from mdev_user.vfio.dma import Backing, DmaFlags
from mdev_user.vfio_user.guest_memory import GuestMemory

SIZE = 16 * KiB
BOTH = DmaFlags.READ | DmaFlags.WRITE


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory()


@pytest.fixture(params=["mapped", "by file"])
def backing(request: pytest.FixtureRequest, memory: GuestMemory) -> Iterator[Backing]:
    """The middle 8 KiB of a file, in both ways."""
    fd = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    if request.param == "mapped":
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    backing = memory.backing(fd, 4 * KiB, 8 * KiB, BOTH)
    yield backing
    backing.close()
    backing.close()
    assert not memory.mapped_files


def test_bytes_are_copied_in_and_out(backing: Backing) -> None:
    data = bytearray(b"written")
    backing.write(0x100, bytes(data))
    read = backing.read(0x100, 7)
    backing.write(0x100, b"changed")
    assert read == b"written"
    assert isinstance(read, bytes)
    assert backing.read(0, 8 * KiB).count(b"changed") == 1


@pytest.mark.parametrize(("offset", "length"), [(8 * KiB - 1, 2), (8 * KiB, 1), (-1, 1), (-4096, 8), (1 << 62, 4)])
def test_an_access_outside_of_the_mapping_is_a_fault(backing: Backing, offset: int, length: int) -> None:
    with pytest.raises(DmaFault):
        backing.read(offset, length)
    with pytest.raises(DmaFault):
        backing.write(offset, bytes(length))


def test_errors_of_the_file_are_faults(memory: GuestMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, SIZE)
    backing = memory.backing(fd, 0, SIZE, BOTH)

    def fails(*_arguments: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fails)
    monkeypatch.setattr(os, "pwrite", fails)
    with pytest.raises(DmaFault, match="Input/output error"):
        backing.read(0, 4)
    with pytest.raises(DmaFault, match="Input/output error"):
        backing.write(0, b"abcd")
    backing.close()


def test_short_reads_and_writes_go_on(memory: GuestMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, SIZE)
    backing = memory.backing(fd, 0, SIZE, BOTH)
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 3), offset))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:3], offset))
    backing.write(1, b"0123456789")
    assert backing.read(0, 12) == b"\0" + b"0123456789" + b"\0"
    backing.close()


def test_a_closed_descriptor_is_an_error_of_the_caller(memory: GuestMemory) -> None:
    fd = os.memfd_create("ram")
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        memory.backing(fd, 0, SIZE, BOTH)


def test_no_bytes_are_no_mapping(memory: GuestMemory) -> None:
    with pytest.raises(GuestError, match="no file has"):
        memory.backing(os.memfd_create("ram"), 0, 0, BOTH)


def test_readable_only_files_are_mapped_readable_only(memory: GuestMemory) -> None:
    fd = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    for_reading = memory.backing(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY), 0, SIZE, DmaFlags.READ)
    for_both = memory.backing(fd, 0, SIZE, BOTH)
    assert memory.mapped_files == 2
    for_both.write(0, b"shared")
    assert for_reading.read(0, 6) == b"shared"
    for_reading.close()
    for_both.close()
    assert not memory.mapped_files


def test_devices_may_share_it_from_several_threads(memory: GuestMemory) -> None:
    fd = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    wrong: list[object] = []

    def churn() -> None:
        for _ in range(300):
            backing = memory.backing(os.dup(fd), 0, SIZE, BOTH)
            if backing.read(0, 4) != bytes(4):
                wrong.append(backing)
            backing.close()

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not memory.mapped_files
    os.close(fd)
