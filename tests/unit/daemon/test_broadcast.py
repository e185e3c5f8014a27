"""Uevents sent on: what listeners know in the end is what is there, whatever was lost on the way."""

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event as Flag
from threading import Thread
from threading import enumerate as threads
from time import monotonic

import pytest

from mdev_user.daemon import broadcast as module
from mdev_user.daemon import control
from mdev_user.daemon.broadcast import broadcast
from mdev_user.daemon.client import Client, NoDaemon, Refused
from mdev_user.daemon.control import ControlServer
from mdev_user.daemon.events import EventLog
from mdev_user.daemon.run_dir import RunDir
from mdev_user.mdev.bus import Bus
from mdev_user.sysfs.netlink import NotPermitted
from mdev_user.sysfs.present import Present
from unit.daemon.fake_operations import FakeOperations, served
from unit.sysfs.scene import PATIENCE, Driver, Mtty, until, uuid_of

Told = list[tuple[str, str]]


class Listener:
    """A sender whose only listener keeps what it hears; it can be slow, or lack memory."""

    def __init__(self) -> None:
        self.told: Told = []
        self.failures = 0
        self.error: Exception = OSError(errno.ENOBUFS, "No buffer space available")
        self.going = Flag()
        self.going.set()

    def send(self, message: bytes) -> None:
        assert self.going.wait(PATIENCE)
        if self.failures:
            self.failures -= 1
            raise self.error
        lines = dict(line.partition("=")[::2] for line in message[40:].decode().split("\0") if line)
        assert int(lines["SEQNUM"]) > 0  # libudev drops a message that has none
        self.told.append((lines["ACTION"], lines["DEVPATH"]))

    def mdevs(self) -> set[str]:
        """Those there are, as far as it was told: each must have been told of before it could go."""
        there: set[str] = set()
        for action, path in self.told:
            if path.count("/") == 5 and action in {"add", "remove"}:
                assert (path in there) is (action == "remove"), (action, path)
                there ^= {path}
        return there


class Daemon:
    """A bus whose uevents a control socket serves; `restart` serves another one there."""

    def __init__(self, kept: int = 100) -> None:
        self.kept = kept
        self.operations = FakeOperations()
        self.new_bus()

    def new_bus(self) -> None:
        self.operations.log = EventLog(self.kept)
        self.bus = Bus()
        self.bus.register_driver(Driver())
        self.bus.subscribe(self.operations.log.on_event)
        self.parent = self.bus.register_parent("mtty", Mtty(ports=10**6))

    def create(self, *numbers: int) -> None:
        for number in numbers:
            self.bus.create(self.parent, "mtty-1", uuid_of(number))

    def remove(self, *numbers: int) -> None:
        for number in numbers:
            self.bus.remove(uuid_of(number))

    def mdevs(self) -> set[str]:
        return {path(each.uuid.int) for each in self.bus.mdevs()}


def path(number: int) -> str:
    return f"/devices/virtual/mtty/mtty/{uuid_of(number)}"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.02)
    monkeypatch.setattr(module, "END_SECONDS", 0.2)
    monkeypatch.setattr(control, "FOLLOW_SECONDS", 0.05)


@contextmanager
def broadcasting(run_dir: RunDir, listener: Listener) -> Iterator[None]:
    """In a thread; on leaving, it must end within a second of being asked."""
    until_end, end = os.pipe()
    ready = Flag()
    thread = Thread(target=broadcast, args=(Client(run_dir), listener, until_end, ready.set))
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield
    finally:
        os.close(end)
        thread.join(1)
        os.close(until_end)
    assert not thread.is_alive()
    assert "broadcast" not in {each.name for each in threads()}


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


def following(daemon: Daemon) -> bool:
    return bool(daemon.operations.log._changed._waiters)  # type: ignore[attr-defined]  # of Condition, undocumented


@contextmanager
def scene(daemon: Daemon) -> Iterator[Listener]:
    """A listener that is told what happens from now on."""
    listener = Listener()
    with served(daemon.operations) as run_dir, broadcasting(run_dir, listener):
        yield listener


def test_listeners_are_told_what_happens_and_not_what_was_there(daemon: Daemon) -> None:
    daemon.create(1)
    with scene(daemon) as listener:
        daemon.create(2)
        daemon.remove(1)
        until(lambda: ("remove", path(1)) in listener.told)
        assert ("bind", path(2)) in listener.told
        assert ("add", path(1)) not in listener.told
        assert listener.told[0] == ("add", path(2))


def behind(daemon: Daemon, listener: Listener) -> None:
    """While a message is on its way more happens than sockets hold, then what counts, then more than the log keeps."""
    daemon.create(*range(1, 11))
    until(lambda: ("bind", path(10)) in listener.told)
    listener.going.clear()
    come_and_go(daemon)
    daemon.remove(*range(1, 6))
    daemon.create(*range(11, 21), 1, 2)
    come_and_go(daemon)
    listener.going.set()


def come_and_go(daemon: Daemon) -> None:
    for _ in range(400):
        daemon.create(90)
        daemon.remove(90)


def test_a_listener_that_fell_behind_ends_with_what_is_there(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    with scene(daemon) as listener:
        behind(daemon, listener)
        until(lambda: listener.mdevs() == daemon.mdevs())
        assert "fell behind the daemon" in caplog.text
        assert len(listener.mdevs()) == 17
        until(lambda: goes_on(daemon, listener))


def goes_on(daemon: Daemon, listener: Listener) -> bool:
    """Whether what comes is told."""
    daemon.create(100 + len(daemon.mdevs()))
    action, devpath = listener.told[-1]
    return action == "bind" and devpath >= path(100)


def test_without_the_snapshot_it_would_not(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: nothing is told of what was lost."""
    monkeypatch.setattr(Present, "changes_to", lambda _self, _other: iter(()))
    with scene(daemon) as listener:
        behind(daemon, listener)
        until(lambda: goes_on(daemon, listener))
        added = {path for action, path in listener.told if action == "add" and path.count("/") == 5}
        assert path(11) in daemon.mdevs() - added


def test_no_memory_for_a_message_loses_nothing_in_the_end(daemon: Daemon) -> None:
    with scene(daemon) as listener:
        listener.failures = 3
        daemon.create(1, 2, 3)
        until(lambda: listener.mdevs() == daemon.mdevs())
        assert listener.failures == 0


def create_when_followed(daemon: Daemon) -> None:
    until(lambda: following(daemon))
    daemon.create(1)


def test_who_may_not_send_is_told_so(daemon: Daemon) -> None:
    listener = Listener()
    listener.failures, listener.error = 1, NotPermitted("sending uevents takes CAP_NET_ADMIN")
    read, write = os.pipe()
    with served(daemon.operations) as run_dir:
        creating = Thread(target=create_when_followed, args=(daemon,))
        creating.start()
        with pytest.raises(NotPermitted):
            broadcast(Client(run_dir), listener, read)
        creating.join()
    os.close(read)
    os.close(write)


def test_a_daemon_that_was_started_anew_has_new_devices(daemon: Daemon) -> None:
    daemon.create(1, 2)
    with served(daemon.operations) as run_dir:
        first = ControlServer(daemon.operations, run_dir.path / "s")
        at = RunDir(run_dir.path)
        at.control = run_dir.path / "s"
        first.start()
        listener = Listener()
        with broadcasting(at, listener):
            daemon.create(3)
            until(lambda: ("bind", path(3)) in listener.told)
            first.stop()
            until(lambda: ("remove", "/bus/mdev/drivers/mtty") in listener.told)  # gone with the daemon
            assert [each for action, each in listener.told if action == "remove" and each.endswith(("1", "2", "3"))]
            before = len(listener.told)
            daemon.new_bus()
            daemon.create(2, 4)
            second = ControlServer(daemon.operations, at.control)
            second.start()
            until(lambda: ("add", path(4)) in listener.told)
            second.stop()
            assert ("add", path(2)) in listener.told[before:]


def test_where_there_is_no_daemon_it_ends_with_that() -> None:
    read, write = os.pipe()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, pytest.raises(NoDaemon, match="no daemon at"):
        broadcast(Client(RunDir(folder)), Listener(), read)
    os.close(read)
    os.close(write)


def test_a_daemon_that_does_not_answer_does_not_keep_it_from_ending() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as silent:
        run_dir = RunDir(folder)
        silent.bind(str(run_dir.control))
        silent.listen()
        read, write = os.pipe()
        os.close(write)
        began = monotonic()
        broadcast(Client(run_dir), Listener(), read)
        assert monotonic() - began < PATIENCE / 2
        os.close(read)


def test_another_programs_answer_ends_it(monkeypatch: pytest.MonkeyPatch, daemon: Daemon) -> None:
    read, write = os.pipe()
    with served(daemon.operations) as run_dir:
        monkeypatch.setattr(daemon.operations, "snapshot", lambda: [1, 2])
        with pytest.raises(Refused, match="does not speak mdev-user's control API"):
            broadcast(Client(run_dir), Listener(), read)
    os.close(read)
    os.close(write)


def test_it_ends_when_the_process_of_a_pidfd_does(daemon: Daemon) -> None:
    with served(daemon.operations) as run_dir, subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as child:
        descriptor = os.pidfd_open(child.pid)
        thread = Thread(target=broadcast, args=(Client(run_dir), Listener(), descriptor))
        thread.start()
        until(lambda: following(daemon))
        child.send_signal(signal.SIGKILL)
        thread.join(PATIENCE)
        assert not thread.is_alive()
        os.close(descriptor)
