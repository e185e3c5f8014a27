"""mbochs in a whole host, against what the kernel's sample answers (Linux 7.2, ``mbochs/*`` of the vfio transcript)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mdev_user.driver import edid_of
from mdev_user.drivers.mbochs import Edid, Link, Mbochs, Regs
from mdev_user.errors import NoSpace
from mdev_user.mdev.parent import MdevParent
from mdev_user.testing import Guest
from mdev_user.testing.local import LocalHost
from mdev_user.units import MiB
from mdev_user.vfio.planes import Plane, PlaneType
from mdev_user.vfio.requests import GFX_EDID, Irq, Region, RegionFlags
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError
from unit.drivers.config import differences

EINVAL = r"^\[Errno 22\]"
READ_WRITE = RegionFlags.READ | RegionFlags.WRITE
CONFIG = "3412111103000000010080030000000008000000000000000000000000000000000000000000000000000000f41a0011"
"""config-read-256: the rest is zero."""
EDID_REGION = 9
EDID_SIZE, MAX_XRES, LINK_STATE, BLOB = 0x08, 0x0C, 0x14, 0x800


@pytest.fixture
def host() -> Iterator[LocalHost]:
    with LocalHost() as local:
        yield local


@pytest.fixture
def parent(host: LocalHost) -> MdevParent:
    return host.bus.register_parent("mbochs", Mbochs())


@contextmanager
def client_of(host: LocalHost, parent: MdevParent) -> Iterator[Client]:
    with host.client(host.create(parent, "mbochs-small")) as client:
        client.socket.settimeout(10)
        yield client


def number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def test_types_have_the_kernels_texts() -> None:
    assert [(each.name, each.pretty_name, each.description) for each in Mbochs().mdev_types] == [
        ("small", "mbochs-small", "virtual display, 4 MB video memory"),
        ("medium", "mbochs-medium", "virtual display, 16 MB video memory"),
        ("large", "mbochs-large", "virtual display, 64 MB video memory"),
    ]


def test_video_memory_is_shared_by_the_types(host: LocalHost, parent: MdevParent) -> None:
    """As the transcript's step exhaust-mbochs has it."""
    for type_id, left in (("large", [48, 12, 3]), ("large", [32, 8, 2]), ("large", [16, 4, 1]), ("medium", [12, 3, 0])):
        host.create(parent, f"mbochs-{type_id}")
        assert [host.bus.available(parent, each) for each in parent.types.values()] == left
    with pytest.raises(NoSpace, match="large takes 64 MiB of memory, 48 MiB are free"):
        host.create(parent, "mbochs-large")
    host.create(parent, "mbochs-small")
    assert [host.bus.available(parent, each) for each in parent.types.values()] == [11, 2, 0]


def test_config_space_is_the_samples(host: LocalHost, parent: MdevParent) -> None:
    with client_of(host, parent) as client:
        assert differences(client.region_read(Region.CONFIG, 0, 256), CONFIG) == []
        for offset, sized in ((0x10, 0xFFC0_0008), (0x14, 0), (0x18, 0xFFFF_F000), (0x1C, 0), (0x30, 0)):
            client.region_write(Region.CONFIG, offset, b"\xff" * 4)
            assert client.region_read(Region.CONFIG, offset, 4) == number(sized)


def test_regions_are_the_samples(host: LocalHost, parent: MdevParent) -> None:
    with client_of(host, parent) as client:
        assert client.device_info().num_regions == 10
        video, registers, edid = (client.region_info(index) for index in (0, 2, EDID_REGION))
        os.close(video.fd)
        assert (video.size, video.flags) == (4 * MiB, READ_WRITE | RegionFlags.MMAP)
        assert (registers.size, registers.flags) == (0x1000, READ_WRITE)
        assert (edid.size, edid.flags, edid.type) == (0x1000, READ_WRITE | RegionFlags.CAPS, GFX_EDID)
        assert edid.fd == registers.fd == -1
        for index in (10, 11, 16):
            with pytest.raises(RemoteError, match=EINVAL):
                client.region_info(index)
        assert all(client.irq_info(each).count == 0 for each in Irq if each is not Irq.COUNT)


def test_dispi_registers_hold_a_mode() -> None:
    """As the transcript's step mbochs-dispi has it."""
    with Guest(Mbochs) as guest:
        written = {Regs.xres: 640, Regs.yres: 480, Regs.bpp: 32, Regs.enable: 0x41, Regs.virt_width: 640}
        for register, value in {**written, Regs.virt_height: 480}.items():
            guest.write(register, value)
        guest.write(Regs.ident, 0xB0C0)
        guest.write(Regs.video_memory_64k, 1)
        found = [int.from_bytes(guest.read_bytes(2, 0x500 + 2 * index, 2), "little") for index in range(11)]
        assert found == [0xB0C5, 640, 480, 32, 0x41, 0, 640, 480, 0, 0, 64]
        guest.reset()
        assert [guest.read(Regs.xres), guest.read(Regs.enable), guest.read(Regs.ident)] == [0, 0, 0xB0C5]


@pytest.mark.parametrize(("name", "memory", "most"), [("medium", 256, (1920, 1440)), ("large", 1024, (0, 0))])
def test_size_and_limits_are_those_of_the_type(name: str, memory: int, most: tuple[int, int]) -> None:
    with Guest(Mbochs, name) as guest:
        assert guest.read(Regs.video_memory_64k) == memory
        assert (guest.read(Edid.max_xres), guest.read(Edid.max_yres)) == most
        assert guest.show("vendor/memory") == f"{memory // 16} MB"


def test_messages_reach_the_video_memory_where_a_mapping_does() -> None:
    """The sample's are two pages off."""
    with Guest(Mbochs) as guest:
        guest.write_bytes(0, 0x2000, b"pixel")
        assert bytes(guest.device.function.video[0x2000:0x2005]) == b"pixel"  # type: ignore[attr-defined]  # a Display
        assert guest.read_bytes(0, 0x2000, 5) == b"pixel"


# --- the monitor ------------------------------------------------------------------------------------------------


def describe(client: Client, edid: bytes) -> None:
    """As a VMM does: link down, the new EDID, link up (vfio.h)."""
    client.region_write(EDID_REGION, LINK_STATE, number(Link.DOWN))
    client.region_write(EDID_REGION, BLOB, edid)
    client.region_write(EDID_REGION, EDID_SIZE, number(len(edid)))
    client.region_write(EDID_REGION, LINK_STATE, number(Link.UP))


def test_edid_registers_are_the_samples(host: LocalHost, parent: MdevParent) -> None:
    with client_of(host, parent) as client:
        found = client.region_read(EDID_REGION, 0, 24)
        assert [int.from_bytes(found[at : at + 4], "little") for at in range(0, 24, 4)] == [0x800, 1024, 0, 800, 600, 0]
        client.region_write(EDID_REGION, MAX_XRES, number(77))
        assert client.region_read(EDID_REGION, MAX_XRES, 4) == number(800)


def test_guest_sees_the_edid_that_its_user_gave(host: LocalHost, parent: MdevParent) -> None:
    edid = bytes(range(1, 256)) + bytes(range(1, 100))  # not a multiple of four
    with client_of(host, parent) as client:
        describe(client, edid)
        assert client.region_read(2, 0, 0x400) == edid.ljust(0x400, b"\0")
        client.region_write(2, 0, b"mine")
        assert client.region_read(2, 0, 4) == edid[:4]
        client.reset()
        assert client.region_read(2, 0, 4) == edid[:4]
        client.region_write(EDID_REGION, LINK_STATE, number(Link.DOWN))
        assert client.region_read(2, 0, 0x400) == bytes(0x400)


def test_edid_goes_with_its_user(host: LocalHost, parent: MdevParent) -> None:
    mdev = host.create(parent, "mbochs-small")
    with host.client(mdev) as client:
        describe(client, bytes(range(128)))
    with host.client(mdev) as client:
        assert client.region_read(2, 0, 128) == edid_of(800, 600, "mbochs")
        assert client.region_read(EDID_REGION, BLOB, 128) == bytes(128)


@pytest.mark.parametrize(("register", "value"), [(EDID_SIZE, 1025), (LINK_STATE, 0), (LINK_STATE, 3)])
def test_what_no_edid_can_be_is_not_taken(register: int, value: int) -> None:
    with Guest(Mbochs) as guest:
        guest.write_bytes(EDID_REGION, register, number(1))
        guest.write_bytes(EDID_REGION, register, number(value))
        assert guest.read_bytes(EDID_REGION, register, 4) == number(1)
        assert guest.errors == 1


@pytest.mark.parametrize("name", Mbochs.types)
def test_monitor_of_its_own_has_a_sound_edid(name: str) -> None:
    """Header, checksum, version, and the type's resolution in the preferred timing (E-EDID 1.4, section 3)."""
    width, height = Mbochs.types[name].monitor
    with Guest(Mbochs, name) as guest:
        edid = guest.read_bytes(2, 0, 128)
    timing = edid[54:72]
    assert edid[:8] == b"\x00\xff\xff\xff\xff\xff\xff\x00"
    assert (sum(edid) % 256, edid[18], edid[126]) == (0, 1, 0)
    assert (timing[2] | (timing[4] & 0xF0) << 4, timing[5] | (timing[7] & 0xF0) << 4) == (width, height)
    refresh = 10_000 * int.from_bytes(timing[:2], "little") / (width + timing[3]) / (height + timing[6])
    assert refresh == pytest.approx(60, abs=0.1)
    assert 4 * width * height <= Mbochs.types[name].memory


def set_mode(client: Client, width: int, height: int, bits: int = 32) -> None:
    for offset, value in ((0x502, width), (0x504, height), (0x506, bits), (0x508, 0x41)):
        client.region_write(2, offset, value.to_bytes(2, "little"))


def test_what_a_vmm_can_draw_is_the_mode_that_the_guest_set(host: LocalHost, parent: MdevParent) -> None:
    with client_of(host, parent) as client:
        assert client.plane(PlaneType.PRIMARY) is None, "no mode was set"
        set_mode(client, 640, 480)
        assert client.plane(PlaneType.PRIMARY) == Plane(0, 640, 480, 2560, 640 * 480 * 4)
        assert client.plane(PlaneType.CURSOR) is None
        client.region_write(2, 0x50C, (1024).to_bytes(2, "little"))
        assert client.plane(PlaneType.PRIMARY) == Plane(0, 640, 480, 4096, 480 * 4096)


@pytest.mark.parametrize(("width", "height", "bits"), [(640, 480, 16), (4096, 4096, 32), (0, 480, 32), (640, 0, 32)])
def test_a_mode_that_cannot_be_drawn_shows_nothing(
    host: LocalHost, parent: MdevParent, width: int, height: int, bits: int
) -> None:
    with client_of(host, parent) as client:
        set_mode(client, width, height, bits)
        assert client.plane(PlaneType.PRIMARY) is None
