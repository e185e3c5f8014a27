"""An mdev that is in use is saved, its daemon ends, and another one goes on with it: nothing is lost."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from uuid import UUID
from zlib import crc32

import pytest
from typing_extensions import override

from daemon.movers import command, eventfd, is_parked, mapped, output, refusal, restore, save, signals
from daemon.support import eventually
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.vfio.requests import Irq, Region
from mdev_user.vfio_user.client import Client

DATA, IER, IIR, LSR, SCR = 0, 1, 2, 5, 7
STATUS, ENABLE, SOURCE, LENGTH, RESULT, DOORBELL = 0x04, 0x08, 0x10, 0x18, 0x1C, 0x20
DONE, BUSY = 0x01, 0x80
INPUT = bytes(range(256)) * 16
XRES, YRES = 0x502, 0x504
PICTURE = b"drawn" * 1000


class InputRam:
    """A guest's memory with the input of a checksum. The device asks for it by messages."""

    def read(self, address: int, count: int) -> bytes:
        return INPUT[address : address + count]

    def write(self, address: int, data: bytes) -> None:
        raise AssertionError(f"nobody writes here: {len(data)} bytes at {address:#x}")


@dataclass(frozen=True)
class Sample:
    """A device, what its first user does with it, and what the next one must find."""

    type: str
    begin: Callable[[Client], None]
    check: Callable[[Client], None]


def begin_uart(guest: Client) -> None:
    guest.region_write(0, IER, b"\x01")
    guest.region_write(0, SCR, b"\x5a")
    for each in b"sent":  # it comes back, as through a plug that connects both wires
        guest.region_write(0, DATA, bytes((each,)))


def check_uart(guest: Client) -> None:
    assert guest.region_read(0, SCR, 1) == b"\x5a"
    with eventfd() as interrupt:
        guest.arm(Irq.INTX, [interrupt])
        assert signals(interrupt) == 1, "received data interrupts, and nobody was there to be told"
        assert guest.region_read(0, IIR, 1)[0] & 0x0F == 0x04
    assert b"".join(guest.region_read(0, DATA, 1) for _ in range(4)) == b"sent"
    assert guest.region_read(0, LSR, 1)[0] & 1 == 0


def begin_checksum(guest: Client) -> None:
    """The device asks for its input, and gets no answer while nobody waits for anything of it."""
    guest.dma_map(0, 4096)
    guest.region_write(Region.CONFIG, 4, b"\x06\0")  # memory, and bus master
    guest.region_write(0, ENABLE, b"\x01\0\0\0")
    guest.region_write(0, SOURCE, bytes(8))
    guest.region_write(0, LENGTH, len(INPUT).to_bytes(4, "little"))
    guest.region_write(0, DOORBELL, b"\x01\0\0\0")


def is_under_way(daemon: RunningDaemon, uuid: UUID) -> bool:
    """Whether a checksum waits for its input."""
    values = {each.name: each.value for each in daemon.control.values(uuid).values}
    return values["regs.status"] == BUSY


def check_checksum(guest: Client) -> None:
    guest.memory = InputRam()
    guest.dma_map(0, 4096)
    with eventfd() as interrupt:
        guest.arm(Irq.INTX, [interrupt])
        eventually(lambda: not guest.region_read(0, STATUS, 4)[0] & BUSY, "the checksum is there")
        assert guest.region_read(0, STATUS, 4)[0] == DONE
        assert guest.region_read(0, RESULT, 4) == crc32(INPUT).to_bytes(4, "little")
        assert signals(interrupt) == 1


def begin_display(guest: Client) -> None:
    guest.region_write(2, XRES, (640).to_bytes(2, "little"))
    with mapped(guest, 0) as video:
        video[1 << 20 : (1 << 20) + len(PICTURE)] = PICTURE


def check_display(guest: Client) -> None:
    assert int.from_bytes(guest.region_read(2, XRES, 2), "little") == 640
    with mapped(guest, 0) as video:
        assert video[1 << 20 : (1 << 20) + len(PICTURE)] == PICTURE
        assert not any(video[: 1 << 20])


SAMPLES = {
    "mtty": Sample("mtty-2", begin_uart, check_uart),
    "crc": Sample("crc-small", begin_checksum, check_checksum),
    "mbochs": Sample("mbochs-small", begin_display, check_display),
}


@contextmanager
def used(daemon: RunningDaemon) -> Iterator[dict[str, UUID]]:
    """One mdev of each sample, in use, as its user left it a moment ago."""
    uuids = {name: daemon.create(each.type) for name, each in SAMPLES.items()}
    guests = {name: daemon.guest(uuid, InputRam()) for name, uuid in uuids.items()}
    try:
        for name, guest in guests.items():
            SAMPLES[name].begin(guest)
        assert is_under_way(daemon, uuids["crc"])
        yield uuids
    finally:
        for guest in guests.values():
            guest.close()


def differs(daemon: RunningDaemon, uuid: UUID, sample: Sample) -> bool:
    """Whether a user of this mdev finds another device than was saved."""
    with daemon.guest(uuid) as guest:
        try:
            sample.check(guest)
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("end", [RunningDaemon.stop, RunningDaemon.kill], ids=["stopped", "killed"])
def test_mdevs_go_on_after_the_end_of_their_daemon(end: Callable[[RunningDaemon], object], tmp_path: Path) -> None:
    with RunningDaemon("mtty", "crc", "mbochs") as daemon:
        with used(daemon) as uuids:
            for name, uuid in uuids.items():
                save(daemon, uuid, tmp_path / name)
            end(daemon)
        daemon.start()
        for name, uuid in uuids.items():
            daemon.create(SAMPLES[name].type, uuid)
            restore(daemon, uuid, tmp_path / name)
        for name, uuid in uuids.items():
            assert is_parked(daemon, uuid)
            with daemon.guest(uuid) as guest:
                SAMPLES[name].check(guest)
            assert not is_parked(daemon, uuid)


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty", "crc", "mbochs") as daemon:
        yield daemon


def test_without_the_state_none_of_them_would_be_as_it_was(daemon: RunningDaemon) -> None:
    """The negative control of the test above."""
    for sample in SAMPLES.values():
        assert differs(daemon, daemon.create(sample.type), sample)


def test_who_uses_an_mdev_notices_nothing_when_it_is_saved(daemon: RunningDaemon, tmp_path: Path) -> None:
    with used(daemon) as uuids:
        for name, uuid in uuids.items():
            save(daemon, uuid, tmp_path / name)
    with daemon.guest(daemon.create("mtty-1")) as guest:
        begin_uart(guest)
        uuid = UUID(next(each.uuid for each in daemon.control.mdevs() if each.client is not None))
        printed = output(daemon, "save", uuid, tmp_path / "uart").splitlines()
        assert [line.partition(":")[0] for line in printed] == ["pass 1", "stopped", f"saved {uuid} to {tmp_path}/uart"]
        assert "downtime" in printed[-1]
        check_uart(guest)
    assert (tmp_path / "uart").stat().st_mode & 0o777 == 0o600


def test_commands_save_and_restore_and_tell_what_is_parked(daemon: RunningDaemon, tmp_path: Path) -> None:
    uuid, file = daemon.create("mtty-1"), tmp_path / "uart"
    with daemon.guest(uuid) as guest:
        begin_uart(guest)
        saved = json.loads(output(daemon, "save", uuid, file, "-o", "json"))
    assert (saved["uuid"], saved["place"]) == (str(uuid), str(file))
    assert saved["bytes"] == file.stat().st_size == saved["rest"] + sum(each["bytes"] for each in saved["passes"])
    assert 0 < saved["downtime"] < saved["seconds"]
    eventually(lambda: daemon.control.mdev(uuid).client is None, "the user is gone")
    assert output(daemon, "restore", uuid, file).startswith(f"restored {uuid} from {file}: {saved['bytes']:,} bytes")
    assert [line.split()[3] for line in output(daemon, "list").splitlines() if str(uuid) in line] == ["parked"]
    assert "it was loaded, and goes on when it is opened" in output(daemon, "show", uuid)
    with daemon.guest(uuid) as guest:
        check_uart(guest)


def test_a_parked_mdev_is_saved_again_as_it_was(daemon: RunningDaemon, tmp_path: Path) -> None:
    uuid, file = daemon.create("crc-small"), tmp_path / "crc"
    with daemon.guest(uuid) as guest:
        begin_checksum(guest)
        save(daemon, uuid, file)
    eventually(lambda: daemon.control.mdev(uuid).client is None, "the user is gone")
    restore(daemon, uuid, file)
    save(daemon, uuid, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()
    with daemon.guest(uuid) as guest:
        check_checksum(guest)


def test_a_parked_mdev_is_removed_and_its_parent_unregistered(tmp_path: Path) -> None:
    with RunningDaemon("mtty") as daemon:
        first, second = daemon.create("mtty-1"), daemon.create("mtty-1")
        with daemon.guest(first) as guest:
            begin_uart(guest)
            save(daemon, first, tmp_path / "uart")
        restore(daemon, second, tmp_path / "uart")
        daemon.control.remove(second, wait=0, force=False)
        assert [each.uuid for each in daemon.control.mdevs()] == [str(first)]
        eventually(lambda: daemon.control.mdev(first).client is None, "the user is gone")
        restore(daemon, first, tmp_path / "uart")
        daemon.control.unregister_parent("mtty")
        assert daemon.control.mdevs() == []
        assert daemon.stop() == 0


def test_what_cannot_be_saved_is_refused_with_the_reason(daemon: RunningDaemon, tmp_path: Path) -> None:
    uuid = daemon.create("mtty-1")
    assert "nobody has it open, so it has no state" in refusal(save, daemon, uuid, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    with daemon.guest(uuid) as guest:
        assert "is no plain file" in refusal(save, daemon, uuid, tmp_path)
        assert "No such file or directory" in refusal(save, daemon, uuid, tmp_path / "none" / "file")
        assert list(tmp_path.iterdir()) == []
        assert guest.region_read(0, LSR, 1) == b"\x60"


class FullDisk(BytesIO):
    """A file on a disk that has no room."""

    @override
    def write(self, _data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def full_disk(fd: int, _mode: str) -> FullDisk:
    os.close(fd)
    return FullDisk()


def test_a_full_disk_ends_a_save_and_nothing_else(
    daemon: RunningDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest:
        begin_uart(guest)
        with monkeypatch.context() as patch:
            patch.setattr("mdev_user.daemon.state_file.os.fdopen", full_disk)
            assert "file: No space left on device" in refusal(save, daemon, uuid, tmp_path / "file")
        assert list(tmp_path.iterdir()) == []
        check_uart(guest)


def test_what_cannot_be_loaded_is_refused_and_the_mdev_stays_free(daemon: RunningDaemon, tmp_path: Path) -> None:
    uuid, other, file = daemon.create("mtty-1"), daemon.create("mtty-2"), tmp_path / "uart"
    with daemon.guest(uuid) as guest:
        begin_uart(guest)
        save(daemon, uuid, file)
        assert f"{uuid} is in use by pid" in refusal(restore, daemon, uuid, file)
    eventually(lambda: daemon.control.mdev(uuid).client is None, "the user is gone")
    good = file.read_bytes()
    done = command(daemon, "restore", other, file)
    assert (done.returncode, done.stdout) == (1, ""), "it is of another type"
    assert done.stderr.startswith(f"mdev-user: {other}: ")
    for name, data in {
        "not ours": b"GIF89a" + good,
        "empty": b"",
        "cut": good[:-1],
        "too long": good + b"\0",
        "changed": good[:-20] + bytes((good[-20] ^ 1,)) + good[-19:],
    }.items():
        (tmp_path / "bad").write_bytes(data)
        assert str(uuid) in refusal(restore, daemon, uuid, tmp_path / "bad"), name
        assert not is_parked(daemon, uuid)
    assert f"mdev-user create TYPE {UUID(int=1)}" in refusal(restore, daemon, UUID(int=1), file)
    assert differs(daemon, uuid, SAMPLES["mtty"])
    restore(daemon, uuid, file)
    assert "holds a state that was loaded" in refusal(restore, daemon, uuid, file)
    with daemon.guest(uuid) as guest:
        check_uart(guest)
