"""Movers of one mdev: what they may ask for, how long a guest waits for them, and what is left when they go."""

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import pytest

from mdev_user.drivers.crc import Card
from mdev_user.drivers.mtty import Mtty
from mdev_user.errors import Busy, NoDevice, NotSupported
from mdev_user.host import endpoint as endpoints
from mdev_user.host import mover_session, moves, moving
from mdev_user.host.door import Peer, peer_of
from mdev_user.host.endpoint import Endpoint
from mdev_user.host.purpose import Purpose
from mdev_user.mdev.device import Mdev
from mdev_user.testing.local import LocalHost
from mdev_user.vfio.migration_states import MigrationState
from mdev_user.vfio.requests import Irq, Region
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.messages import DeviceFeature, DeviceState, Feature
from mdev_user.vfio_user.server import Session
from unit.host.parts import SECONDS, eventually
from unit.host.test_endpoint import Device, Parent

SCR = 7
LENGTH, DOORBELL = 0x18, 0x20
RUNNING, STOP, STOP_COPY, RESUMING, PRE_COPY = (
    MigrationState.RUNNING, MigrationState.STOP, MigrationState.STOP_COPY, MigrationState.RESUMING,
    MigrationState.PRE_COPY,
)  # fmt: skip


@pytest.fixture
def host() -> Iterator[LocalHost]:
    with LocalHost() as host:
        yield host


@pytest.fixture
def mdev(host: LocalHost) -> Mdev:
    return host.create(host.bus.register_parent("mtty", Mtty()), "mtty-1")


@pytest.fixture
def checksum(host: LocalHost) -> Mdev:
    return host.create(host.bus.register_parent("crc", Card()), "crc-small")


@contextmanager
def visit(endpoint: Endpoint, purpose: Purpose) -> Iterator[Client]:
    """A mover; when this ends the host has seen that it is gone."""
    with Client(endpoint.moves.begin(purpose), timeout=SECONDS) as client:
        yield client
        with suppress(OSError):
            client.socket.shutdown(socket.SHUT_WR)
            while client.socket.recv(4096):
                pass


def saved(endpoint: Endpoint) -> bytes:
    with visit(endpoint, Purpose.SAVE) as mover:
        mover.set_migration_state(STOP_COPY)
        return b"".join(iter(lambda: mover.read_migration_data(4096), b""))


def load(endpoint: Endpoint, state: bytes) -> None:
    with visit(endpoint, Purpose.LOAD) as mover:
        mover.set_migration_state(RESUMING)
        mover.write_migration_data(state)
        mover.set_migration_state(RUNNING)


def is_parked(endpoint: Endpoint) -> bool:
    return endpoint.parked


def state_of_used(host: LocalHost, mdev: Mdev) -> bytes:
    """Of an mdev that somebody has used, and does not use any more."""
    with host.client(mdev) as guest:
        guest.region_write(0, SCR, b"\x5a")
        state = saved(host.endpoint(mdev))
    eventually(lambda: host.endpoint(mdev).use is None)
    return state


def test_who_loads_must_confirm_that_it_is_to_be_kept(host: LocalHost, mdev: Mdev) -> None:
    state, endpoint = state_of_used(host, mdev), host.endpoint(mdev)
    for last in (RESUMING, STOP):
        with visit(endpoint, Purpose.LOAD) as mover:
            mover.set_migration_state(RESUMING)
            mover.write_migration_data(state)
            mover.set_migration_state(last)
        assert not is_parked(endpoint)
    with visit(endpoint, Purpose.LOAD) as mover:
        mover.set_migration_state(RESUMING)
        mover.write_migration_data(state)
        mover.set_migration_state(RUNNING)
        mover.set_migration_state(STOP)  # it has changed its mind
    assert not is_parked(endpoint)
    load(endpoint, state)
    assert is_parked(endpoint)
    with host.client(mdev) as guest:
        assert guest.region_read(0, SCR, 1) == b"\x5a"
        assert not is_parked(endpoint)


def test_a_device_that_nothing_was_loaded_into_is_not_kept(host: LocalHost, mdev: Mdev) -> None:
    with visit(host.endpoint(mdev), Purpose.LOAD) as mover:
        mover.set_migration_state(STOP)
        mover.set_migration_state(RUNNING)
    assert not host.endpoint(mdev).parked


def test_a_bad_stream_can_be_followed_by_a_good_one(host: LocalHost, mdev: Mdev) -> None:
    state, endpoint = state_of_used(host, mdev), host.endpoint(mdev)
    with visit(endpoint, Purpose.LOAD) as mover:
        mover.set_migration_state(RESUMING)
        mover.write_migration_data(state[:-1])
        with pytest.raises(RemoteError):
            mover.set_migration_state(RUNNING)
        assert endpoint.moves.last
        assert mover.migration_state() is RESUMING
        with pytest.raises(RemoteError):
            mover.write_migration_data(b"what nobody saved")
        mover.write_migration_data(state)
        mover.set_migration_state(RUNNING)
    assert is_parked(endpoint)


def test_jobs_of_a_parked_device_wait_for_its_user(host: LocalHost, checksum: Mdev) -> None:
    with host.client(checksum) as guest:
        guest.dma_map(0, 4096)
        guest.region_write(Region.CONFIG, 4, b"\x06\0")
        guest.region_write(0, LENGTH, b"\x10\0\0\0")
        guest.region_write(0, DOORBELL, b"\1\0\0\0")
        state = saved(host.endpoint(checksum))
    eventually(lambda: host.endpoint(checksum).use is None)
    load(host.endpoint(checksum), state)
    counters = host.endpoint(checksum).device.counters
    with host.client(checksum) as guest:
        before = counters.guest_errors
        assert guest.region_read(Region.CONFIG, 0, 2) == b"\xe5\x1d"
        guest.device_info()
        guest.disarm(Irq.INTX)
        assert counters.guest_errors == before, "it looked for memory that nobody has mapped yet"
        guest.region_read(0, 0, 4)  # the control: now it goes on, and finds none
        eventually(lambda: counters.guest_errors == before + 1)


def test_a_user_who_looks_and_goes_leaves_the_device_parked(host: LocalHost, mdev: Mdev) -> None:
    state, endpoint = state_of_used(host, mdev), host.endpoint(mdev)
    load(endpoint, state)
    with host.client(mdev) as guest:
        guest.device_info()
        guest.region_read(Region.CONFIG, 0, 2)
        guest.dma_map(0, 4096)
        assert not is_parked(endpoint)
    eventually(lambda: is_parked(endpoint))
    assert not endpoint.device.dma, "nothing of that user is left"
    with host.client(mdev) as guest:
        assert guest.region_read(0, SCR, 1) == b"\x5a"
    eventually(lambda: endpoint.use is None)
    with host.client(mdev) as guest:
        assert guest.region_read(0, SCR, 1) != b"\x5a", "it was used: the next user finds a device that was reset"


def test_a_reset_is_a_use_of_a_parked_device(host: LocalHost, mdev: Mdev) -> None:
    state, endpoint = state_of_used(host, mdev), host.endpoint(mdev)
    load(endpoint, state)
    with host.client(mdev) as guest:
        guest.reset()
    eventually(lambda: endpoint.use is None)
    assert not is_parked(endpoint)


def test_what_cannot_be_moved_is_refused(host: LocalHost, mdev: Mdev) -> None:
    endpoint = host.endpoint(mdev)
    with pytest.raises(NoDevice, match="nobody has it open, so it has no state"):
        endpoint.moves.begin(Purpose.SAVE)
    with host.client(mdev) as guest:
        with pytest.raises(Busy, match=r"in use by pid \d+ .*stop its user"):
            endpoint.moves.begin(Purpose.LOAD)
        guest.set_migration_state(PRE_COPY)
        with pytest.raises(Busy, match="its user migrates it, and has it in PRE_COPY"):
            endpoint.moves.begin(Purpose.SAVE)
    by_hand = host.create(host.bus.register_parent("test", Parent()), "test-1")
    for purpose in Purpose:
        with pytest.raises(NotSupported, match="written by hand"):
            host.endpoint(by_hand).moves.begin(purpose)
    with host.client(by_hand):
        pass  # and it is not in use by that


def test_a_guest_waits_as_long_as_a_mover_may_hold_it(
    host: LocalHost, mdev: Mdev, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "MOST_HELD", 0.4)
    with host.client(mdev) as guest, visit(host.endpoint(mdev), Purpose.SAVE) as mover:
        mover.set_migration_state(STOP)
        began = monotonic()
        guest.region_write(0, SCR, b"\x11")
        assert 0.3 < monotonic() - began < 5
        with pytest.raises(OSError, match=r"."):
            mover.set_migration_state(STOP_COPY)
        assert "the mdev goes on" in host.endpoint(mdev).moves.last
        assert guest.region_read(0, SCR, 1) == b"\x11"


def test_a_mover_that_sends_byte_by_byte_holds_no_longer(
    host: LocalHost, mdev: Mdev, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "MOST_HELD", 0.4)
    endpoint, done = host.endpoint(mdev), threading.Event()
    with host.client(mdev) as guest, visit(endpoint, Purpose.SAVE) as mover:
        mover.set_migration_state(STOP)

        def trickle() -> None:
            with suppress(OSError):
                while not done.wait(0.05):
                    mover.socket.send(b"\0")

        thread = threading.Thread(target=trickle)
        thread.start()
        guest.region_write(0, SCR, b"\x11")
        done.set()
        thread.join()


def test_a_mover_that_reads_nothing_holds_no_longer(
    host: LocalHost, mdev: Mdev, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "MOST_HELD", 0.4)
    with host.client(mdev) as guest, visit(host.endpoint(mdev), Purpose.SAVE) as mover:
        mover.set_migration_state(STOP)
        request = DeviceFeature.get(Feature.MIG_DEVICE_STATE, room=DeviceState.SIZE)
        _identity, message = mover.connection.ask(request)
        with suppress(OSError):
            mover.socket.settimeout(0.05)
            while True:
                mover.socket.send(message)
        guest.region_write(0, SCR, b"\x11")


def test_a_mover_that_never_comes_or_falls_silent_is_not_waited_for(
    host: LocalHost, mdev: Mdev, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = host.endpoint(mdev)
    monkeypatch.setattr(moves, "MOST_ABSENT", 0.1)
    monkeypatch.setattr(mover_session, "MOST_SILENT", 0.1)
    path = endpoint.moves.begin(Purpose.LOAD)
    eventually(lambda: endpoint.moves.last == "nobody connected within 0 s")
    assert not path.exists()
    eventually(lambda: endpoint.use is None)
    with visit(endpoint, Purpose.LOAD) as mover, pytest.raises(ConnectionError):
        mover.serve()
    assert endpoint.moves.last == "it said nothing for 0 s"
    eventually(lambda: endpoint.use is None)


def test_a_move_that_cannot_begin_leaves_the_mdev_free(
    host: LocalHost, mdev: Mdev, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*_arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    endpoint = host.endpoint(mdev)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            endpoint.moves.begin(Purpose.LOAD)
    assert endpoint.use is None
    with visit(endpoint, Purpose.LOAD) as mover:
        assert mover.migration_state() is RUNNING


def test_a_mover_that_comes_when_there_are_too_many_files_leaves_the_mdev_free(
    host: LocalHost, mdev: Mdev, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_file(*_arguments: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    endpoint = host.endpoint(mdev)
    with monkeypatch.context() as patch:
        patch.setattr(moves, "MoverSession", no_file)
        with suppress(ConnectionError):
            Client(endpoint.moves.begin(Purpose.LOAD), timeout=SECONDS)
        eventually(lambda: endpoint.use is None)
    with visit(endpoint, Purpose.LOAD) as mover:
        assert mover.migration_state() is RUNNING


def test_a_mover_is_sent_away_in_the_moment_in_which_it_comes(
    host: LocalHost, mdev: Mdev, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = host.endpoint(mdev)

    def begin(*arguments: Any) -> mover_session.MoverSession:  # Any: as the class takes them
        endpoint.moves.end("the mdev is being removed")
        return mover_session.MoverSession(*arguments)

    monkeypatch.setattr(moves, "MoverSession", begin)
    with suppress(ConnectionError), Client(endpoint.moves.begin(Purpose.LOAD), timeout=SECONDS) as mover:
        mover.serve()
    eventually(lambda: endpoint.use is None)
    assert endpoint.moves.last == "the mdev is being removed"


def test_another_users_mover_is_turned_away(host: LocalHost, mdev: Mdev, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = host.endpoint(mdev)
    strangers = iter([Peer(1, 4711, "stranger")])
    monkeypatch.setattr(moves, "peer_of", lambda connection: next(strangers, None) or peer_of(connection))
    path = endpoint.moves.begin(Purpose.LOAD)
    with pytest.raises(ConnectionError):
        Client(path, timeout=SECONDS)
    with Client(path, timeout=SECONDS) as client:
        assert client.migration_state() is RUNNING


def test_an_mdev_that_is_handed_over_takes_nobody_any_more(host: LocalHost, mdev: Mdev) -> None:
    endpoint = host.endpoint(mdev)
    with host.client(mdev) as guest, visit(endpoint, Purpose.SAVE) as mover:
        mover.set_migration_state(STOP_COPY)
        endpoint.hand_over("another place")
        assert not endpoint.device.opened
        with pytest.raises(ConnectionError):
            guest.region_read(0, SCR, 1)
        with pytest.raises(OSError, match=r"."):
            mover.set_migration_state(RUNNING)
    eventually(lambda: endpoint.last_disconnect == "moved to another place")
    with pytest.raises(RemoteError, match="refused VERSION"):
        host.client(mdev)
    with pytest.raises(NoDevice, match="moved to another place"):
        endpoint.moves.begin(Purpose.LOAD)


def test_a_parked_mdev_is_handed_over(host: LocalHost, mdev: Mdev) -> None:
    state, endpoint = state_of_used(host, mdev), host.endpoint(mdev)
    load(endpoint, state)
    with visit(endpoint, Purpose.SAVE) as mover:
        mover.set_migration_state(STOP_COPY)
        assert b"".join(iter(lambda: mover.read_migration_data(4096), b"")) == state
        endpoint.hand_over("another place")
    assert not is_parked(endpoint)
    assert endpoint.use is None


def test_a_user_who_comes_while_the_mdev_is_handed_over_is_sent_away(
    host: LocalHost, mdev: Mdev, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be given a device that was reset, instead of the one that it left."""
    state, endpoint = state_of_used(host, mdev), host.endpoint(mdev)
    load(endpoint, state)

    def late(*arguments: Any) -> Session:  # Any: as the class takes them
        endpoint.hand_over("another place")
        return Session(*arguments)

    with visit(endpoint, Purpose.SAVE) as mover:
        mover.set_migration_state(STOP_COPY)
        monkeypatch.setattr(endpoints, "Session", late)
        with pytest.raises(ConnectionError), host.client(mdev) as guest:
            guest.region_read(0, SCR, 1)
    eventually(lambda: endpoint.last_disconnect == "moved to another place")


def test_another_version_of_the_driver_ends_a_move(host: LocalHost, mdev: Mdev) -> None:
    endpoint = host.endpoint(mdev)
    with host.client(mdev), visit(endpoint, Purpose.SAVE) as mover:
        mover.set_migration_state(PRE_COPY)
        endpoint.device.ops = Device()
        with pytest.raises(RemoteError):
            mover.read_migration_data(4096)
        assert "its driver was reloaded" in endpoint.moves.last


def test_a_user_comes_while_its_parked_mdev_is_saved(host: LocalHost, mdev: Mdev) -> None:
    state, endpoint = state_of_used(host, mdev), host.endpoint(mdev)
    load(endpoint, state)
    with visit(endpoint, Purpose.SAVE) as mover:
        mover.set_migration_state(PRE_COPY)
        with host.client(mdev) as guest:
            guest.region_write(0, SCR, b"\x77")
            mover.set_migration_state(STOP_COPY)
            later = b"".join(iter(lambda: mover.read_migration_data(4096), b""))
            mover.set_migration_state(RUNNING)
            assert guest.region_read(0, SCR, 1) == b"\x77"
    eventually(lambda: endpoint.use is None)
    load(endpoint, later)
    with host.client(mdev) as guest:
        assert guest.region_read(0, SCR, 1) == b"\x77"


def test_the_end_of_a_host_ends_its_moves() -> None:
    before = threading.active_count()
    with LocalHost() as host:
        parent = host.bus.register_parent("mtty", Mtty())
        first, second = host.create(parent, "mtty-1"), host.create(parent, "mtty-1")
        with host.client(first):
            mover = Client(host.endpoint(first).moves.begin(Purpose.SAVE), timeout=SECONDS)
            mover.set_migration_state(STOP)
            host.endpoint(second).moves.begin(Purpose.LOAD)
            host.endpoint(first).disconnect()
            host.endpoint(second).disconnect()
        mover.close()
    eventually(lambda: threading.active_count() <= before)
