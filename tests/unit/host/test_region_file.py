"""The file of an open mdev's mappable regions: sealed, sparse, and new for each user."""

import fcntl
import mmap
import os
from collections.abc import Iterator

import pytest

from mdev_user.errors import DriverError
from mdev_user.host import region_file
from mdev_user.host.region_file import RegionFile
from mdev_user.units import PAGE, MiB
from mdev_user.vfio.requests import MOST_REGIONS, REGION_SHIFT, region_offset


@pytest.fixture
def file() -> Iterator[RegionFile]:
    file = RegionFile("test")
    yield file
    file.close()


def test_nothing_exists_until_it_is_needed(file: RegionFile) -> None:
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
    RegionFile("unused").close()
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - names are enough
    assert file.fd == file.fd


def test_a_region_lies_at_its_index_and_both_sides_see_the_same_bytes(file: RegionFile) -> None:
    view = file.view(2, 2 * MiB)
    view[5] = 0x5A
    with mmap.mmap(file.fd, 2 * MiB, offset=region_offset(2)) as guest:
        assert guest[5] == 0x5A
        guest[6] = 0xA5
    assert view[6] == 0xA5
    assert file.view(2, 2 * MiB)[6] == 0xA5
    assert file.view(0, 4096)[5] == 0


def test_terabytes_of_regions_cost_only_the_touched_pages(file: RegionFile) -> None:
    for index in (*range(8), MOST_REGIONS - 1):
        file.view(index, MiB)[0] = 1
    status = os.fstat(file.fd)
    assert status.st_size == region_offset(MOST_REGIONS)
    # One page each; where the kernel gives shmem huge pages, one of these.
    assert status.st_blocks * 512 <= 9 * 2 * MiB


@pytest.mark.parametrize("size", [0, 4096, region_offset(MOST_REGIONS) + 4096])
def test_nobody_who_has_the_file_can_change_its_size(file: RegionFile, size: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(file.fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(file.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_an_unsealed_file_could_be_shrunk() -> None:
    """The negative control of the test above."""
    fd = os.memfd_create("unsealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 8192)
    os.ftruncate(fd, 4096)
    os.close(fd)


def test_the_next_user_gets_zeros_and_another_file() -> None:
    first = RegionFile("mdev")
    first.view(0, 4096)[:4] = b"data"
    identity = os.fstat(first.fd).st_ino
    kept = os.dup(first.fd)  # a guest that keeps the fd
    first.close()
    second = RegionFile("mdev")
    assert bytes(second.view(0, 4096)[:4]) == bytes(4)
    assert os.fstat(second.fd).st_ino != identity
    second.close()
    os.close(kept)


def test_a_view_that_a_driver_keeps_does_not_keep_the_fd(file: RegionFile) -> None:
    view = file.view(0, 4096)
    fd = file.fd
    file.close()
    view[0] = 1  # harmless
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("size", [0, -4096, 100, (1 << REGION_SHIFT) + 4096])
def test_a_region_has_a_size_in_pages(file: RegionFile, size: int) -> None:
    with pytest.raises(DriverError, match="expected a size in pages"):
        file.view(0, size)


@pytest.mark.parametrize("index", [-1, MOST_REGIONS])
def test_a_region_has_an_index_that_fits_the_file(file: RegionFile, index: int) -> None:
    with pytest.raises(DriverError, match="expected an index from 0 to 31"):
        file.view(index, 4096)


def test_what_nobody_touched_is_in_no_extent(file: RegionFile) -> None:
    assert file.extents(2, 8 * MiB) == []
    view = file.view(2, 8 * MiB)
    for at in (PAGE, MiB, 3 * MiB, 8 * MiB - 1):
        view[at] = 1
    file.view(3, PAGE)[0] = 1  # another region
    extents = file.extents(2, 8 * MiB)
    for at in (PAGE, MiB, 3 * MiB, 8 * MiB - 1):
        assert any(begin <= at < end for begin, end in extents)
    assert sum(end - begin for begin, end in extents) < 8 * MiB
    assert file.extents(1, 8 * MiB) == []
    assert file.extents(4, 8 * MiB) == []
    assert os.fstat(file.fd).st_blocks * 512 < 8 * MiB


def test_extents_have_an_end_and_leave_nothing_out(file: RegionFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_file, "MOST_EXTENTS", 2)
    view = file.view(2, 32 * PAGE)
    for page in range(0, 20, 4):
        view[page * PAGE] = 1
    assert file.extents(2, 32 * PAGE) == [(0, PAGE), (4 * PAGE, 5 * PAGE), (5 * PAGE, 32 * PAGE)]
