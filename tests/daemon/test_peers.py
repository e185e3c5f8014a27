"""A hostile client costs one thread of its host and nothing else: neighbours work on, and a remove waits for nobody."""

import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, perf_counter
from uuid import UUID

import pytest

from daemon.support import SECONDS, eventually, open_files, resident_kib
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import HEADER, NO_REPLY, Command, command_message
from mdev_user.vfio_user.version import Version

LSR = 5
READ = command_message(1, Command.REGION_READ, struct.pack("=QII", 7, 0, 1))
POSTED = HEADER.pack(2, Command.REGION_WRITE, HEADER.size + 17, NO_REPLY, 0) + struct.pack("=QII", 7, 0, 1) + b"x"
ACCESSES = 300
LONGEST = 1.0
"""Seconds that no access of a neighbour takes: it takes 50 µs, but this machine may be busy with other things."""


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[RunningDaemon]:
    """Two hosts: the hostile client's, in which it has neighbours, and another one."""
    with RunningDaemon("mtty,host=one,name=near", "mtty,host=two,name=far") as daemon:
        yield daemon


def threads(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


class Hostile:
    """A client of an mdev that does one thing, in a thread, until it is disconnected."""

    def __init__(self, path: Path, attack: Callable[[socket.socket], None], *, greets: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS)
        self.socket.connect(str(path))
        if greets:
            self.socket.sendall(command_message(1, Command.VERSION, Version().encode()))
            assert self.socket.recv(4096)
        self._attack = attack
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            self._attack(self.socket)

    def wait(self) -> None:
        """Until the other end is closed; that must not take long."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "it was not disconnected"
        self.socket.close()


def half_a_header(sock: socket.socket) -> None:
    sock.sendall(READ[:7])
    assert not sock.recv(1)


def byte_by_byte(sock: socket.socket) -> None:
    while True:
        for at in range(len(READ)):
            sock.sendall(READ[at : at + 1])
        if not sock.recv(100):
            return


def never_reads(sock: socket.socket) -> None:
    while True:
        sock.sendall(READ * 100)


def posts_without_end(sock: socket.socket) -> None:
    while True:
        sock.sendall(POSTED * 100)


@pytest.mark.parametrize("attack", [half_a_header, byte_by_byte, never_reads, posts_without_end])
def test_it_costs_one_thread_and_nothing_else(daemon: RunningDaemon, attack: Callable[[socket.socket], None]) -> None:
    evil, near = (daemon.create("mtty-1", parent="near") for _ in range(2))
    far = daemon.create("mtty-1", parent="far")
    pid = daemon.host_pids()["near"]
    with daemon.guest(near) as neighbour, daemon.guest(far) as other:
        work(neighbour)
        before = threads(pid), open_files(pid), resident_kib(pid)
        hostile = Hostile(daemon.run_dir.socket(evil), attack)
        for guest in (neighbour, other, neighbour):
            assert work(guest) < LONGEST
        assert threads(pid) <= before[0] + 1
        assert open_files(pid) <= before[1] + 4
        assert resident_kib(pid) - before[2] < 8 << 10
        began = monotonic()
        daemon.control.remove(evil, wait=0, force=True)
        assert monotonic() - began < 5, "a remove waits for nobody hostile"
        hostile.wait()
        assert work(neighbour) < LONGEST
    assert daemon.host_pids()["near"] == pid


def work(guest: Client) -> float:
    """The longest of some accesses, in seconds."""
    longest = 0.0
    for _ in range(ACCESSES):
        began = perf_counter()
        assert guest.region_read(0, LSR, 1) == b"\x60"
        longest = max(longest, perf_counter() - began)
    return longest


def test_a_stuck_driver_would_be_seen(tmp_path: Path) -> None:
    """The negative control: where a step of one mdev kept the whole host waiting, its neighbour would notice."""
    file = tmp_path / "greedy.py"
    file.write_text(
        "import sys\nfrom time import perf_counter\n"
        "from mdev_user.drivers import mtty\nfrom mdev_user.driver import Device\n"
        'class Greedy(mtty.Mtty):\n    driver_name = "mtty"\n'
        "write = Device.write\n"
        "def slow(self, region, offset, data):\n"
        "    sys.setswitchinterval(100)\n    end = perf_counter() + 1.5\n"
        "    while perf_counter() < end:\n        pass\n"
        "    return write(self, region, offset, data)\n"
        "Device.write = slow\n"
    )
    with RunningDaemon(f"{file}:Greedy") as daemon:
        evil, near = daemon.create("mtty-1"), daemon.create("mtty-1")
        with daemon.guest(near) as neighbour, daemon.guest(evil) as guest:
            busy = threading.Thread(target=lambda: guest.region_write(0, 7, b"x"))
            busy.start()
            longest = max(work(neighbour) for _ in range(3))
            busy.join()
    assert longest > LONGEST


def test_who_connects_without_end_is_told_once_in_a_while(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1", parent="near")
    before = len(daemon.log)
    with daemon.guest(uuid) as user:
        for _ in range(200):
            with suppress(OSError), daemon.guest(uuid):
                pass
        assert work(user) < LONGEST
    lines = [each for each in daemon.log[before:].splitlines() if str(uuid) in each]
    assert sum("refused" in each for each in lines) < 30
    assert len(lines) > 10
    eventually(lambda: mentions_what_was_left_out(daemon, uuid), "the number of lines that were left out is told")


def mentions_what_was_left_out(daemon: RunningDaemon, uuid: UUID) -> bool:
    with suppress(OSError), daemon.guest(uuid):
        pass
    return f"lines of mdev {uuid} were left out" in daemon.log


def test_churn_of_a_guests_iommu_leaves_nothing_in_the_host(daemon: RunningDaemon) -> None:
    """256 mappings of 4 KiB, each with a file descriptor of its own, mapped and unmapped again and again."""
    uuid = daemon.create("mtty-1", parent="near")
    pid = daemon.host_pids()["near"]
    ram = os.memfd_create("ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(ram, 1 << 20)
    fcntl.fcntl(ram, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with daemon.guest(uuid) as guest:
        churn(guest, ram, 2)
        before = open_files(pid), mapped(pid), resident_kib(pid)
        churn(guest, ram, 8)
        assert (open_files(pid), mapped(pid)) == before[:2]
        assert resident_kib(pid) - before[2] < 2 << 10
    os.close(ram)


def churn(guest: Client, ram: int, rounds: int) -> None:
    for _ in range(rounds):
        for page in range(256):
            own = os.open(f"/proc/self/fd/{ram}", os.O_RDWR)
            guest.dma_map(page << 12, 4096, own, offset=page << 12)
            os.close(own)
        for page in range(256):
            guest.dma_unmap(page << 12, 4096)


def mapped(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:ram")


@pytest.mark.fuse
def test_the_owner_that_chown_in_sysfs_sets_is_who_may_come(daemon: RunningDaemon) -> None:
    """The folder of the mdev is its owner's; `tests/unit/host/test_door.py` shows who is refused."""
    uuid = daemon.create("mtty-1", parent="near")
    os.chown(daemon.sys / "devices/virtual/mtty/near" / str(uuid), 65532, 65532)
    assert daemon.run_dir.mdev(uuid).stat().st_uid == 65532
    with daemon.guest(uuid) as root:
        assert work(root) < LONGEST
