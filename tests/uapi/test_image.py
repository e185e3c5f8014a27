"""A device's state goes through its data descriptors: what was read from one is what the device has after a write."""

from collections.abc import Iterator

import pytest

from golden.vfio import ioctls
from golden.vfio.session import Region, Session, feature
from mdev_user.testing.daemon import RunningDaemon
from uapi.program import Program

pytestmark = pytest.mark.fuse

_SCRATCH = 7


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with RunningDaemon("mtty") as daemon, Program.under_run(daemon) as program:
        uuid = daemon.create("mtty-1")
        group = (daemon.sys / f"bus/mdev/devices/{uuid}/iommu_group").readlink().name
        session = Session(program, str(uuid), f"/dev/vfio/{group}", {})
        session.container, session.group = program.open("/dev/vfio/vfio").ok, program.open(session.group_path).ok
        attached = program.ioctl(session.group, ioctls.GROUP_SET_CONTAINER, session.container.to_bytes(4, "little"))
        assert attached.rc == program.ioctl(session.container, ioctls.SET_IOMMU, ioctls.TYPE1V2).rc == 0
        name = str(uuid).encode().ljust(64, b"\0")
        session.device = program.ioctl(session.group, ioctls.GROUP_GET_DEVICE_FD, name).ok
        told = session.ioctl(ioctls.DEVICE_GET_REGION_INFO, ioctls.REGION_INFO.pack(32, 0, 0, 0, 0, 0)).data
        session.regions[0] = Region(ioctls.REGION_INFO.unpack(told)[5], 8)
        yield session


def enter(session: Session, name: str) -> int:
    """The data descriptor, -1 for none."""
    given = ioctls.MIG_STATE.pack(ioctls.STATES.index(name), -1)
    done = feature(session, ioctls.FEATURE_SET | ioctls.MIG_DEVICE_STATE, given)
    assert done.errno is None, done
    fd = ioctls.MIG_STATE.unpack(done.data)[1]
    assert isinstance(fd, int)
    return fd


def image(session: Session) -> bytes:
    fd, data = enter(session, "STOP_COPY"), b""
    while (got := session.program.read(fd, 64)).ok > 0:
        data += got.data[: got.rc]
    assert session.program.close(fd).rc == 0
    enter(session, "RUNNING")
    return data


def test_state_that_was_read_is_what_a_write_gives(session: Session) -> None:
    assert session.write(0, _SCRATCH, b"\x77").rc == 1
    data = image(session)
    assert session.write(0, _SCRATCH, b"\x11").rc == 1
    fd = enter(session, "RESUMING")
    assert session.program.write(fd, data).rc == len(data)
    assert session.program.close(fd).rc == 0
    enter(session, "RUNNING")
    assert session.value(0, _SCRATCH, 1) == 0x77


def test_state_that_was_not_written_is_not_there(session: Session) -> None:
    assert session.write(0, _SCRATCH, b"\x77").rc == 1
    image(session)
    assert session.write(0, _SCRATCH, b"\x11").rc == 1
    assert session.value(0, _SCRATCH, 1) == 0x11
