"""A host copies a picture into the file that came with the call, and keeps no file."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

import pytest

from mdev_user.daemon.screenshots import PictureFile, PictureFiles
from mdev_user.errors import InvalidValue, NoDevice, NotReady
from mdev_user.host.remote import Host, RemoteHost, RemoteParent
from mdev_user.host.wire import Create, Load, Probe
from mdev_user.testing.hosts.in_process import InProcessHost
from mdev_user.testing.hosts.injection import Injection
from mdev_user.vfio_user.client import Client

UNKNOWN = UUID(int=7)


@dataclass(frozen=True)
class Scene:
    """An mdev with a screen of 640x480, which nobody has open."""

    host: Host
    parent: RemoteParent
    uuid: UUID
    socket: Path


def _ended(_host: Host, _reason: str) -> None:
    pass


@pytest.fixture(params=["process", "in process"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with TemporaryDirectory(dir="/tmp") as folder:  # short: a socket's path has at most 107 bytes
        yield from scene_in(Path(folder), request)


def scene_in(devices: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    uuid = uuid4()
    if request.param == "process":
        host: Host = RemoteHost("host", devices, _ended)
    else:
        host = InProcessHost("host", devices, _ended, Injection())
    try:
        parent = RemoteParent(host, Load("mbochs", "mbochs", {}))
        host.call(Create("mbochs", "mbochs-small", uuid))
        host.call(Probe(uuid))
        yield Scene(host, parent, uuid, devices / str(uuid) / "vfio-user.sock")
    finally:
        host.stop()


def open_files(scene: Scene) -> int:
    """Screenshots that the host has open."""
    found = 0
    for each in Path(f"/proc/{scene.host.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # another thread of it closes one
            found += "screenshot" in str(each.readlink())
    return found


def set_mode(guest: Client, enable: int) -> None:
    for offset, value in ((0x502, 320), (0x504, 200), (0x506, 32), (0x50C, 321), (0x508, enable)):
        guest.region_write(2, offset, value.to_bytes(2, "little"))


def test_the_file_has_what_the_guest_drew(scene: Scene) -> None:
    with Client(scene.socket) as guest, PictureFiles().file(None) as file:
        pixels = Random(1).randbytes(4 * 321 * 200)
        guest.region_write(0, 0, pixels)
        set_mode(guest, 1)
        picture = file.picture(scene.parent.copy_picture(scene.uuid, 0, file.fd))
        assert (picture.width, picture.height, picture.stride) == (320, 200, 4 * 321)
        assert bytes(picture.pixels[: picture.size]) == pixels[: picture.size]


def test_no_file_is_kept_whatever_comes_of_it(scene: Scene) -> None:
    file, parent = PictureFile(), scene.parent
    before = open_files(scene)
    with pytest.raises(NoDevice):
        parent.copy_picture(UNKNOWN, 0, file.fd)
    with pytest.raises(NoDevice, match="nobody has it open"):
        parent.copy_picture(scene.uuid, 0, file.fd)
    with Client(scene.socket) as guest:
        with pytest.raises(NotReady, match="shows nothing"):
            parent.copy_picture(scene.uuid, 0, file.fd)
        with pytest.raises(InvalidValue, match="the only one"):
            parent.copy_picture(scene.uuid, 1, file.fd)
        set_mode(guest, 1)
        parent.copy_picture(scene.uuid, 0, file.fd)
    assert open_files(scene) == before
    file.close()


def test_a_host_cannot_take_away_what_is_mapped() -> None:
    """It has the file open for writing; the front has it mapped."""
    file = PictureFile()
    with pytest.raises(PermissionError):
        os.ftruncate(file.fd, 0)
    file.close()
