"""An mdev in use: who holds it, what is counted, and what a remove does meanwhile."""

import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from uuid import UUID, uuid4

import pytest

from daemon.support import SECONDS, begin_remove, client_process, eventually, output, removing, shell
from mdev_user.daemon.client import Refused
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.vfio.requests import Irq
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError

BLOCKED = 30
DATA, IER, LSR, SCR = 0, 1, 5, 7


@pytest.mark.fuse
def test_thirty_blocked_removes_delay_nobody() -> None:
    with RunningDaemon("mtty,ports=64") as daemon, ExitStack() as users:
        blocked = [daemon.create("mtty-1") for _ in range(BLOCKED)]
        for each in blocked:
            users.enter_context(daemon.guest(each))
        removers = [begin_remove(daemon, each) for each in blocked]
        eventually(lambda: removing(daemon) == BLOCKED, "all removes have begun")
        began = monotonic()
        types = "class/mdev_bus/mtty/mdev_supported_types"
        assert output(daemon, f"ls {types}; cat {types}/mtty-1/available_instances").split() == [
            "mtty-1",
            "mtty-2",
            str(64 - BLOCKED),
        ]
        other = uuid4()
        output(daemon, f"echo {other} > {types}/mtty-1/create")
        with daemon.guest(other) as guest:
            guest.region_write(0, SCR, b"\x5a")
            assert guest.region_read(0, SCR, 1) == b"\x5a"
        output(daemon, f"ls bus/mdev/devices; echo 1 > bus/mdev/devices/{other}/remove")
        assert output(daemon, f"cat {types}/mtty-2/available_instances") == f"{(64 - BLOCKED) // 2}\n"
        assert monotonic() - began < 5
        assert [each.poll() for each in removers] == [None] * BLOCKED
        users.close()
        assert [each.wait(SECONDS) for each in removers] == [0] * BLOCKED
        assert output(daemon, f"cat {types}/mtty-1/available_instances; ls bus/mdev/devices") == "64\n"


@pytest.mark.fuse
def test_ten_blocked_removes_fill_a_tree_with_libfuses_own_limit() -> None:
    """The negative control of the test above: with libfuse's ten threads the tree stands still."""
    preamble = "import mdev_user.sysfs.mount as m; m.Mount.__init__.__defaults__ = (10,)"
    with RunningDaemon("mtty", preamble=preamble) as daemon, ExitStack() as users:
        blocked = [daemon.create("mtty-1") for _ in range(12)]
        for each in blocked:
            users.enter_context(daemon.guest(each))
        removers = [begin_remove(daemon, each) for each in blocked]
        eventually(lambda: removing(daemon) >= 10, "ten removes have begun")
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(["ls", str(daemon.sys)], timeout=1, capture_output=True, check=False)
        users.close()
        assert [each.wait(SECONDS) for each in removers] == [0] * 12


def test_a_parent_with_an_mdev_in_use_cannot_be_unregistered() -> None:
    with RunningDaemon("mtty") as daemon:
        uuid = daemon.create("mtty-1")
        with client_process(daemon, uuid) as client:
            with pytest.raises(Refused, match=rf"{uuid} is in use by pid {client.pid} \(python.*\(EAGAIN\)"):
                daemon.control.unregister_parent("mtty")
            assert client.read(0, LSR) == 0x60
        eventually(lambda: daemon.control.mdev(uuid).client is None, "the client is gone")
        daemon.control.unregister_parent("mtty")
        assert daemon.control.mdevs() == []


def test_a_remove_of_an_mdev_in_use_names_its_user(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with client_process(daemon, uuid) as client:
        with pytest.raises(Refused, match=rf"in use by pid {client.pid} \(python.* --wait .*\(EBUSY\)"):
            daemon.control.remove(uuid, wait=0, force=False)
        assert daemon.control.mdev(uuid).state == "active"
        assert client.read(0, LSR) == 0x60
    eventually(lambda: daemon.control.mdev(uuid).client is None, "the client is gone")
    daemon.control.remove(uuid, wait=0, force=False)
    assert daemon.control.mdevs() == []


def test_a_remove_that_waits_succeeds_when_the_user_leaves(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(daemon.control.remove, uuid, wait=SECONDS, force=False)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        assert guest.region_read(0, LSR, 1) == b"\x60"
        guest.close()
        waiting.result(SECONDS)
    assert daemon.control.mdevs() == []


def test_a_remove_that_waits_gives_up_in_time(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest:
        began = monotonic()
        still = r"still in use by pid \d+ \(.*\) after 0\.5 s: stop it, or remove with --force \(EBUSY\)"
        with pytest.raises(Refused, match=still):
            daemon.control.remove(uuid, wait=0.5, force=False)
        assert 0.5 <= monotonic() - began < 5
        assert guest.region_read(0, LSR, 1) == b"\x60"


def test_a_forced_remove_disconnects_the_user(daemon: RunningDaemon) -> None:
    uuid, other = daemon.create("mtty-1"), daemon.create("mtty-1")
    with daemon.guest(uuid) as guest, daemon.guest(other) as neighbour:
        daemon.control.remove(uuid, wait=0, force=True)
        with pytest.raises(ConnectionError):
            guest.region_read(0, LSR, 1)
        assert neighbour.region_read(0, LSR, 1) == b"\x60"
    assert [each.uuid for each in daemon.control.mdevs()] == [str(other)]


@pytest.mark.fuse
def test_a_forced_remove_helps_one_that_is_blocked(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid):
        remover = begin_remove(daemon, uuid)
        eventually(lambda: removing(daemon) == 1, "the remove has begun")
        with pytest.raises(Refused, match="in use by pid"):
            daemon.control.remove(uuid, wait=0, force=False)
        daemon.control.remove(uuid, wait=0, force=True)
        assert remover.wait(SECONDS) == 0
    assert daemon.control.mdevs() == []


@pytest.mark.fuse
def test_a_blocked_mdev_keeps_its_uuid_and_serves_its_user(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest:
        remover = begin_remove(daemon, uuid)
        eventually(lambda: removing(daemon) == 1, "the remove has begun")
        assert output(daemon, f"ls devices/virtual/mtty/mtty/{uuid}; ls bus/mdev/devices") == "iommu_group\n"
        assert shell(daemon, f"echo {uuid} > class/mdev_bus/mtty/mdev_supported_types/mtty-1/create").returncode != 0
        assert guest.region_read(0, LSR, 1) == b"\x60"
        with pytest.raises(FileNotFoundError):
            daemon.guest(uuid)
        guest.close()
        assert remover.wait(SECONDS) == 0


def test_a_second_user_is_refused_while_the_first_lives(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as first:
        with pytest.raises(RemoteError, match="refused VERSION"):
            daemon.guest(uuid)
        assert first.region_read(0, LSR, 1) == b"\x60"
    with daemon.guest(uuid) as second:
        assert second.region_read(0, LSR, 1) == b"\x60"


def test_show_names_the_user_and_counts_what_it_does(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    assert daemon.control.mdev(uuid).client is None
    with daemon.guest(uuid) as guest:
        eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            guest.arm(Irq.INTX, [eventfd])
            guest.region_write(0, IER, b"\x01")
            for _ in range(3):
                guest.region_write(0, DATA, b"x")
                assert os.eventfd_read(eventfd) == 1
                assert guest.region_read(0, DATA, 1) == b"x"
                guest.unmask()
            with pytest.raises(RemoteError):
                guest.region_read(5, 0, 1)
        finally:
            os.close(eventfd)
        shown = daemon.control.mdev(uuid)
        assert shown.client is not None
        assert (shown.client.pid, shown.client.uid) == (os.getpid(), os.getuid())
        assert shown.client.name == Path("/proc/self/comm").read_text().strip()
        expected = {"opens": 1, "reads": 3, "writes": 4, "interrupts": 3, "guest_errors": 1}
        assert {name: shown.counters[name] for name in expected} == expected
        assert "region 5" in str(shown.counters["last_guest_error"])
        assert shown.warnings == []
    eventually(lambda: daemon.control.mdev(uuid).client is None, "the user is gone")
    assert daemon.control.mdev(uuid).last_disconnect == "the client went away"


def test_memory_that_is_not_shared_is_warned_of(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest:
        guest.dma_map(0, 8 << 20)
        assert daemon.control.mdev(uuid).warnings == []
        guest.dma_map(1 << 30, 512 << 20)
        assert "512 MiB of the guest's memory is not shared" in daemon.control.mdev(uuid).warnings[0]


SENT = [bytes((7 * n + 1) % 128 for n in range(2000)), bytes((5 * n + 3) % 128 + 128 for n in range(2000))]


def exchange(daemon: RunningDaemon) -> list[bytes]:
    """Two users of one parent send at the same time; what comes back to each."""
    pair = [daemon.create("mtty-1"), daemon.create("mtty-2")]
    came: dict[int, bytes] = {}
    together = threading.Barrier(2)

    def loop(number: int, guest: Client) -> None:
        together.wait(SECONDS)
        back = bytearray()
        for start in range(0, 2000, 16):
            for value in SENT[number][start : start + 16]:
                guest.region_write(0, DATA, bytes((value,)))
            while guest.region_read(0, LSR, 1)[0] & 1:
                back += guest.region_read(0, DATA, 1)
        came[number] = bytes(back)

    with daemon.guest(pair[0]) as one, daemon.guest(pair[1]) as two:
        threads = [threading.Thread(target=loop, args=each) for each in enumerate((one, two))]
        for each in threads:
            each.start()
        for each in threads:
            each.join(SECONDS)
    return [came[0], came[1]]


def test_two_mdevs_of_one_parent_never_see_each_others_bytes(daemon: RunningDaemon) -> None:
    assert exchange(daemon) == SENT


SHARED = """
from mdev_user.drivers import mtty
class Shared(mtty.Mtty):
    driver_name = "mtty"
    def create(self, mdev):
        device = super().create(mdev)
        self.first = getattr(self, "first", device)
        device._reads, device._writes = self.first._reads, self.first._writes
        return device
"""


def test_mdevs_that_share_a_port_would_see_each_others_bytes(tmp_path: Path) -> None:
    """The negative control of the test above."""
    file = tmp_path / "shared.py"
    file.write_text(SHARED)
    with RunningDaemon(f"{file}:Shared") as daemon:
        assert exchange(daemon) != SENT


LEAKY = """
from mdev_user.driver import Device
from mdev_user.drivers import mtty
class Leaky(mtty.Mtty):
    driver_name = "mtty"
Device._reset = lambda self, kind: None
"""


def old_byte(daemon: RunningDaemon, uuid: UUID) -> tuple[int, int]:
    """Leave bytes behind in the port, open it again, and return what its scratch register and its FIFO say."""
    with daemon.guest(uuid) as guest:
        guest.region_write(0, SCR, b"\xa5")
        guest.region_write(0, DATA, b"s")
    with daemon.guest(uuid) as guest:
        return guest.region_read(0, SCR, 1)[0], guest.region_read(0, DATA, 1)[0]


def test_the_next_user_sees_no_byte_of_the_last(daemon: RunningDaemon) -> None:
    assert old_byte(daemon, daemon.create("mtty-1")) == (0, 0)


def test_without_the_reset_at_open_the_old_bytes_are_seen(tmp_path: Path) -> None:
    """The negative control of the test above."""
    file = tmp_path / "leaky.py"
    file.write_text(LEAKY)
    with RunningDaemon(f"{file}:Leaky") as daemon:
        assert old_byte(daemon, daemon.create("mtty-1")) == (0xA5, ord("s"))
