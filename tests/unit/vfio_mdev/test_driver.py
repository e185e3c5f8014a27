"""vfio_mdev: a proxy. Every operation of the VFIO device is the parent's own; what is absent answers EINVAL."""

import errno
from collections.abc import Callable, Coroutine
from uuid import UUID

import pytest
from typing_extensions import override

from mdev_user.errors import DriverError, NoDevice, NoSpace, NotSupported, errno_of
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.types import MdevType
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.requests import DeviceFlags, DeviceInfo, GetInfo, GetIrqInfo, GetRegionInfo, Reply, Request, Reset
from mdev_user.vfio.work import Spent
from mdev_user.vfio_mdev.driver import VfioMdev
from mdev_user.vfio_mdev.ops import MdevParentOps
from unit.mdev.scene import FIRST

UUID1 = UUID(int=1)
INFO = DeviceInfo(DeviceFlags.PCI, 9, 5)
Call = tuple[str, object]


class Ops(DeviceOps):
    """Notes every call; answers with values that only it can have made."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def take(self) -> list[Call]:
        calls, self.calls = self.calls, []
        return calls

    @override
    def open_device(self, device: VfioDevice) -> None:
        self.calls.append(("open_device", device))

    @override
    def close_device(self) -> None:
        self.calls.append(("close_device", None))

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        self.calls.append(("read", (region, offset, count)))
        return bytes([region]) * count

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        self.calls.append(("write", (region, offset, data)))

    @override
    def ioctl(self, request: Request) -> Reply:
        self.calls.append(("ioctl", request))
        return INFO if isinstance(request, GetInfo) else None

    @override
    def mmap(self, region: int, offset: int, length: int) -> None:
        self.calls.append(("mmap", (region, offset, length)))

    @override
    def request(self, count: int) -> None:
        self.calls.append(("request", count))


class Parent(MdevParentOps):
    """Its mdevs have the operations that a test gives it."""

    driver_name = "test"
    mdev_types = (MdevType("t"),)

    def __init__(self, made: object) -> None:
        self.made = made
        self.live: list[UUID] = []

    @override
    def create(self, mdev: Mdev) -> DeviceOps:
        self.live.append(mdev.uuid)
        return self.made  # type: ignore[return-value]  # also what an author returns by mistake

    @override
    def remove(self, mdev: Mdev) -> None:
        self.live.remove(mdev.uuid)


class Registrar:
    """Where devices are offered; notes who is, and fails when told to."""

    def __init__(self) -> None:
        self.offered: list[VfioDevice] = []
        self.log: list[str] = []
        self.failure: Exception | None = None

    def register(self, device: VfioDevice) -> None:
        self.log.append("register")
        if self.failure is not None:
            raise self.failure
        self.offered.append(device)

    def unregister(self, device: VfioDevice) -> None:
        self.log.append("unregister")
        self.offered.remove(device)


class Jobs:
    now = 0.0

    def spent(self) -> Spent:
        return Spent(0.0, 0.0)

    def spawn(self, work: Coroutine[object, bytes, None], name: str) -> None:
        raise NotImplementedError(name)

    def cancel(self, work: Coroutine[object, bytes, None]) -> None:
        raise NotImplementedError(work)

    def cancel_all(self) -> None:
        pass

    def pause(self) -> None:
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError


class Memory:
    fd = -1

    def view(self, index: int, size: int) -> memoryview:
        return memoryview(bytearray(size))


class Rig:
    """A bus with vfio_mdev and one parent."""

    def __init__(self, made: object) -> None:
        self.registrar = Registrar()
        self.driver = VfioMdev(self.registrar)
        self.bus = Bus()
        self.bus.register_driver(self.driver)
        self.events: list[str] = []
        self.bus.subscribe(lambda event: self.events.append(event.kind.name))
        self.ops = Parent(made)
        self.parent = self.bus.register_parent("p", self.ops)

    def create(self) -> VfioDevice:
        self.bus.create(self.parent, "test-t", UUID1)
        return self.registrar.offered[-1]

    def check_undone(self) -> None:
        assert (self.ops.live, self.bus.mdevs(), self.registrar.offered) == ([], [], [])
        assert self.driver._devices == {}
        assert self.events == [*FIRST, "MDEV_ADDED", "MDEV_REMOVED"]


def opened(ops: Ops) -> VfioDevice:
    device = Rig(ops).create()
    device.open(Jobs(), Memory())
    ops.take()
    return device


def check_forwarded(use: Callable[[VfioDevice], object], call: Call, answer: object) -> None:
    ops = Ops()
    device = opened(ops)
    assert use(device) == answer
    assert ops.take() == [call]


def test_driver_is_called_vfio_mdev() -> None:
    assert VfioMdev(Registrar()).name == "vfio_mdev"


def test_probe_offers_a_vfio_device_of_the_mdev() -> None:
    ops = Ops()
    device = Rig(ops).create()
    assert (device.uuid, device.name, device.opened) == (UUID1, "p/test-t", False)
    assert device.ops is ops


def test_nothing_is_asked_of_the_parent_before_the_device_is_opened() -> None:
    ops = Ops()
    rig = Rig(ops)
    rig.create()
    rig.bus.remove(UUID1)
    assert ops.calls == []


def test_open_and_close_reach_the_parent_with_the_device() -> None:
    ops = Ops()
    device = Rig(ops).create()
    device.open(Jobs(), Memory())
    assert ops.take() == [("open_device", device)]
    device.close()
    assert ops.take() == [("close_device", None)]


def test_accesses_are_the_parents_own_methods() -> None:
    """Bound once, at open: nothing lies between the user and the parent."""
    ops = Ops()
    device = opened(ops)
    assert (device.read, device.write, device.ioctl, device.mmap) == (ops.read, ops.write, ops.ioctl, ops.mmap)


@pytest.mark.parametrize(
    ("use", "call", "answer"),
    [
        (lambda device: device.read(3, 0x10, 4), ("read", (3, 0x10, 4)), b"\3\3\3\3"),
        (lambda device: device.write(2, 8, b"abc"), ("write", (2, 8, b"abc")), None),
        (lambda device: device.ioctl(GetInfo()), ("ioctl", GetInfo()), INFO),
        (lambda device: device.info(), ("ioctl", GetInfo()), INFO),
        (lambda device: device.reset(), ("ioctl", Reset()), None),
        (lambda device: device.mmap(0, 4096, 8192), ("mmap", (0, 4096, 8192)), None),
        (lambda device: device.ops.request(7), ("request", 7), None),
    ],
    ids=["read", "write", "ioctl", "info", "reset", "mmap", "request"],
)
def test_operation_is_forwarded_and_nothing_else_is_called(
    use: Callable[[VfioDevice], object], call: Call, answer: object
) -> None:
    check_forwarded(use, call, answer)


def test_check_sees_a_device_that_asks_the_parent_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Ops.read

    def curious(self: Ops, region: int, offset: int, count: int) -> bytes:
        self.ioctl(GetRegionInfo(region))
        return read(self, region, offset, count)

    monkeypatch.setattr(Ops, "read", curious)
    with pytest.raises(AssertionError):
        check_forwarded(lambda device: device.read(3, 0, 1), ("read", (3, 0, 1)), b"\3")


@pytest.mark.parametrize(
    "use",
    [
        lambda device: device.read(0, 0, 4),
        lambda device: device.write(0, 0, b"abcd"),
        lambda device: device.ioctl(GetInfo()),
        lambda device: device.region_info(0),
        lambda device: device.irq_info(0),
        lambda device: device.reset(),
        lambda device: device.mmap(0, 0, 4096),
    ],
    ids=["read", "write", "ioctl", "region_info", "irq_info", "reset", "mmap"],
)
def test_absent_operation_is_einval(use: Callable[[VfioDevice], object]) -> None:
    device = Rig(DeviceOps()).create()
    device.open(Jobs(), Memory())
    with pytest.raises(NotSupported, match="the driver has no") as caught:
        use(device)
    assert caught.value.errno == NotSupported.errno == errno.EINVAL


def test_absent_open_close_and_request_are_no_error() -> None:
    device = Rig(DeviceOps()).create()
    device.open(Jobs(), Memory())
    device.ops.request(1)
    device.close()
    assert not device.opened


@pytest.mark.parametrize("request_", [GetRegionInfo(0), GetIrqInfo(0)], ids=repr)
def test_answer_of_the_wrong_kind_is_the_drivers_error(request_: GetRegionInfo | GetIrqInfo) -> None:
    device = opened(Ops())
    ask = device.region_info if isinstance(request_, GetRegionInfo) else device.irq_info
    with pytest.raises(DriverError, match=r"Ops\.ioctl answered .* with None"):
        ask(0)


@pytest.mark.parametrize("made", [None, object(), Ops, "ops"], ids=["None", "object", "class", "str"])
def test_create_that_returns_no_device_ops_is_the_drivers_error(made: object) -> None:
    rig = Rig(made)
    with pytest.raises(DriverError, match=r"p: create returned .* expected the mdev's DeviceOps") as caught:
        rig.create()
    assert caught.value.errno == errno.EINVAL
    assert rig.registrar.log == []
    rig.check_undone()


@pytest.mark.parametrize("failure", [NoSpace("no"), OSError(errno.EMFILE, "no"), RuntimeError("no")], ids=repr)
def test_failing_registrar_undoes_the_create_with_its_errno(failure: Exception) -> None:
    rig = Rig(Ops())
    rig.registrar.failure = failure
    with pytest.raises(type(failure)) as caught:
        rig.create()
    assert errno_of(caught.value) == errno_of(failure)
    assert rig.registrar.log == ["register"], "a device that was not registered was unregistered"
    rig.check_undone()


def test_check_sees_a_parent_that_keeps_its_mdev(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Parent, "remove", lambda _self, _mdev: None)
    rig = Rig(None)
    with pytest.raises(DriverError):
        rig.create()
    with pytest.raises(AssertionError):
        rig.check_undone()


def test_remove_unregisters_the_device_before_the_parent_removes_the_mdev() -> None:
    rig = Rig(Ops())
    rig.create()
    seen: list[list[UUID]] = []
    unregister = rig.registrar.unregister

    def look(device: VfioDevice) -> None:
        seen.append(list(rig.ops.live))
        unregister(device)

    rig.registrar.unregister = look  # type: ignore[method-assign]  # a spy
    rig.bus.remove(UUID1)
    assert seen == [[UUID1]]
    assert (rig.ops.live, rig.registrar.offered, rig.driver._devices) == ([], [], {})


def test_bind_back_offers_a_new_device_with_the_same_operations() -> None:
    ops = Ops()
    rig = Rig(ops)
    first = rig.create()
    mdev = rig.bus.mdev(UUID1)
    rig.bus.unbind(mdev, "test")
    assert rig.registrar.offered == []
    rig.bus.bind(mdev, "test")
    second = rig.registrar.offered[-1]
    assert second is not first
    assert second.ops is ops


def test_closed_device_answers_enodev() -> None:
    device = opened(Ops())
    device.close()
    with pytest.raises(NoDevice):
        device.read(0, 0, 1)
