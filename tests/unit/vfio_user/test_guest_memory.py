"""Guest memory: bounds, errors of the file, and who closes what. What a client can send is in tests/protocol."""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from mdev_user.errors import DmaFault, GuestError, TooManyFiles
from mdev_user.units import KiB
from mdev_user.vfio.dma import Backing, DmaFlags
from mdev_user.vfio_user import copying, guest_memory
from mdev_user.vfio_user import guest_memory as module
from mdev_user.vfio_user.file_status import file_status
from mdev_user.vfio_user.guest_memory import GuestMemory, MayKeepWaiting
from mdev_user.vfio_user.shares import ASSURED_FILES, MOST_FILES, MOST_MAPPED, HostShare, Share

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


def test_pieces_are_copied_one_behind_the_other(backing: Backing) -> None:
    pieces, base = [(0x9010, 3), (0x9000, 0), (0x9000 + 8 * KiB - 2, 2)], 0x9000
    assert backing.scatter(base, pieces, memoryview(b"abcdefg")) == 5
    assert (backing.read(0x10, 4), backing.read(8 * KiB - 2, 2)) == (b"abc\0", b"de")
    into = bytearray(7)
    assert backing.gather(base, pieces, memoryview(into)) == 5
    assert into == b"abcde\0\0"


@pytest.mark.parametrize("much", [4, copying.MUCH], ids=["as much", "a little"])
def test_much_is_copied_as_a_little_is(backing: Backing, much: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "MUCH", much)
    for data in (memoryview(b"read-only!"), memoryview(bytearray(b"can be set"))):
        assert backing.scatter(0, [(3, 10)], data) == 10
        into = bytearray(10)
        assert backing.gather(0, [(3, 10)], memoryview(into)) == 10
        assert (bytes(into), backing.read(0, 16)) == (bytes(data), bytes(3) + bytes(data) + bytes(3))


@pytest.mark.parametrize("much", [4, copying.MUCH], ids=["as much", "a little"])
def test_one_piece_of_much_is_read_and_written_as_of_a_little(
    backing: Backing, much: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (copying, guest_memory):
        monkeypatch.setattr(each, "MUCH", much)
    backing.write(3, b"ten bytes.")
    assert backing.read(0, 16) == bytes(3) + b"ten bytes." + bytes(3)


@pytest.mark.parametrize("piece", [(8 * KiB - 1, 2), (-1, 1), (-8 * KiB, 4)])
def test_piece_outside_of_the_mapping_is_a_fault(backing: Backing, piece: tuple[int, int]) -> None:
    for access in (backing.gather, backing.scatter):
        with pytest.raises(DmaFault):
            access(0, [(0, 2), piece], memoryview(bytearray(16)))


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


# --- what one user may have us keep --------------------------------------------------------------------------------


def sealed(size: int = SIZE) -> int:
    fd = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd


def unsealed(size: int = SIZE) -> int:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, size)
    return fd


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough


def mappings() -> int:
    return sum("memfd:" in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.parametrize("make", [sealed, unsealed])
def test_churn_of_4_kib_mappings_costs_one_file(memory: GuestMemory, make: Callable[[], int]) -> None:
    """256 mappings, each with a file descriptor of its own, unmapped and mapped again, 100 times: a guest's IOMMU."""
    fd = make()
    before = open_fds(), mappings()
    for _ in range(100):
        backings = [memory.backing(os.dup(fd), 0, 4096, BOTH) for _ in range(256)]
        assert (memory.open_files, open_fds() - before[0]) == (1, 1)
        assert mappings() - before[1] == memory.mapped_files == (make is sealed)
        for backing in backings:
            backing.close()
    assert (open_fds(), mappings()) == before
    assert (memory.share.files, memory.share.mapped) == (0, 0)
    os.close(fd)


def test_the_sight_of_a_leak_would_be_seen(memory: GuestMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above: a file for each mapping."""
    numbers = count()
    monkeypatch.setattr(module, "file_status", lambda fd: file_status(fd)._replace(inode=next(numbers)))
    fd = sealed()
    before = open_fds(), mappings()
    backings = [memory.backing(os.dup(fd), 0, 4096, BOTH) for _ in range(16)]
    assert open_fds() > before[0] + 1
    assert mappings() > before[1] + 1
    for backing in backings:
        backing.close()
    os.close(fd)


@pytest.mark.parametrize("make", [sealed, unsealed])
def test_one_user_can_share_so_many_files_and_no_more(memory: GuestMemory, make: Callable[[], int]) -> None:
    before = open_fds()
    backings = [memory.backing(make(), 0, SIZE, BOTH) for _ in range(MOST_FILES)]
    with pytest.raises(TooManyFiles):
        memory.backing(make(), 0, SIZE, BOTH)
    assert open_fds() == before + MOST_FILES
    backings.pop().close()
    backings.append(memory.backing(make(), 0, SIZE, BOTH))
    for backing in backings:
        backing.close()
    assert open_fds() == before


def test_a_file_that_grows_with_every_mapping_counts_each_time(memory: GuestMemory) -> None:
    fd = sealed(0)
    backings = []
    for number in range(1, MOST_FILES + 1):
        os.ftruncate(fd, number * 4096)
        backings.append(memory.backing(os.dup(fd), (number - 1) * 4096, 4096, BOTH))
    os.ftruncate(fd, 2 * MOST_FILES * 4096)
    with pytest.raises(TooManyFiles):
        memory.backing(os.dup(fd), MOST_FILES * 4096, 4096, BOTH)
    for backing in backings:
        backing.close()
    assert memory.share.files == 0
    os.close(fd)


def test_a_file_too_large_to_be_mapped_is_reached_all_the_same(memory: GuestMemory) -> None:
    backing = memory.backing(sealed(MOST_MAPPED + 4096), MOST_MAPPED, 4096, BOTH)
    assert not memory.mapped_files
    backing.write(0, b"there")
    assert backing.read(0, 5) == b"there"
    backing.close()
    assert (memory.share.files, memory.share.mapped) == (0, 0)


def test_when_the_host_has_nothing_left_to_give_a_user_has_what_is_its_own() -> None:
    memory = GuestMemory(Share(HostShare(files=0)))
    backings = [memory.backing(sealed(), 0, SIZE, BOTH) for _ in range(ASSURED_FILES)]
    before = open_fds()
    with pytest.raises(TooManyFiles):
        memory.backing(sealed(), 0, SIZE, BOTH)
    assert open_fds() == before
    for backing in backings:
        backing.close()


def test_two_users_files_are_never_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inode numbers repeat (those of huge pages after 2^32): a user may bring about that his is another's."""
    monkeypatch.setattr(module, "file_status", lambda fd: file_status(fd)._replace(inode=1))
    host = HostShare()
    victim, attacker = GuestMemory(Share(host)), GuestMemory(Share(host))
    secret = victim.backing(sealed(), 0, SIZE, BOTH)
    secret.write(0, b"secret")
    guess = attacker.backing(sealed(), 0, SIZE, BOTH)
    assert guess.read(0, 6) == bytes(6)
    secret.close()
    guess.close()


def test_memory_whose_file_system_may_keep_us_waiting_is_not_reached_by_its_file(memory: GuestMemory) -> None:
    fd = os.open("/proc/self/status", os.O_RDONLY)  # regular, and of no device: as FUSE, NFS and 9p are
    with pytest.raises(MayKeepWaiting):
        memory.backing(fd, 0, 16, DmaFlags.READ)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


# --- huge pages: there are none here, so the way they are written is shown on small ones -----------------------------


@pytest.fixture
def huge(memory: GuestMemory, monkeypatch: pytest.MonkeyPatch) -> GuestMemory:
    monkeypatch.setattr(module, "on_huge_pages", lambda _fd: True)
    return memory


def test_huge_pages_are_written_by_the_kernel(huge: GuestMemory) -> None:
    before = open_fds()
    fd = sealed(4 << 20)
    backing = huge.backing(os.dup(fd), 4096, 3 << 20, BOTH)
    data = os.urandom(2 << 20)
    backing.write(5, data)
    assert backing.read(5, len(data)) == data
    assert os.pread(fd, 16, 4096 + 5) == data[:16]
    for offset, length in ((3 << 20, 1), (-1, 1)):
        with pytest.raises(DmaFault):
            backing.write(offset, bytes(length))
        with pytest.raises(DmaFault):
            backing.read(offset, length)
    backing.close()
    os.close(fd)
    assert open_fds() == before
    assert huge.share.files == 0


def test_a_page_that_is_not_there_is_a_fault_and_no_signal(huge: GuestMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a hole in huge pages of which there are none left; here it is a file that was not sealed after all."""
    monkeypatch.setattr(module, "file_status", lambda fd: file_status(fd)._replace(seals=fcntl.F_SEAL_SHRINK))
    fd = unsealed()
    backing = huge.backing(os.dup(fd), 0, SIZE, BOTH)
    os.ftruncate(fd, 4096)
    backing.write(0, b"there")
    with pytest.raises(DmaFault):
        backing.write(8192, b"not there")
    backing.close()
    os.close(fd)


def test_huge_pages_cost_three_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "on_huge_pages", lambda _fd: True)
    memory = GuestMemory(Share(HostShare(files=0)))
    backings = [memory.backing(sealed(), 0, SIZE, BOTH) for _ in range(ASSURED_FILES // 3)]
    before = open_fds()
    with pytest.raises(TooManyFiles):
        memory.backing(sealed(), 0, SIZE, BOTH)
    assert open_fds() == before
    for backing in backings:
        backing.close()
    assert (memory.share.files, memory.share.mapped) == (0, 0)


def test_file_is_kept_for_another_process_only_when_asked_for(memory: GuestMemory) -> None:
    """Mapped or not; it is closed with the last backing, and counted."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for keeping, expected in ((memory, False), (GuestMemory(keep_files=True), True)):
        backings = []
        for offset in (0, 4 * KiB):
            fd = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, SIZE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            backings.append(keeping.backing(fd, offset, 4 * KiB, BOTH))
        places = [each.file() for each in backings]
        assert keeping.share.files == (4 if expected else 2)
        if expected:
            assert [os.pread(fd, 1, at) for fd, at in filter(None, places)] == [b"\0"] * 2
            assert [at for _fd, at in filter(None, places)] == [0, 4 * KiB]
        else:
            assert places == [None, None]
        for each in backings:
            each.close()
        assert (keeping.share.files, [each.file() for each in backings]) == (0, [None, None])
    fd = os.memfd_create("ram")
    os.ftruncate(fd, SIZE)
    unsealed = memory.backing(fd, 4 * KiB, 4 * KiB, BOTH)
    assert unsealed.file() == (fd, 4 * KiB)
    unsealed.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
