"""What the tests in here look at: guests with mdevs, and what guest and daemon each say about these."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import NamedTuple, Self, TypeVar
from uuid import UUID

from mdev_user.guests import serial
from mdev_user.guests.qmp import Json
from mdev_user.guests.serial import Exchange
from mdev_user.guests.vm import KERNEL_COMMAND_LINE, Guest
from mdev_user.testing.daemon import RunningDaemon

BROKEN = Path(__file__).with_name("broken_parents.py")
HOTPLUG = ("-device", "pcie-root-port,id=socket,slot=1,chassis=1")
"""QEMU's arguments for a socket into which `plugged` plugs."""
DRIVERLESS = ("-append", f"{KERNEL_COMMAND_LINE},serial_pci_driver_init")
"""QEMU's arguments for a guest without the 8250 driver's PCI part: nobody touches the registers before the test."""

RBR = THR = 0
IER = 1
LSR = 5
DATA_READY = 0x01
OLD = b"old"

_TICK = 0.02
_T = TypeVar("_T")


@dataclass(frozen=True)
class Tenant:
    """A booted guest, its mdevs by their parent's name, and its ports (ttyS2 ...) likewise."""

    daemon: RunningDaemon
    guest: Guest
    mdevs: Mapping[str, UUID]
    ports: Mapping[str, Sequence[str]]

    @classmethod
    def booted(cls, daemon: RunningDaemon, guest: Guest, mdevs: Mapping[str, UUID]) -> Self:
        guest.boot()
        found = iter(serial.ports(guest))
        return cls(daemon, guest, mdevs, {name: _take(found, daemon, uuid) for name, uuid in mdevs.items()})

    def exchange(self, pattern: bytes, size: int, parent: str = "mtty", seconds: float = 20.0) -> Exchange:
        return serial.exchange(self.guest, self.ports[parent][0], pattern, size, seconds)

    def converse(self, line: str, times: int) -> Exchange:
        return serial.converse(self.guest, self.ports["mtty"][0], line, times)

    def counted(self, work: Callable[[], Exchange], parent: str = "mtty") -> tuple[Exchange, int]:
        """An exchange, and how many interrupts the device counted in it."""
        before = self.interrupts(parent)
        return work(), self.interrupts(parent) - before

    def interrupts(self, parent: str = "mtty") -> int:
        """How often the device interrupted since its creation, as the daemon counts it."""
        return int(self.daemon.control.mdev(self.mdevs[parent]).counters["interrupts"])


class Scene(NamedTuple):
    """Two tenants of the parent ``mtty``."""

    one: Tenant
    two: Tenant


@dataclass(frozen=True)
class Function:
    """A PCI function in a guest, whose registers are used through sysfs: no driver is in the way."""

    guest: Guest
    address: str

    def read(self, register: int, bar: int = 0) -> int:
        script = f"dd if={self._path}/resource{bar} bs=1 skip={register} count=1 2>/dev/null"
        return self.guest.attempt(script).output[0]

    def write(self, register: int, data: bytes, bar: int = 0) -> None:
        for value in data:
            self.guest.run(
                f"printf '\\{value:03o}' | dd of={self._path}/resource{bar} bs=1 seek={register} conv=notrunc"
            )

    def enable(self) -> None:
        self.guest.run(f"echo 1 >{self._path}/enable")

    @property
    def _path(self) -> str:
        return f"/sys/bus/pci/devices/{self.address}"


def functions(guest: Guest) -> list[Function]:
    """The guest's mtty functions, in the order of the bus."""
    script = "cd /sys/bus/pci/devices; grep -l 0x4348 */vendor"
    return [Function(guest, path.split("/")[0]) for path in guest.run(script).split()]


@contextmanager
def plugged(daemon: RunningDaemon, guest: Guest, uuid: UUID) -> Iterator[str]:
    """The port of an mdev hot-plugged into a running guest; at the end the guest gives the mdev back."""
    before = serial.ports(guest)
    socket: Json = {"type": "unix", "path": str(daemon.run_dir.socket(uuid))}
    guest.qmp.execute("device_add", {"driver": "vfio-user-pci", "id": "hot", "bus": "socket", "socket": socket})
    try:
        (port,) = eventually(lambda: set(serial.ports(guest)) - set(before), 20)
        yield port
    finally:
        guest.qmp.events.clear()
        guest.qmp.execute("device_del", {"id": "hot"})
        eventually(lambda: _deleted(guest, "hot"), 20)
    assert serial.ports(guest) == before


def disagreement(done: Exchange, device: int, tolerance: float) -> str:
    """What is wrong with the interrupts of an exchange, of which the device counted ``device``; nothing if right.

    At least one for four full FIFOs, and both counts alike but for a factor of 1 + ``tolerance``. On a machine at rest
    a tenth is enough; on a busy one they differ by a third at times. QEMU asserts a level again at each of the guest's
    accesses while it is up, and the last assertion may come late, when it means nothing but is counted by the guest.
    And one long visit of the guest's driver serves what the device raised meanwhile.
    """
    if done.interrupts < len(done.sent) / 64:
        return f"{done.interrupts} interrupts for {len(done.sent)} bytes"
    if not device / (1 + tolerance) <= done.interrupts <= device * (1 + tolerance):
        return f"the guest counted {done.interrupts}, the device {device}"
    return ""


def at_once(*works: Callable[[], _T]) -> list[_T]:
    """The results of all ``works``, done at the same time."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [each.result() for each in [pool.submit(work) for work in works]]


@contextmanager
def talking(tenant: Tenant) -> Iterator[list[Exchange]]:
    """The tenant's conversations, which go on from before the block to after it; complete after it."""
    talks: list[Exchange] = []
    ended = Event()

    def talk() -> None:
        while not ended.is_set():
            talks.append(tenant.converse("I go on", 40))

    before = tenant.interrupts()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(talk)
        try:
            eventually(lambda: tenant.interrupts() > before, 30)
            yield talks
        finally:
            ended.set()
        future.result()


def eventually(condition: Callable[[], _T], seconds: float) -> _T:
    """The first true value of ``condition``, which must come within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(_TICK)
    return value


def is_free(daemon: RunningDaemon, uuid: UUID) -> bool:
    """Whether nobody uses the mdev."""
    return daemon.control.mdev(uuid).client is None


def _take(found: Iterator[str], daemon: RunningDaemon, uuid: UUID) -> list[str]:
    count = int(daemon.control.mdev(uuid).type.rpartition("-")[2])
    return [next(found) for _ in range(count)]


def _deleted(guest: Guest, device: str) -> bool:
    guest.qmp.execute("query-status")  # events come with replies
    told: list[Json] = [each.get("data") for each in guest.qmp.events if each["event"] == "DEVICE_DELETED"]
    return any(isinstance(data, dict) and data.get("device") == device for data in told)
