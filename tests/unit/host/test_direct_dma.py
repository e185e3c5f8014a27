"""DMA to memory that is there is done for the job at once, and means what it means when it is awaited."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from typing_extensions import override

from mdev_user.driver import MSI, U32, Bar, Device, Flag, Function, Interrupt, PciId, Profile, Register, Saved, job
from mdev_user.errors import DmaFault
from mdev_user.host.jobs import Jobs
from mdev_user.vfio.dma import DmaFlags, Mapping
from mdev_user.vfio.requests import Irq, IrqAction, Region, SetIrqs
from unit.host.parts import Clock, Memory, OpenMdev, eventually

IOVA, SIZE = 0x10000, 0x1000


class Status(Register):
    done = Flag(0)


class Regs(Bar, index=0, size=4096):
    status = Status.at(0)
    scratch = U32(4)


class Copier(Function[Profile]):
    identity = PciId(vendor=0x1DE5, device=9, class_code=0x120000)
    regs, vectors = Regs(), MSI(1)
    done = Interrupt(Regs.status.done)
    faults, after = Saved(0), Saved(0)

    @job()
    async def copy(self, source: int, target: int) -> None:
        await self.dma.write(target, await self.dma.read(source, 4))
        self.after += 1

    @job()
    async def tell(self) -> None:
        self.regs.status.done = True
        await self.dma.write(IOVA, b"told")

    @job()
    async def give_up(self) -> None:
        self.give_up.cancel()
        await self.dma.write(IOVA, b"more")
        self.after += 1

    @job()
    async def fail(self, address: int) -> None:
        try:
            await self.dma.write(address, b"lost")
        except DmaFault:
            self.faults += 1
        await self.dma.read(address, 4)
        self.after += 1


class Wire:
    """An eventfd that counts."""

    def __init__(self) -> None:
        self.signals = 0

    def signal(self) -> None:
        self.signals += 1

    def watch(self, signalled: object) -> None: ...

    def close(self) -> None: ...


class Watched(Memory):
    """Notes how many interrupts the guest has when something is written to it."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(SIZE)
        self.wire = wire
        self.interrupts: list[int] = []

    @override
    def write(self, offset: int, data: bytes) -> None:
        self.interrupts.append(self.wire.signals)
        super().write(offset, data)


class Torn(Memory):
    """A file that was cut short meanwhile."""

    @override
    def read(self, offset: int, length: int) -> bytes:
        raise DmaFault("gone")

    @override
    def write(self, offset: int, data: bytes) -> None:
        raise DmaFault("gone")


class Rig:
    """The device in use, bus master, with memory that can be copied at once at `IOVA` and behind it."""

    def __init__(self, clock: Clock) -> None:
        device = Device(Copier, Profile(), UUID(int=1))
        made = device.function
        assert isinstance(made, Copier)
        self.made = made
        self.mdev = OpenMdev(clock.thread, device)
        self.wire = Wire()
        self.memory = Watched(self.wire)
        with self.mdev.lock:
            self.mdev.device.write(Region.CONFIG, 4, b"\x06\x00")
            self.mdev.device.ioctl(SetIrqs(Irq.MSI, 0, 1, IrqAction.TRIGGER, eventfds=(self.wire,)))
            self.map(IOVA, self.memory)
            self.map(IOVA + SIZE, Torn(SIZE))
            self.map(IOVA + 2 * SIZE, None)

    def map(self, iova: int, backing: Memory | None) -> None:
        self.mdev.device.dma.map(Mapping(iova, SIZE, DmaFlags.READ | DmaFlags.WRITE, backing))

    def ended(self) -> None:
        def idle() -> bool:
            with self.mdev.lock:
                return not self.mdev.jobs._pending

        eventually(idle)
        assert self.mdev.failures == []


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.thread.stop()


@pytest.fixture
def rig(clock: Clock) -> Iterator[Rig]:
    rig = Rig(clock)
    yield rig
    with rig.mdev.lock:
        rig.mdev.device.close()


@pytest.fixture
def awaited(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What jobs await."""
    requests: list[object] = []
    real = Jobs._begin

    def begin(self: Jobs, job: object, request: object) -> object:
        requests.append(request)
        return real(self, job, request)  # type: ignore[arg-type]  # it is the host's own

    monkeypatch.setattr(Jobs, "_begin", begin)
    return requests


def test_what_is_there_is_copied_at_once_and_counted(rig: Rig, awaited: list[object]) -> None:
    with rig.mdev.lock:
        rig.memory.bytes[:4] = b"data"
        rig.mdev.device.dma.log.start(SIZE, ((IOVA, SIZE),))
        rig.made.copy(IOVA, IOVA + 8)
    rig.ended()
    assert (bytes(rig.memory.bytes[8:12]), rig.made.after, awaited) == (b"data", 1, [])
    counters = rig.mdev.counters
    assert (counters["dma_read_bytes"], counters["dma_write_bytes"], counters["guest_errors"]) == (4, 4, 0)
    with rig.mdev.lock:
        assert rig.mdev.device.dma.log.report(IOVA, SIZE, SIZE)[0] == 1


def test_what_a_message_has_to_be_sent_for_is_awaited(rig: Rig, awaited: list[object]) -> None:
    """The negative control of the above."""
    with rig.mdev.lock:
        rig.made.copy(IOVA + 2 * SIZE, IOVA)
    eventually(lambda: rig.mdev.wire.asked)
    assert len(awaited) == 1


def test_what_a_step_did_is_settled_before_the_guest_sees_its_dma(rig: Rig) -> None:
    with rig.mdev.lock:
        rig.made.tell()
    rig.ended()
    assert rig.memory.interrupts == [1]


def test_a_step_that_was_not_settled_would_be_seen(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    ignored = property(lambda _self: lambda: None, lambda _self, _settle: None)
    monkeypatch.setattr(Device, "settle_step", ignored, raising=False)
    rig = Rig(clock)
    with rig.mdev.lock:
        rig.made.tell()
    rig.ended()
    assert rig.memory.interrupts == [0]
    with rig.mdev.lock:
        rig.mdev.device.close()


def test_a_job_that_has_cancelled_itself_ends_at_its_dma(rig: Rig) -> None:
    with rig.mdev.lock:
        rig.made.give_up()
    rig.ended()
    assert (rig.memory.interrupts, rig.made.after) == ([], 0)


@pytest.mark.parametrize("address", [0, IOVA + SIZE, IOVA + SIZE - 2], ids=["unmapped", "torn", "half of it torn"])
def test_a_fault_is_raised_in_the_job_and_counted_once(rig: Rig, address: int) -> None:
    with rig.mdev.lock:
        rig.made.fail(address)
    rig.ended()
    assert (rig.made.faults, rig.made.after, rig.mdev.counters["guest_errors"]) == (1, 0, 2)


def test_nothing_is_copied_for_nobody(rig: Rig) -> None:
    with rig.mdev.lock:
        assert rig.mdev.jobs.read_now(IOVA, 4) is None
        assert not rig.mdev.jobs.write_now(IOVA, b"more")
    assert rig.memory.interrupts == []
