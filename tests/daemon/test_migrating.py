"""An mdev goes on at another daemon while its guest writes into it, and nothing that it was told is done is lost."""

from collections.abc import Iterator
from mmap import mmap
from pathlib import Path
from threading import Event, Thread
from typing import Self
from uuid import UUID

import pytest

from daemon.movers import mapped, migrate, output, quiet, refusal
from daemon.support import PARENTS, eventually
from daemon.test_moving import InputRam, begin_checksum, begin_uart, check_checksum, check_uart
from mdev_user.daemon import mover
from mdev_user.daemon.client import Client as ControlClient
from mdev_user.daemon.mover import Moved
from mdev_user.daemon.run_dir import RunDir
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.units import PAGE, MiB
from mdev_user.vfio_user.client import Client

VIDEO, REGISTERS, YRES = 0, 2, 0x504
SIZE = 64 * MiB
PAGES = SIZE // PAGE
BUSY = PAGES // 100
"""Pages that the guest writes all the time: 1 %."""
STRIDE = 97


class Painter:
    """A guest that writes a number into 1 % of its pages, and then tells its device, again and again.

    Its memory nobody can stop; but it waits for the device, so it is at most one round ahead of what it was told.
    """

    def __init__(self, guest: Client, video: mmap) -> None:
        self._guest, self._video = guest, video
        self._stopping = Event()
        self.told = 0
        """Rounds that the device has heard of."""
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            number = self.told + 1
            for page in range(BUSY):
                at = page * STRIDE * PAGE
                self._video[at : at + 8] = number.to_bytes(8, "little")
            try:
                self._guest.region_write(REGISTERS, YRES, (number % 0x10000).to_bytes(2, "little"))
            except OSError:  # it has moved
                return
            self.told = number


def pattern(video: mmap) -> bytes:
    """Fill the memory; no page is like another, or zero."""
    data = b"".join(page.to_bytes(8, "little") * (PAGE // 8) for page in range(1, PAGES + 1))
    video[:] = data
    return data


def check_picture(video: mmap, data: bytes, told: int) -> None:
    """All is there; of the round that the device was not told of, anything may be."""
    busy = {page * STRIDE for page in range(BUSY)}
    for page in range(PAGES):
        at = page * PAGE
        found = video[at : at + PAGE]
        if page in busy:
            assert int.from_bytes(found[:8], "little") in {told, told + 1}, f"page {page} is of an older round"
            assert found[8:] == data[at + 8 : at + PAGE]
        else:
            assert found == data[at : at + PAGE], f"page {page}"


def move_while_it_paints(source: RunningDaemon, destination: RunningDaemon) -> tuple[UUID, Moved]:
    """What was moved; AssertionError when its guest finds another picture than it has painted."""
    uuid = source.create("mbochs-large")
    with source.guest(uuid) as guest, mapped(guest, VIDEO) as video:
        data = pattern(video)
        with Painter(guest, video) as painter:
            eventually(lambda: painter.told, "the guest paints")
            moved = migrate(source, destination, uuid)
    with destination.guest(uuid) as guest, mapped(guest, VIDEO) as video:
        assert painter.told > 1
        check_picture(video, data, painter.told)
        assert int.from_bytes(guest.region_read(REGISTERS, YRES, 2), "little") == painter.told % 0x10000
    return uuid, moved


def test_a_display_moves_while_its_guest_paints() -> None:
    with RunningDaemon("mbochs") as here, RunningDaemon("mbochs") as there:
        uuid, moved = move_while_it_paints(here, there)
        assert here.control.mdevs() == []
        assert [each.uuid for each in there.control.mdevs()] == [str(uuid)]
    assert moved.downtime is not None
    print(
        f"{len(moved.passes)} passes of {', '.join(f'{each.bytes:,}' for each in moved.passes)} bytes and "
        f"{moved.rest:,} when it had stopped; {moved.seconds:.2f} s, downtime {moved.downtime * 1000:.1f} ms"
    )
    assert len(moved.passes) > 1
    assert moved.passes[0].bytes > SIZE
    assert BUSY * PAGE <= moved.passes[1].bytes < SIZE // 50
    assert BUSY * PAGE <= moved.rest < SIZE // 50


def test_a_page_that_is_not_sent_again_is_found() -> None:
    """The negative control of the test above."""
    with (
        RunningDaemon(f"{PARENTS}/forgetful.py:Mbochs") as here,
        RunningDaemon("mbochs") as there,
        pytest.raises(AssertionError, match="page 0 is of an older round"),
    ):
        move_while_it_paints(here, there)


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty,ports=4", "crc") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def other() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty,ports=4", "crc") as daemon:
        yield daemon


@pytest.fixture
def there(other: RunningDaemon) -> Iterator[RunningDaemon]:
    yield other
    for each in other.control.mdevs():
        other.control.remove(UUID(each.uuid), wait=0, force=True)


def test_mdevs_in_use_go_on_at_another_daemon(daemon: RunningDaemon, there: RunningDaemon) -> None:
    uart, checksum = daemon.create("mtty-1"), daemon.create("crc-small")
    with daemon.guest(uart) as guest:
        begin_uart(guest)
        printed = output(daemon, "migrate", uart, there.run_dir.path).splitlines()
        assert printed[-1].startswith(f"moved {uart} to {there.run_dir.path}: ")
        assert "downtime" in printed[-1]
        with pytest.raises(ConnectionError):
            guest.region_read(0, 0, 1)
    with daemon.guest(checksum, InputRam()) as guest:
        begin_checksum(guest)
        migrate(daemon, there, checksum)
    assert daemon.control.mdevs() == []
    assert f"moved to {there.run_dir.path}" in daemon.log
    with there.guest(uart) as guest:
        check_uart(guest)
    with there.guest(checksum) as guest:
        check_checksum(guest)


def test_an_mdev_that_was_created_there_is_used_and_can_come_back(daemon: RunningDaemon, there: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    there.create("mtty-1", uuid)
    with daemon.guest(uuid) as guest:
        begin_uart(guest)
        migrate(daemon, there, uuid)
    migrate(there, daemon, uuid)  # parked, and so not in use
    assert there.control.mdevs() == []
    with daemon.guest(uuid) as guest:
        check_uart(guest)


def test_what_the_other_daemon_refuses_leaves_all_as_it_was(daemon: RunningDaemon, there: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest:
        begin_uart(guest)

        def refused() -> str:
            text = refusal(migrate, daemon, there, uuid)
            assert daemon.control.mdev(uuid).client is not None
            guest.region_write(0, 7, b"\x5a")
            return text

        assert "is the run directory of the same daemon" in refusal(migrate, daemon, daemon, uuid)
        nowhere = ControlClient(RunDir("/nowhere"))
        assert "no daemon at /nowhere" in refusal(mover.migrate, daemon.control, nowhere, uuid, "/nowhere", quiet)
        taken = [there.create("mtty-2") for _ in range(2)]
        assert "ENOSPC" in refused()
        for each in taken:
            there.control.remove(each, wait=0, force=False)
        there.create("mtty-2", uuid)
        assert "is of the type mtty-1, and at" in refused()
        there.control.remove(uuid, wait=0, force=False)
        there.create("mtty-1", uuid)
        with there.guest(uuid):
            assert f"at {there.run_dir.path}: {uuid} is in use by pid" in refused()
        there.control.remove(uuid, wait=0, force=True)
        there.control.unregister_parent("mtty")
        try:
            assert "no parent has the type mtty-1; there are: crc-large, crc-small" in refused()
        finally:
            there.control.register_parent("mtty,ports=4")
        assert there.control.mdevs() == []
        check_uart(guest)


VERSIONED = """
from dataclasses import dataclass
from mdev_user.driver import U32, Bar, Function, Parent, PciId, Pool, Profile

class Regs(Bar, index=0, size=4096):
    value = U32(0x00)

@dataclass(frozen=True)
class One(Profile):
    units: int

class Thing(Function[One]):
    identity = PciId(vendor=0x1DE5, device=0x0001, class_code=0xFF0000)
    state_version = {version}
    upgrades = {{n: lambda old: old for n in range(1, {version})}}
    regs = Regs()

class Things(Parent[One]):
    driver_name = "versioned"
    function = Thing
    units = Pool(4)
    types = {{"1": One(units=1)}}
"""


def test_an_older_driver_there_is_refused(daemon: RunningDaemon, there: RunningDaemon, tmp_path: Path) -> None:
    for name, version, where in (("newer", 2, daemon), ("older", 1, there)):
        (tmp_path / f"{name}.py").write_text(VERSIONED.format(version=version))
        where.control.register_parent(f"{tmp_path}/{name}.py:Things,name=versioned")
    uuid = daemon.create("versioned-1")
    with daemon.guest(uuid) as guest:
        guest.region_write(0, 0, b"kept")
        assert "update the driver" in refusal(migrate, daemon, there, uuid)
        assert there.control.mdevs() == []
        assert guest.region_read(0, 0, 4) == b"kept"
        (tmp_path / "older.py").write_text(VERSIONED.format(version=3))
        there.control.unregister_parent("versioned")
        there.control.register_parent(f"{tmp_path}/older.py:Things,name=versioned")
        migrate(daemon, there, uuid)
    with there.guest(uuid) as guest:
        assert guest.region_read(0, 0, 4) == b"kept"
