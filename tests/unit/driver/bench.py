"""One declared device on a bench: opened without a host, its jobs run step by step by the test."""

from collections.abc import Coroutine
from typing import Any
from uuid import UUID

from mdev_user.driver import Device, Function, Profile
from mdev_user.driver.parent import Parent
from mdev_user.errors import GuestError
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.requests import Eventfd, Irq, IrqAction, Region, Reset, SetIrqs
from mdev_user.vfio.work import Spent

UUID1 = UUID(int=1)


class Jobs:
    """A JobRunner whose jobs do nothing until `step` says so."""

    def __init__(self, device: VfioDevice) -> None:
        self.waiting: list[tuple[str, Coroutine[object, Any, None]]] = []  # Any: what each await wants
        self.requests: list[object] = []
        self.errors: list[Exception] = []
        self.now = 0.0
        self.paused = False
        self._device = device

    def spawn(self, work: Coroutine[object, bytes, None], name: str) -> None:
        self.waiting.append((name, work))

    def spent(self) -> Spent:
        return Spent(0.0, 0.0)

    def cancel(self, work: Coroutine[object, bytes, None]) -> None:
        self.waiting = [each for each in self.waiting if each[1] is not work]
        work.close()

    def cancel_all(self) -> None:
        for _name, work in self.waiting:
            work.close()
        self.waiting.clear()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def step(self, outcome: object = None) -> object:
        """Run the job that waits longest until its next await, which is returned; None when it has ended.

        As the host does: an exception is thrown in, and a guest's error is counted once, before it is.
        """
        name, work = self.waiting.pop(0)
        try:
            if isinstance(outcome, Exception):
                if isinstance(outcome, GuestError):
                    self._device.counters.guest_error(outcome)
                request = work.throw(outcome)
            else:
                request = work.send(outcome)
        except StopIteration:
            return None
        except GuestError as error:
            if error is not outcome:
                self._device.counters.guest_error(error)
            return None
        self.waiting.append((name, work))
        return request


class Memory:
    """The mappable regions, of which nobody has a file."""

    fd = -1

    def __init__(self) -> None:
        self.regions: dict[int, bytearray] = {}

    def view(self, index: int, size: int) -> memoryview:
        return memoryview(self.regions.setdefault(index, bytearray(size)))


class Wire:
    """An eventfd that counts."""

    def __init__(self) -> None:
        self.signals = 0

    def signal(self) -> None:
        self.signals += 1

    def watch(self, signalled: object) -> None: ...

    def close(self) -> None: ...

    def take(self) -> int:
        signals, self.signals = self.signals, 0
        return signals


class Bench:
    """A device that is open, with bus mastering and memory enabled."""

    def __init__(
        self, kind: type[Function[Any]], profile: Profile | None = None, parent: Parent[Any] | None = None
    ) -> None:  # Any: of whatever profile
        self.device = Device(kind, profile or Profile(), UUID1)
        self.vfio = VfioDevice(UUID1, "bench", self.device)
        self.open()

    def open(self) -> None:
        self.jobs, self.memory = Jobs(self.vfio), Memory()
        self.vfio.open(self.jobs, self.memory)
        self.write(4, b"\x07\x00", Region.CONFIG)

    def close(self) -> None:
        self.vfio.close()

    def reset(self) -> None:
        self.jobs.cancel_all()
        self.vfio.ioctl(Reset())

    def read(self, offset: int, count: int = 4, region: int = 0) -> int:
        return int.from_bytes(self.vfio.read(region, offset, count), "little")

    def write(self, offset: int, data: bytes | int, region: int = 0) -> None:
        self.vfio.write(region, offset, data.to_bytes(4, "little") if isinstance(data, int) else data)

    def arm(self, index: Irq, count: int = 1) -> list[Wire]:
        wires = [Wire() for _ in range(count)]
        eventfds: tuple[Eventfd, ...] = tuple(wires)
        self.vfio.ioctl(SetIrqs(index, 0, count, IrqAction.TRIGGER, eventfds=eventfds))
        return wires

    @property
    def errors(self) -> int:
        return self.vfio.counters.guest_errors
