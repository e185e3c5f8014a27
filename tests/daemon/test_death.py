"""Sudden death: of a client, of a host, of the daemon. Nobody else notices, and nothing is left."""

import os
import signal
import socket
from math import log2
from pathlib import Path
from time import monotonic, sleep
from uuid import UUID, uuid4

import pytest

from daemon.support import (
    PARENTS,
    SECONDS,
    alive,
    begin_remove,
    client_process,
    eventually,
    output,
    processes_of,
    removing,
)
from mdev_user.daemon.client import Refused
from mdev_user.daemon.run_dir import mounts_below
from mdev_user.daemon.views import ParentView
from mdev_user.testing.daemon import DaemonFailed, RunningDaemon
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError

DATA, LSR, SCR = 0, 5, 7
TWO = ("mtty,name=one", "mtty,name=two")
FAULTY = f"{PARENTS}/faulty.py:Faulty"


def parent(daemon: RunningDaemon, name: str) -> ParentView:
    return next(each for each in daemon.control.status().parents if each.name == name)


def is_registered(daemon: RunningDaemon, name: str) -> bool:
    return parent(daemon, name).state == "registered"


def nothing_is_left(daemon: RunningDaemon) -> None:
    """Of a daemon that ended cleanly: no process, no mount, no socket."""
    eventually(lambda: not processes_of(daemon), "every process is gone")
    assert mounts_below(Path(os.path.realpath(daemon.folder))) == []
    assert [each for each in daemon.run_dir.path.rglob("*") if each.is_socket()] == []
    assert list(daemon.run_dir.devices.iterdir()) == []


def plant_socket(daemon: RunningDaemon, uuid: UUID) -> None:
    """What a daemon leaves behind that was killed with its hosts."""
    daemon.run_dir.mdev(uuid).mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(daemon.run_dir.socket(uuid)))


# --- a client ------------------------------------------------------------------------------------------------


def test_the_mdev_of_a_killed_client_is_free_within_a_second_and_clean(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with client_process(daemon, uuid) as client:
        client.write(0, SCR, 0xA5)
        client.write(0, DATA, ord("s"))
        with pytest.raises(RemoteError, match="refused VERSION"):
            daemon.guest(uuid)
        client.kill()
        killed = monotonic()
        with daemon.guest(uuid) as guest:
            assert (guest.region_read(0, SCR, 1), guest.region_read(0, DATA, 1)) == (b"\0", b"\0")
            assert monotonic() - killed < 1
            shown = daemon.control.mdev(uuid)
            assert shown.counters["opens"] == 2
            assert shown.client is not None
            assert shown.client.pid == os.getpid()


def test_a_client_that_is_only_stopped_keeps_its_mdev(daemon: RunningDaemon) -> None:
    """The negative control of the test above: what frees the mdev is the client's death."""
    uuid = daemon.create("mtty-1")
    with client_process(daemon, uuid) as client:
        client.process.send_signal(signal.SIGSTOP)
        sleep(0.5)
        with pytest.raises(RemoteError, match="refused VERSION"):
            daemon.guest(uuid)
        assert daemon.control.mdev(uuid).client is not None


# --- a host --------------------------------------------------------------------------------------------------


class Reader:
    """A guest that uses its UART all the time and notes the longest time that an access took."""

    def __init__(self, guest: Client) -> None:
        self._guest = guest
        self.slowest = 0.0
        self.accesses = 0

    def loop(self, seconds: float) -> None:
        end = monotonic() + seconds
        while monotonic() < end:
            began = monotonic()
            value = bytes((self.accesses % 251,))
            self._guest.region_write(0, SCR, value)
            assert self._guest.region_read(0, SCR, 1) == value
            self.slowest = max(self.slowest, monotonic() - began)
            self.accesses += 1


@pytest.mark.fuse
def test_a_killed_host_takes_its_own_mdevs_only() -> None:
    with RunningDaemon(*TWO) as daemon:
        doomed, kept = daemon.create("mtty-1", parent="one"), daemon.create("mtty-1", parent="two")
        hosts = daemon.host_pids()
        with daemon.guest(kept) as guest, daemon.guest(doomed) as victim:
            reader = Reader(guest)
            reader.loop(0.2)
            os.kill(hosts["one"], signal.SIGKILL)
            reader.loop(1.5)
            assert reader.accesses > 100
            assert reader.slowest < 1
            with pytest.raises(ConnectionError):
                victim.region_read(0, SCR, 1)
            eventually(lambda: is_registered(daemon, "one"), "the killed host's parent is back")
            assert output(daemon, "ls bus/mdev/devices").split() == [str(kept)]
            assert not daemon.run_dir.mdev(doomed).exists()
            assert daemon.host_pids()["two"] == hosts["two"]
            shown = parent(daemon, "one")
            assert (shown.restarts, shown.mdevs) == (1, 0)
            assert shown.reason == f"its host (pid {hosts['one']}) was killed by signal 9"
            assert shown.host_pid != hosts["one"]
            # The same UUID can be made again, and works.
            output(daemon, f"echo {doomed} > class/mdev_bus/one/mdev_supported_types/mtty-1/create")
            with daemon.guest(doomed) as again:
                assert again.region_read(0, LSR, 1) == b"\x60"
            reader.loop(0.1)
        assert daemon.stop() == 0
        nothing_is_left(daemon)


def test_parents_that_share_a_host_die_together() -> None:
    """The negative control of the test above: it is the process of its own that saves the neighbour."""
    with RunningDaemon("mtty,name=one,host=both", "mtty,name=two,host=both") as daemon:
        kept = daemon.create("mtty-1", parent="two")
        hosts = daemon.host_pids()
        assert hosts["one"] == hosts["two"]
        with daemon.guest(kept) as guest:
            os.kill(hosts["one"], signal.SIGKILL)
            with pytest.raises(ConnectionError):
                Reader(guest).loop(SECONDS)
        eventually(lambda: not daemon.control.mdevs(), "its mdev is gone with the host")
        eventually(lambda: is_registered(daemon, "one") and is_registered(daemon, "two"), "both are back")


@pytest.mark.fuse
def test_a_host_that_does_not_even_run_delays_no_others() -> None:
    with RunningDaemon(*TWO) as daemon:
        stuck = [daemon.create("mtty-1", parent="one") for _ in range(3)]
        daemon.create("mtty-1", parent="two")
        pid = daemon.host_pids()["one"]
        os.kill(pid, signal.SIGSTOP)
        began = monotonic()
        assert len(daemon.control.mdevs()) == 4
        assert len(daemon.control.types()) == 4
        assert daemon.control.mdev(stuck[0]).state == "active"
        with pytest.raises(Refused, match=rf"host one \(pid {pid}\) does not answer Inspect.*ETIMEDOUT"):
            daemon.control.remove(stuck[0], wait=0, force=False)
        assert output(daemon, "cat class/mdev_bus/two/mdev_supported_types/mtty-1/available_instances") == "23\n"
        assert monotonic() - began < 5
        os.kill(pid, signal.SIGCONT)
        eventually(lambda: daemon.control.types()[0].available_instances == 21, "it answers again")
        daemon.control.remove(stuck[0], wait=0, force=False)


@pytest.mark.fuse
def test_calls_into_a_host_that_dies_end_in_enodev() -> None:
    with RunningDaemon("mtty", f"{FAULTY},name=other") as daemon:
        uuid = daemon.create("faulty-device")
        with daemon.guest(uuid):
            remover = begin_remove(daemon, uuid)
            eventually(lambda: removing(daemon) == 1, "the remove has begun")
            os.kill(daemon.host_pids()["other"], signal.SIGKILL)
            assert remover.wait(SECONDS) == 0  # removed it is
        eventually(lambda: daemon.control.mdevs() == [], "the mdev is gone")


def test_a_driver_that_ends_its_process_answers_enodev(tmp_path: Path) -> None:
    with RunningDaemon("mtty", f"{FAULTY},name=other") as daemon:
        uuid = daemon.create("faulty-device")
        with daemon.guest(uuid) as guest, pytest.raises(ConnectionError):
            guest.region_read(0, 0x50, 4)
        eventually(lambda: parent(daemon, "other").restarts == 1, "the host is started again")
        assert "exited with status 3" in parent(daemon, "other").reason
        with pytest.raises(Refused, match="ENODEV"):
            daemon.control.mdev(uuid)


def test_the_policy_never_leaves_a_dead_host_dead(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('restart = "never"\n[[parent]]\ndriver = "mtty"\n')
    with RunningDaemon(config=config) as daemon:
        pid = daemon.host_pids()["mtty"]
        uuid = daemon.create("mtty-1")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: parent(daemon, "mtty").state == "failed", "the parent has failed")
        sleep(0.5)  # longer than the first pause before a restart
        shown = parent(daemon, "mtty")
        assert (shown.state, shown.restarts, shown.host_pid) == ("failed", 0, None)
        assert shown.reason == f"its host (pid {pid}) was killed by signal 9"
        assert daemon.control.mdevs() == []
        assert daemon.control.types() == []
        with pytest.raises(Refused):
            daemon.create("mtty-1", uuid)
        # An operator can bring it back by hand.
        daemon.control.unregister_parent("mtty")
        daemon.control.register_parent("mtty")
        daemon.create("mtty-1", uuid)


def test_a_host_that_dies_again_and_again_is_started_ever_more_rarely(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with RunningDaemon("mtty", f"{FAULTY},name=dying,dies_after={marker}") as daemon:
        kept = daemon.create("mtty-1")
        with daemon.guest(kept) as guest:
            os.kill(daemon.host_pids()["dying"], signal.SIGKILL)
            began = monotonic()
            Reader(guest).loop(4)
            eventually(lambda: len(marker.read_text().splitlines()) >= 2, "it is tried again")
        shown = parent(daemon, "dying")
        # Pauses of 0.2, 0.4, 0.8, 1.6 ... seconds, whatever the attempts take: five in four seconds are one too many.
        attempts = len(marker.read_text().splitlines())
        assert attempts <= 1 + log2((monotonic() - began) / 0.2 + 1)
        assert shown.state == "restarting"
        assert "exited with status 4" in shown.reason
        assert "mtty" in daemon.host_pids()
        marker.unlink()
        eventually(lambda: is_registered(daemon, "dying"), "it comes back when it can")
        assert daemon.stop() == 0
        nothing_is_left(daemon)


def test_a_parent_that_cannot_come_back_does_not_keep_its_hosts_others_down(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text((PARENTS / "faulty.py").read_text())
    with RunningDaemon(f"{broken}:Faulty,name=first,host=both", "mtty,host=both") as daemon:
        broken.write_text("raise ImportError('it was edited')\n")
        os.kill(daemon.host_pids()["mtty"], signal.SIGKILL)
        eventually(lambda: parent(daemon, "mtty").restarts == 1 and is_registered(daemon, "mtty"), "mtty is back")
        eventually(lambda: "it was edited" in parent(daemon, "first").reason, "the reason is told")
        assert parent(daemon, "first").state == "restarting"
        daemon.control.unregister_parent("first")
        assert [each.name for each in daemon.control.status().parents] == ["mtty"]


# --- the daemon ----------------------------------------------------------------------------------------------


@pytest.mark.fuse
def test_after_kill_9_of_the_daemon_the_next_serve_starts_as_if_nothing_had_been() -> None:
    with RunningDaemon(*TWO) as daemon:
        uuid = daemon.create("mtty-1", parent="one")
        daemon.create("mtty-1", parent="two")
        with daemon.guest(uuid) as guest:
            hosts = daemon.host_pids().values()
            assert len(processes_of(daemon)) == 3
            daemon.kill()
            eventually(lambda: not any(map(alive, hosts)), "no host is left")
            assert processes_of(daemon) == []
            with pytest.raises(ConnectionError):
                guest.region_read(0, SCR, 1)
        assert mounts_below(Path(os.path.realpath(daemon.folder))) != []  # the stale mount that the next one meets
        plant_socket(daemon, uuid4())  # a host may have been quick enough to take its own away
        daemon.start()
        assert output(daemon, "ls bus/mdev/devices") == ""
        assert list(daemon.run_dir.devices.iterdir()) == []
        daemon.create("mtty-1", uuid, parent="two")
        with daemon.guest(uuid) as guest:
            assert guest.region_read(0, LSR, 1) == b"\x60"
        assert daemon.stop() == 0
        nothing_is_left(daemon)


@pytest.mark.fuse
def test_without_the_clean_up_the_next_serve_would_have_no_tree() -> None:
    """The negative control of the test above."""
    preamble = "import mdev_user.sysfs.mountpoint as place; place.detach_stale = lambda mountpoint: False"
    with RunningDaemon("mtty", preamble=preamble) as daemon:
        daemon.kill()
        try:
            daemon.start()
        except DaemonFailed:
            return
        assert daemon.control.status().sysfs is None


IMMORTAL = """
import mdev_user.host.remote as remote
host = "import os, time, mdev_user.host.__main__ as m; m._end_with_the_front = lambda: None; "
host += "os._exit = lambda status: time.sleep(60); m.main()"
spawn = remote._spawn
remote._spawn = lambda command, fd: spawn([command[0], "-c", host, *command[-3:]], fd)
"""


def test_a_host_that_outlives_the_daemon_would_be_seen() -> None:
    """The negative control of those above: a host without what ends it with the front."""
    with RunningDaemon("mtty", preamble=IMMORTAL) as daemon:
        (host,) = daemon.host_pids().values()
        daemon.kill()
        sleep(2.5)
        assert alive(host)
        assert host in processes_of(daemon)
        os.kill(host, signal.SIGKILL)
        eventually(lambda: not alive(host), "it is gone")


@pytest.mark.fuse
@pytest.mark.parametrize("how", [0x30, 0x40], ids=["sleeps", "loops"])
def test_after_kill_9_of_the_daemon_a_stuck_host_is_gone_too(how: int) -> None:
    with RunningDaemon(FAULTY) as daemon:
        uuid = daemon.create("faulty-device")
        with daemon.guest(uuid, timeout=0.3) as guest:
            with pytest.raises(TimeoutError):
                guest.region_read(0, how, 4)
            (host,) = daemon.host_pids().values()
            daemon.kill()
            eventually(lambda: not alive(host), "the stuck host is gone")
        daemon.start()
        daemon.create("faulty-device", uuid)
        assert daemon.stop() == 0


def test_a_second_daemon_does_not_touch_the_firsts_run_directory() -> None:
    """The negative control of the clean start: only what is dead is cleaned up."""
    with RunningDaemon("mtty") as daemon:
        uuid = daemon.create("mtty-1")
        first = daemon.process
        with pytest.raises(DaemonFailed, match=f"in use by the daemon with pid {first.pid}"):
            daemon.start()
        daemon._process = first
        with daemon.guest(uuid) as guest:
            assert guest.region_read(0, LSR, 1) == b"\x60"


# --- a clean end ---------------------------------------------------------------------------------------------


@pytest.mark.fuse
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_cleanly_while_removes_are_blocked_and_clients_connected(number: signal.Signals) -> None:
    with RunningDaemon(*TWO) as daemon:
        mdevs = [daemon.create("mtty-1", parent=each) for each in ("one", "two") for _ in range(3)]
        guests = [daemon.guest(each) for each in mdevs]
        removers = [begin_remove(daemon, each) for each in mdevs[:3]]
        eventually(lambda: removing(daemon) == 3, "removes have begun")
        began = monotonic()
        assert daemon.stop(number) == 0
        assert monotonic() - began < 5
        nothing_is_left(daemon)
        for remover in removers:
            remover.wait(SECONDS)
        for guest in guests:
            with pytest.raises(ConnectionError):
                guest.region_read(0, SCR, 1)
            guest.close()
        assert "Traceback" not in daemon.log


@pytest.mark.fuse
@pytest.mark.parametrize("how", [0x30, 0x40], ids=["sleeps", "loops"])
def test_a_stuck_driver_does_not_hold_up_the_end(how: int) -> None:
    with RunningDaemon(FAULTY, "mtty") as daemon:
        stuck, other = daemon.create("faulty-device"), daemon.create("mtty-1")
        with daemon.guest(stuck, timeout=0.3) as guest, daemon.guest(other):
            with pytest.raises(TimeoutError):
                guest.region_read(0, how, 4)
            began = monotonic()
            assert daemon.stop() == 0
            assert monotonic() - began < 5
        nothing_is_left(daemon)


@pytest.mark.fuse
def test_a_host_that_does_not_even_run_does_not_hold_up_the_end() -> None:
    with RunningDaemon(*TWO) as daemon:
        daemon.create("mtty-1", parent="one")
        for pid in daemon.host_pids().values():
            os.kill(pid, signal.SIGSTOP)
        began = monotonic()
        assert daemon.stop() == 0
        assert monotonic() - began < 6
        nothing_is_left(daemon)


def test_the_end_of_a_whole_process_group_is_clean_too() -> None:
    """As systemd ends a service: every process gets the signal."""
    with RunningDaemon(*TWO) as daemon:
        daemon.create("mtty-1", uuid4(), parent="one")
        for pid in daemon.host_pids().values():
            os.kill(pid, signal.SIGTERM)
        assert daemon.stop() == 0
        nothing_is_left(daemon)
