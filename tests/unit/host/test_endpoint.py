"""The socket of one mdev: one user at a time, handed over cleanly, watched when it goes, taken away at the end."""

import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from threading import Event

import pytest
from typing_extensions import override

from mdev_user.drivers.mtty import Mtty
from mdev_user.errors import NoDevice
from mdev_user.host import endpoint as module
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.types import MdevType
from mdev_user.testing.local import LocalHost
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.irqs import IrqTable
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.requests import Irq, IrqAction, Reply, Request, SetIrqs
from mdev_user.vfio_mdev.ops import MdevParentOps
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.messages import DeviceSetIrqs, IrqData
from unit.host.parts import SECONDS, eventually


class Device(DeviceOps):
    """Opens when it is let, and notes what happens to it; one INTx that a test drives."""

    def __init__(self) -> None:
        self.may_open = Event()
        self.may_open.set()
        self.opening = Event()
        self.requests: list[int] = []
        self.open = False
        self.irqs: IrqTable

    @override
    def open_device(self, device: VfioDevice) -> None:
        self.opening.set()
        assert self.may_open.wait(SECONDS)
        self.open = True
        self.irqs = IrqTable({Irq.INTX: 1}, device.counters)

    @override
    def close_device(self) -> None:
        self.open = False
        self.irqs.disarm_all()

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        return bytes(count)

    @override
    def ioctl(self, request: Request) -> Reply:
        assert isinstance(request, SetIrqs)
        self.irqs.set(request)
        return None

    @override
    def request(self, count: int) -> None:
        self.requests.append(count)


class Parent(MdevParentOps):
    driver_name = "test"
    mdev_types = (MdevType("1"),)
    max_instances = 100

    @override
    def create(self, mdev: Mdev) -> Device:
        return Device()

    @override
    def remove(self, mdev: Mdev) -> None:
        """Nothing is held."""


@pytest.fixture
def host() -> Iterator[LocalHost]:
    with LocalHost() as host:
        yield host


@pytest.fixture
def mdev(host: LocalHost) -> Mdev:
    return host.create(host.bus.register_parent("test", Parent()), "test-1")


def device_of(mdev: Mdev) -> Device:
    assert isinstance(mdev.drvdata, Device)
    return mdev.drvdata


def test_an_idle_mdev_is_a_socket_and_no_thread(host: LocalHost, mdev: Mdev) -> None:
    path = host.socket(mdev)
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not [each for each in threading.enumerate() if str(mdev.uuid) in each.name]
    assert host.endpoint(mdev).peer is None


def test_the_user_is_known_by_pid_uid_and_name(host: LocalHost, mdev: Mdev) -> None:
    with host.client(mdev):
        peer = host.endpoint(mdev).peer
        assert peer is not None
        assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
        assert peer.name
    eventually(lambda: host.endpoint(mdev).peer is None)
    assert host.endpoint(mdev).last_disconnect == "the client went away"
    assert not device_of(mdev).open


def test_the_user_is_known_while_a_slow_driver_opens(host: LocalHost, mdev: Mdev) -> None:
    device = device_of(mdev)
    device.may_open.clear()
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(host.socket(mdev)))
        assert device.opening.wait(SECONDS)
        assert host.endpoint(mdev).peer is not None
        with pytest.raises(RemoteError, match="refused VERSION"):
            host.client(mdev)
        device.may_open.set()


def test_a_second_user_is_refused_while_the_first_is_there(host: LocalHost, mdev: Mdev) -> None:
    with host.client(mdev) as first:
        began = time.monotonic()
        with pytest.raises(RemoteError, match="refused VERSION"):
            host.client(mdev)
        assert time.monotonic() - began < 1
        assert first.region_read(0, 0, 4) == bytes(4)


def test_a_user_that_comes_while_the_last_one_is_still_closed_waits_for_it(host: LocalHost, mdev: Mdev) -> None:
    for _ in range(20):
        with host.client(mdev) as client:
            assert client.region_read(0, 0, 1) == b"\0"


def test_without_the_hand_over_some_of_them_would_be_refused(
    host: LocalHost, mdev: Mdev, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above: a new user that does not wait meets the last one's thread."""
    monkeypatch.setattr(module, "_HANDOVER", 0.0)
    first = host.client(mdev)
    with host.endpoint(mdev).lock:  # the last user's close cannot be done yet
        first.close()
        with pytest.raises(RemoteError, match="refused VERSION"):
            Client(host.socket(mdev), timeout=SECONDS)


def test_an_operator_can_disconnect_the_user(host: LocalHost, mdev: Mdev) -> None:
    with host.client(mdev) as client:
        host.endpoint(mdev).disconnect()
        with pytest.raises(ConnectionError):
            client.region_read(0, 0, 1)
    eventually(lambda: host.endpoint(mdev).peer is None)
    assert host.endpoint(mdev).last_disconnect == "disconnected by the operator"
    host.endpoint(mdev).disconnect()  # nobody is there: nothing happens


def test_a_remove_asks_the_driver_now_and_then_while_the_user_stays(
    host: LocalHost, mdev: Mdev, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REQUEST_PERIOD", 0.02)
    device = device_of(mdev)
    client = host.client(mdev)
    remover = threading.Thread(target=host.bus.remove, args=(mdev.uuid,))
    remover.start()
    eventually(lambda: len(device.requests) >= 3)
    assert device.requests[:3] == [0, 1, 2]
    assert client.region_read(0, 0, 1) == b"\0"  # it works on
    assert not host.socket(mdev).exists()
    client.close()
    remover.join(SECONDS)
    assert not remover.is_alive()
    assert not host.socket(mdev).parent.exists()
    with pytest.raises(NoDevice):
        host.endpoint(mdev)


def test_a_remove_of_an_idle_mdev_asks_nobody(host: LocalHost, mdev: Mdev) -> None:
    host.bus.remove(mdev.uuid)
    assert device_of(mdev).requests == []


def test_a_driver_that_cannot_open_refuses_the_user_and_serves_the_next(host: LocalHost, mdev: Mdev) -> None:
    device = device_of(mdev)
    original = device.open_device
    device.open_device = None  # type: ignore[assignment,method-assign]  # a driver's bug: TypeError
    with pytest.raises(RemoteError, match="refused VERSION"):
        host.client(mdev)
    eventually(lambda: "TypeError" in host.endpoint(mdev).last_disconnect)
    device.open_device = original  # type: ignore[method-assign]  # the bug is mended
    with host.client(mdev) as client:
        assert client.region_read(0, 0, 1) == b"\0"


def test_many_connections_at_once_give_one_user(host: LocalHost, mdev: Mdev) -> None:
    clients: list[Client] = []
    refused: list[Exception] = []

    def connect() -> None:
        try:
            clients.append(Client(host.socket(mdev), timeout=SECONDS))
        except OSError as error:
            refused.append(error)

    threads = [threading.Thread(target=connect) for _ in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(SECONDS)
    assert (len(clients), len(refused)) == (1, 19)
    clients[0].close()


# --- the guest's eventfds --------------------------------------------------------------------------------------


def arm(client: Client, fd: int, unmask: int) -> None:
    client.arm(Irq.INTX, [fd])
    client.set_irqs(DeviceSetIrqs(Irq.INTX, 0, 1, IrqAction.UNMASK, IrqData.EVENTFD), [unmask])


def test_a_signalled_unmask_eventfd_lets_a_level_fire_again(host: LocalHost, mdev: Mdev) -> None:
    fired, unmask = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2))
    with host.client(mdev) as client:
        arm(client, fired, unmask)
        with host.endpoint(mdev).lock:
            device_of(mdev).irqs.set_level(True)
        assert os.eventfd_read(fired) == 1
        for _ in range(5):
            with pytest.raises(BlockingIOError):
                os.eventfd_read(fired)
            os.eventfd_write(unmask, 1)
            eventually(lambda: readable(fired))
            assert os.eventfd_read(fired) == 1
        assert not readable(unmask)  # the step took the signal
    os.close(fired)
    os.close(unmask)


def test_a_user_that_takes_its_own_signal_back_stops_nobody(host: LocalHost, mdev: Mdev) -> None:
    """The poll thread serves all mdevs of the host: it must not read a blocking eventfd that is empty again."""
    unmask = os.eventfd(0, os.EFD_CLOEXEC)  # blocking, as QEMU's may be
    fired = os.eventfd(0, os.EFD_CLOEXEC)
    other = host.create(host.bus.parent("test"), "test-1")
    with host.client(mdev) as client:
        arm(client, fired, unmask)
        for _ in range(300):
            os.eventfd_write(unmask, 1)
            try:
                os.preadv(unmask, [bytearray(8)], -1, os.RWF_NOWAIT)
            except BlockingIOError:
                continue
        with Client(host.socket(other), timeout=SECONDS) as neighbour:
            assert neighbour.region_read(0, 0, 1) == b"\0"
        assert client.region_read(0, 0, 1) == b"\0"
    os.close(fired)
    os.close(unmask)


def test_signals_without_end_leave_one_step_waiting(host: LocalHost, mdev: Mdev) -> None:
    fired, unmask = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2))
    with host.client(mdev) as client:
        arm(client, fired, unmask)
        with host.endpoint(mdev).lock:  # the mdev is busy, and its guest signals on
            for _ in range(500):
                os.eventfd_write(unmask, 1)
                time.sleep(0)
            time.sleep(0.02)
            ready = [*host.endpoints.jobs._ready, *host.endpoints.jobs._resting]
            assert sum(len(each.stretches) for each in ready) <= 2
    os.close(fired)
    os.close(unmask)


def readable(fd: int) -> bool:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


# --- a whole host ------------------------------------------------------------------------------------------------


def test_the_end_of_a_host_disconnects_all_and_leaves_no_fd_or_thread() -> None:
    with LocalHost() as host:  # what is made once and kept: the allocator's files, loggers
        pass
    fds = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
    threads = set(threading.enumerate())
    with LocalHost() as host:
        parent = host.bus.register_parent("mtty", Mtty())
        mdevs = [host.create(parent, "mtty-1") for _ in range(5)]
        clients = [host.client(each) for each in mdevs[:3]]
        folder = host.endpoints.folder
    for client in clients:
        with pytest.raises(ConnectionError):
            client.region_read(0, 5, 1)
        client.close()
    assert not folder.exists()
    eventually(lambda: set(threading.enumerate()) <= threads)
    assert set(os.listdir("/proc/self/fd")) == fds  # noqa: PTH208 - names are enough
