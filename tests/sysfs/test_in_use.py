"""Remove, unbind and unregister while a user has the mdev open: what is seen meanwhile, and what goes on working."""

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from sysfs.access import answer, opened, read, write
from sysfs.mounted import Mounted
from unit.sysfs.scene import MTTY, PATIENCE, UUID1, UUID2, until

pytestmark = pytest.mark.fuse

TEXT = str(UUID1).encode()
CREATE = f"{MTTY}/create"
UNBIND = "bus/mdev/drivers/mtty/unbind"
DEVICE = f"bus/mdev/devices/{UUID1}"
DIRECTORY = f"devices/virtual/mtty/mtty/{UUID1}"


@pytest.fixture
def device(mounted: Mounted) -> Path:
    mounted.scene.create()
    return mounted / DIRECTORY


@contextmanager
def held(mounted: Mounted, action: Callable[[], int]) -> Iterator[Future[int]]:
    """What waits for the user of the mdev, who goes when the block ends."""
    driver = mounted.scene.driver
    driver.hold(UUID1)
    with ThreadPoolExecutor(1) as pool:
        try:
            waiting = pool.submit(action)
            until(lambda: UUID1 in driver.waiting)
            yield waiting
            assert not waiting.done(), "it did not wait for the user"
        finally:
            driver.release(UUID1)


def test_while_a_remove_waits_only_the_group_is_left(mounted: Mounted, device: Path) -> None:
    with held(mounted, partial(write, device / "remove", b"1")) as removing:
        assert mounted.names(DIRECTORY) == ["iommu_group"]
        assert (device / "iommu_group").resolve().name == "0"
        assert not (mounted / DEVICE).is_symlink()
        for folder in ("bus/mdev/devices", f"{MTTY}/devices", "class/vfio-dev"):
            assert mounted.names(folder) == [], folder
        assert "mtty" in mounted.names("bus/mdev/drivers")
        assert str(UUID1) not in mounted.names("bus/mdev/drivers/mtty")
        assert mounted.names("class/vfio") == mounted.names("kernel/iommu_groups") == ["0"]
        assert read(mounted / f"{MTTY}/available_instances") == "23\n"
        assert write(mounted / CREATE, TEXT) == -errno.EEXIST
        assert write(mounted / DEVICE / "remove", b"1") == -errno.ENOENT
        assert write(mounted / UNBIND, TEXT) == -errno.ENODEV
    assert removing.result(PATIENCE) == 1
    assert not device.exists()
    assert mounted.names("class/vfio") == mounted.names("kernel/iommu_groups") == []
    assert read(mounted / f"{MTTY}/available_instances") == "24\n"
    assert write(mounted / CREATE, TEXT) == 36


def test_while_a_remove_waits_its_open_files_are_enodev(mounted: Mounted, device: Path) -> None:
    with (
        opened(device / "uevent", os.O_RDWR) as uevent,
        opened(device / "vendor/speed", os.O_RDWR) as speed,
        held(mounted, partial(write, device / "remove", b"1")),
    ):
        for fd in (uevent, speed):
            assert answer(partial(os.write, fd, b"1")) == -errno.ENODEV
            assert answer(partial(os.pread, fd, 10, 0)) == -errno.ENODEV


def test_while_a_remove_waits_other_mdevs_come_and_go(mounted: Mounted, device: Path) -> None:
    with held(mounted, partial(write, device / "remove", b"1")):
        assert write(mounted / CREATE, str(UUID2).encode()) == 36
        assert mounted.names("bus/mdev/devices") == [str(UUID2)]
        assert mounted.names("class/vfio") == ["0", "1"]
        assert write(mounted / f"bus/mdev/devices/{UUID2}/remove", b"1") == 1


def test_an_unbind_waits_likewise_and_leaves_the_mdev(mounted: Mounted, device: Path) -> None:
    with held(mounted, partial(write, mounted / UNBIND, TEXT)) as unbinding:
        assert write(mounted / CREATE, TEXT) == -errno.EEXIST
        assert mounted.names("bus/mdev/devices") == [str(UUID1)]
    assert unbinding.result(PATIENCE) == 36
    assert mounted.names(DIRECTORY) == ["mdev_type", "remove", "subsystem", "uevent"]


def test_a_parent_that_goes_waits_likewise_and_takes_nobody_in(mounted: Mounted, device: Path) -> None:
    def unregister() -> int:
        mounted.scene.bus.unregister_parent(mounted.scene.parent)
        return 0

    with opened(mounted / CREATE, os.O_WRONLY) as create, held(mounted, unregister):
        assert mounted.names("class/mdev_bus") == ["mdpy"]
        assert answer(partial(os.write, create, str(UUID2).encode())) == -errno.ENODEV
        assert write(mounted / "class/mdev_bus/mtty/mdev_supported_types/mtty-1/create", TEXT) == -errno.ENOENT
        assert mounted.names(DIRECTORY) == ["iommu_group"]
    until(lambda: "mtty" not in mounted.names("bus/mdev/drivers"))
    assert not (mounted / "devices/virtual/mtty").exists()


def test_no_name_is_found_in_a_folder_that_is_gone(mounted: Mounted, device: Path) -> None:
    folder = os.open(device, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert write(device / "remove", b"1") == 1
        for name in ("uevent", "remove", "vendor", "absent"):
            assert answer(partial(os.open, name, os.O_RDONLY, dir_fd=folder)) == -errno.ENOENT
        assert answer(partial(os.mkdir, "new", dir_fd=folder)) in {-errno.ENOENT, -errno.EPERM}
    finally:
        os.close(folder)
