"""Movers that die, sleep, lie or never come: the mdev goes on, and is free for the next."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from uuid import UUID

import pytest

from daemon.movers import is_parked, migrate, refusal, sleeping_mover
from daemon.support import eventually
from daemon.test_moving import begin_uart, check_uart
from mdev_user.daemon import mover
from mdev_user.daemon.client import Client as ControlClient
from mdev_user.daemon.client import NoDaemon, Refused
from mdev_user.host.moving import MOST_HELD
from mdev_user.host.purpose import Purpose
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.vfio.migration_states import MigrationState
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError

SCR = 7


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty,name=mtty") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def there() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty") as daemon:
        yield daemon


@contextmanager
def visit(daemon: RunningDaemon, uuid: UUID, purpose: Purpose) -> Iterator[Client]:
    """A mover; when this ends its daemon has seen that it is gone."""
    with Client(daemon.control.begin_move(uuid, purpose).socket, timeout=10) as client:
        yield client
        with suppress(OSError):
            client.socket.shutdown(socket.SHUT_WR)
            while client.socket.recv(4096):
                pass


def goes_on(guest: Client) -> bool:
    guest.region_write(0, SCR, b"\x33")
    return guest.region_read(0, SCR, 1) == b"\x33"


def is_free(daemon: RunningDaemon, uuid: UUID, purpose: Purpose) -> bool:
    """Whether another mover may come."""
    try:
        with visit(daemon, uuid, purpose):
            return True
    except Refused:
        return False


@pytest.mark.parametrize("moment", ["began", "pass", "stopped", "copied", "loaded"])
def test_a_mover_that_is_killed_leaves_all_as_it_was(daemon: RunningDaemon, there: RunningDaemon, moment: str) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest:
        begin_uart(guest)
        with sleeping_mover(daemon, there, uuid, moment) as pid:
            os.kill(pid, signal.SIGKILL)
            assert goes_on(guest)
        eventually(lambda: is_free(daemon, uuid, Purpose.SAVE), "the next mover may come")
        eventually(lambda: is_free(there, uuid, Purpose.LOAD), "what was loaded there is forgotten")
        assert not is_parked(there, uuid)
        guest.region_write(0, SCR, b"\x5a")
        migrate(daemon, there, uuid)
    with there.guest(uuid) as guest:
        check_uart(guest)
    there.control.remove(uuid, wait=0, force=True)


def test_a_mover_that_is_killed_at_the_last_moment_leaves_a_copy(daemon: RunningDaemon, there: RunningDaemon) -> None:
    """There the state is kept, here it goes on: what nobody knows is not thrown away at either end."""
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest:
        begin_uart(guest)
        with sleeping_mover(daemon, there, uuid, "confirmed") as pid:
            os.kill(pid, signal.SIGKILL)
            assert goes_on(guest)
        eventually(lambda: is_parked(there, uuid), "the copy is parked")
        assert "holds a state that was loaded and that nobody has used" in refusal(migrate, daemon, there, uuid)
        there.control.remove(uuid, wait=0, force=False)
        migrate(daemon, there, uuid)
    there.control.remove(uuid, wait=0, force=True)


def test_a_guest_waits_for_a_sleeping_mover_no_longer_than_it_can(daemon: RunningDaemon, there: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest:
        begin_uart(guest)
        with sleeping_mover(daemon, there, uuid, "copied"):
            began = monotonic()
            assert goes_on(guest)
            assert 1 < monotonic() - began < MOST_HELD + 2
            assert f"stopped for {MOST_HELD:.0f} s" in daemon.control.mdev(uuid).last_move
        eventually(lambda: is_free(daemon, uuid, Purpose.SAVE), "the next mover may come")
    there.control.remove(uuid, wait=0, force=True)


def test_one_mover_at_a_time(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest:
        with visit(daemon, uuid, Purpose.SAVE):
            with pytest.raises(Refused, match=rf"is being moved by pid {os.getpid()} \(.*EBUSY"):
                daemon.control.begin_move(uuid, Purpose.SAVE)
            assert goes_on(guest)
        eventually(lambda: is_free(daemon, uuid, Purpose.SAVE), "the next mover may come")


def test_the_socket_of_a_mover_is_the_daemons_own_and_for_one(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    os.chown(daemon.run_dir.mdev(uuid), 65534, 65534)
    with daemon.guest(uuid):
        path = Path(daemon.control.begin_move(uuid, Purpose.SAVE).socket)
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o777 == 0o600
        assert (path.parent.stat().st_uid, path.stat().st_uid) == (os.geteuid(), os.geteuid())
        with Client(path, timeout=10):
            assert not path.exists()


GARBAGE = [b"\0" * 64, b"GET / HTTP/1.1\r\n\r\n" * 4, b"\1\0", b"\xff" * 4096]


def test_a_mover_that_speaks_nonsense_costs_nothing(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest:
        for data in GARBAGE:
            path = daemon.control.begin_move(uuid, Purpose.SAVE).socket
            with socket.socket(socket.AF_UNIX) as raw:
                raw.connect(path)
                raw.sendall(data)
                assert goes_on(guest)
            eventually(lambda: is_free(daemon, uuid, Purpose.SAVE), "the next mover may come")


def test_a_mover_may_do_nothing_but_move(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest, visit(daemon, uuid, Purpose.SAVE) as client:
        for forbidden in (
            client.reset,
            client.device_info,
            lambda: client.region_read(0, SCR, 1),
            lambda: client.region_write(0, SCR, b"\x99"),
            lambda: client.dma_map(0, 4096),
            lambda: client.region_info(0),
            lambda: client.start_dma_logging(4096),
            lambda: client.set_migration_state(MigrationState.RESUMING),
            lambda: client.set_migration_state(MigrationState.ERROR),
            lambda: client.read_migration_data(4096),
            lambda: client.write_migration_data(b"state"),
        ):
            with pytest.raises(RemoteError):
                forbidden()
        assert goes_on(guest)
        assert client.migration_state() is MigrationState.RUNNING


def test_a_user_who_leaves_takes_its_state_with_it(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest, visit(daemon, uuid, Purpose.SAVE) as client:
        client.set_migration_state(MigrationState.PRE_COPY)
        guest.close()
        eventually(lambda: daemon.control.mdev(uuid).client is None, "the user is gone")
        with pytest.raises(RemoteError), daemon.guest(uuid):
            client.read_migration_data(4096)
        assert "its user went away" in daemon.control.mdev(uuid).last_move


def test_a_forced_remove_ends_every_move(daemon: RunningDaemon) -> None:
    stopped, loading = daemon.create("mtty-1"), daemon.create("mtty-1")
    with daemon.guest(stopped) as guest, visit(daemon, stopped, Purpose.SAVE) as client:
        client.set_migration_state(MigrationState.STOP)
        began = monotonic()
        daemon.control.remove(stopped, wait=0, force=True)
        assert monotonic() - began < MOST_HELD
        with pytest.raises(ConnectionError):
            guest.region_read(0, SCR, 1)
    with Client(daemon.control.begin_move(loading, Purpose.LOAD).socket, timeout=10) as client:
        client.set_migration_state(MigrationState.RESUMING)
        shown = daemon.control.mdev(loading).client
        assert shown is not None
        assert shown.pid == os.getpid()
        with pytest.raises(Refused, match="in use by pid"):
            daemon.control.remove(loading, wait=0, force=False)
        daemon.control.remove(loading, wait=0, force=True)
    assert daemon.control.mdevs() == []


def test_the_death_of_a_host_ends_a_move_with_the_reason(daemon: RunningDaemon, tmp_path: Path) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid):

        def kill(what: str, _moved: mover.Moved) -> None:
            if what == "stopped":
                os.kill(daemon.host_pids()["mtty"], signal.SIGKILL)

        with pytest.raises(mover.MoveFailed, match=r"the connection to its host broke"):
            mover.save(daemon.control, uuid, tmp_path / "file", kill)
    assert list(tmp_path.iterdir()) == []
    eventually(lambda: daemon.control.status().parents[0].restarts == 1 and daemon.control.types(), "it is back")


def test_what_is_not_stopped_is_not_handed_over(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with daemon.guest(uuid) as guest:
        with pytest.raises(Refused, match=r"not stopped for a mover.*EBUSY"):
            daemon.control.hand_over(uuid, "nowhere")
        with visit(daemon, uuid, Purpose.SAVE) as client:
            client.set_migration_state(MigrationState.PRE_COPY)
            with pytest.raises(Refused, match=r"is not stopped for its mover.*EBUSY"):
                daemon.control.hand_over(uuid, "nowhere")
        assert goes_on(guest)


@pytest.mark.parametrize("moment", ["hand_over", "remove"])
@pytest.mark.parametrize("end", [KeyboardInterrupt("Ctrl-C"), NoDaemon("it hung up")])
def test_what_was_handed_over_is_not_thrown_away_there(
    daemon: RunningDaemon, there: RunningDaemon, moment: str, end: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mover is interrupted, or the daemon here dies, when the state is nowhere but there."""
    uuid, control = daemon.create("mtty-1"), ControlClient(daemon.run_dir)
    method = getattr(control, moment)

    def broken(*arguments: object, **named: object) -> None:
        method(*arguments, **named)
        raise end

    monkeypatch.setattr(control, moment, broken)
    with daemon.guest(uuid) as guest:
        begin_uart(guest)
        guest.region_write(0, SCR, b"\x5a")
        with suppress(KeyboardInterrupt, mover.MoveFailed):
            mover.migrate(control, there.control, uuid, "there", lambda _what, _moved: None)
    eventually(lambda: is_parked(there, uuid), "its state is there")
    with there.guest(uuid) as guest:
        check_uart(guest)
    there.control.remove(uuid, wait=0, force=True)


def test_a_hand_over_that_is_refused_leaves_nothing_there(
    daemon: RunningDaemon, there: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid, control = daemon.create("mtty-1"), ControlClient(daemon.run_dir)

    def refuse(_uuid: UUID, _place: str) -> None:
        raise Refused("too late")

    monkeypatch.setattr(control, "hand_over", refuse)
    with daemon.guest(uuid) as guest:
        begin_uart(guest)
        with pytest.raises(Refused, match="too late"):
            mover.migrate(control, there.control, uuid, "there", lambda _what, _moved: None)
        assert goes_on(guest)
        assert there.control.mdevs() == []
