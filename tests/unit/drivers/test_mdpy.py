"""mdpy in a whole host, against what the kernel's sample answers (Linux 7.2, ``mdpy/*`` of the vfio transcript)."""

import mmap
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from mdev_user.drivers.mdpy import Mdpy
from mdev_user.errors import NoInstances
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.parent import MdevParent
from mdev_user.testing import Guest
from mdev_user.testing.local import LocalHost
from mdev_user.units import MiB
from mdev_user.vfio.planes import XR24, Plane, PlaneType
from mdev_user.vfio.requests import Irq, Region, RegionFlags
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError
from unit.drivers.config import differences

EINVAL, EFAULT = r"^\[Errno 22\]", r"^\[Errno 14\]"
READ_WRITE = RegionFlags.READ | RegionFlags.WRITE
MAPPED = READ_WRITE | RegionFlags.MMAP
VGA = 2 * MiB
CONFIG = (
    "361b0f0003001000010080030000000008000000000000000000000000000000000000000000000000000000f41a0011"
    "00000000400000000000000000000000" + "0900100058523234" + "80020000e0010000"
)
"""config-read-256: the rest is zero."""


@pytest.fixture
def host() -> Iterator[LocalHost]:
    with LocalHost() as local:
        yield local


@pytest.fixture
def parent(host: LocalHost) -> MdevParent:
    return host.bus.register_parent("mdpy", Mdpy())


@contextmanager
def client_of(host: LocalHost, parent: MdevParent, type_id: str = "mdpy-vga") -> Iterator[Client]:
    with host.client(host.create(parent, type_id)) as client:
        client.socket.settimeout(10)
        yield client


@contextmanager
def mapped(client: Client, index: int) -> Iterator[mmap.mmap]:
    region = client.region_info(index)
    try:
        with closing(mmap.mmap(region.fd, region.size, offset=region.offset)) as memory:
            yield memory
    finally:
        os.close(region.fd)


def test_types_have_the_kernels_texts() -> None:
    assert [(each.name, each.pretty_name, each.description) for each in Mdpy().mdev_types] == [
        ("vga", "mdpy-vga", "virtual display, 640x480 framebuffer"),
        ("xga", "mdpy-xga", "virtual display, 1024x768 framebuffer"),
        ("hd", "mdpy-hd", "virtual display, 1920x1080 framebuffer"),
    ]


def test_four_instances_whatever_their_types(host: LocalHost, parent: MdevParent) -> None:
    made: list[Mdev] = []
    for left, type_id in zip((3, 2, 1, 0), ("mdpy-vga", "mdpy-xga", "mdpy-hd", "mdpy-vga"), strict=True):
        made.append(host.create(parent, type_id))
        assert [host.bus.available(parent, each) for each in parent.types.values()] == [left] * 3
    with pytest.raises(NoInstances, match="has 4 instances and all are used"):
        host.create(parent, "mdpy-xga")
    host.bus.remove(made[0].uuid)
    host.create(parent, "mdpy-hd")


def test_count_is_an_option_as_that_of_the_kernels_module(host: LocalHost) -> None:
    parent = host.bus.register_parent("two", Mdpy(count=2))
    assert [host.bus.available(parent, each) for each in parent.types.values()] == [2, 2, 2]


def test_config_space_is_the_samples(host: LocalHost, parent: MdevParent) -> None:
    with client_of(host, parent) as client:
        assert differences(client.region_read(Region.CONFIG, 0, 256), CONFIG) == []


@pytest.mark.parametrize(
    ("type_id", "size", "told"),
    [
        ("mdpy-vga", VGA, "80020000e0010000"),
        ("mdpy-xga", 4 * MiB, "0004000000030000"),
        ("mdpy-hd", 8 * MiB, "8007000038040000"),
    ],
)
def test_bar_holds_the_pixels_that_the_capability_tells(
    host: LocalHost, parent: MdevParent, type_id: str, size: int, told: str
) -> None:
    with client_of(host, parent, type_id) as client:
        assert client.region_read(Region.CONFIG, 0x48, 8).hex() == told
        client.region_write(Region.CONFIG, 0x10, b"\xff" * 4)
        assert int.from_bytes(client.region_read(Region.CONFIG, 0x10, 4), "little") == (1 << 32) - size | 8
        for index in (Region.BAR0, 16):
            region = client.region_info(index)
            os.close(region.fd)
            assert (region.size, region.flags) == (size, MAPPED)


def test_regions_are_the_samples(host: LocalHost, parent: MdevParent) -> None:
    """The display's is beyond those that are counted: who wants it asks what plane there is."""
    with client_of(host, parent) as client:
        assert client.device_info().num_regions == Region.COUNT
        for index in (1, 2, 3, 4, 5, 6, 8):
            assert client.region_info(index).size == 0
        for index in (9, 10, 15, 17, 100):
            with pytest.raises(RemoteError, match=EINVAL):
                client.region_info(index)


def test_nothing_interrupts(host: LocalHost, parent: MdevParent) -> None:
    with client_of(host, parent) as client:
        assert [client.irq_info(each).count for each in (Irq.INTX, Irq.MSI, Irq.MSIX, Irq.ERR, Irq.REQ)] == [0] * 5
        eventfd = os.eventfd(0)
        with pytest.raises(RemoteError, match=EINVAL):
            client.arm(Irq.INTX, [eventfd])
        os.close(eventfd)


def test_display_region_is_the_framebuffer(host: LocalHost, parent: MdevParent) -> None:
    """Mapped or read by messages; the sample's messages land at its beginning, wherever they are sent."""
    with client_of(host, parent) as client, mapped(client, 16) as display, mapped(client, 0) as framebuffer:
        framebuffer[0x1000:0x1005] = b"drawn"
        client.region_write(16, 0x2000, b"told")
        assert display[0x1000:0x1005] == b"drawn"
        assert client.region_read(0, 0x1000, 5) == client.region_read(16, 0x1000, 5) == b"drawn"
        assert framebuffer[0x2000:0x2004] == client.region_read(0, 0x2000, 4) == b"told"
        assert framebuffer[:4] == bytes(4)
        with pytest.raises(RemoteError, match=EFAULT):
            client.region_read(16, VGA - 1, 2)


def test_picture_goes_with_its_user_and_stays_over_a_reset(host: LocalHost, parent: MdevParent) -> None:
    mdev = host.create(parent, "mdpy-vga")
    with host.client(mdev) as client:
        client.region_write(0, 0, b"mine")
        client.reset()
        assert client.region_read(0, 0, 4) == b"mine"
    with host.client(mdev) as client:
        assert client.region_read(0, 0, 4) == bytes(4)


def test_resolution_is_an_attribute() -> None:
    for name, resolution in (("vga", "640x480"), ("xga", "1024x768"), ("hd", "1920x1080")):
        with Guest(Mdpy, name) as guest:
            assert guest.show("vendor/resolution") == resolution


def test_the_screen_is_a_plane_in_the_region_that_shows_the_frame_buffer(host: LocalHost, parent: MdevParent) -> None:
    """As the transcript's step gfx-region has it."""
    with client_of(host, parent) as client:
        assert client.plane(PlaneType.PRIMARY) == Plane(16, 640, 480, 2560, VGA)
        assert XR24 == 0x34325258
