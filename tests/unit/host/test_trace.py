"""Traces: bound between two steps, told to every reader, bounded, and gone without a trace."""

import gc
import time
from collections.abc import Iterator
from threading import Event, Thread, Timer
from weakref import ref

import pytest
from typing_extensions import override

from mdev_user.errors import Busy, NoDevice, OutOfRange
from mdev_user.host import steps, trace
from mdev_user.host.job_thread import JobThread
from mdev_user.host.trace import MOST_READERS, MOST_WAITING, Tracer
from mdev_user.vfio.counters import Counters
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.inspection import Decoded, Decoder, Sighting, TouchedRegister, TraceLine
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.requests import Reply, Request
from mdev_user.vfio.work import Sleep
from mdev_user.vfio_user.token_lock import TokenLock
from unit.host.parts import SECONDS, OpenMdev, RegionMemory

MOST = 10_000


class Seen:
    """A sighting that knows one register."""

    def __init__(self, *, wrong: bool) -> None:
        self.ended = False
        self.wrong = wrong

    def end(self) -> None:
        self.ended = True
        if self.wrong:
            raise ValueError("a mistake of the sighting's")

    def tell(self, data: bytes) -> Decoded:
        assert self.ended
        return Decoded(registers=(TouchedRegister("only", int.from_bytes(data, "little"), len(data)),))


class Names:
    def look(self, region: int, offset: int, count: int, *, written: bool) -> Sighting:
        if offset == 0xDEC0DE:
            raise ValueError("a mistake of the decoder's")
        return Seen(wrong=offset == 0x5EE)


class Driver(DeviceOps):
    """Sixteen bytes; offset 16 is out of range, 17 a bug, 18 starts a job, 19 counts an interrupt."""

    def __init__(self, decoder: Decoder | None = None) -> None:
        self.bytes = bytearray(16)
        self.names = decoder
        self.device: VfioDevice
        self.blocked: Event | None = None
        self.blocking = Event()

    @override
    def open_device(self, device: VfioDevice) -> None:
        self.device = device

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        if offset == 16:
            raise OutOfRange("past the end \x1b[31m\n")
        if offset == 17:
            raise ValueError("a bug")
        if offset == 18:
            self.device.spawn(self.work(), "work")
        if offset == 19:
            self.device.counters.interrupts += 1
        if self.blocked is not None:
            self.blocking.set()
            assert self.blocked.wait(SECONDS)
        return bytes(self.bytes[offset : offset + count]).ljust(count, b"\0")

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        self.bytes[offset : offset + len(data)] = data[:16]

    @override
    def ioctl(self, request: Request) -> Reply:
        return None

    @override
    def decoder(self) -> Decoder | None:
        return self.names

    async def work(self) -> None:
        await Sleep(100)


class Scene:
    def __init__(self, thread: JobThread, decoder: Decoder | None = None) -> None:
        self.driver = Driver(decoder)
        self.mdev = OpenMdev(thread, self.driver)
        self.device, self.lock = self.mdev.device, self.mdev.lock
        self.tracer = Tracer(self.device, self.lock, lambda: "pid 7 (test)")

    def read(self, offset: int, count: int = 1) -> bytes:
        with self.lock:
            return self.device.read(0, offset, count)

    def write(self, offset: int, data: bytes) -> None:
        with self.lock:
            self.device.write(0, offset, data)

    def lines(self, reader: int = 1) -> list[TraceLine]:
        return self.tracer.read(reader, 0, MOST)

    def is_direct(self) -> bool:
        """Whether an access goes to the driver's own methods."""
        device, driver = self.device, self.driver
        return (device.read, device.write, device.ioctl) == (driver.read, driver.write, driver.ioctl)


@pytest.fixture
def thread() -> Iterator[JobThread]:
    thread = JobThread()
    yield thread
    thread.stop()


@pytest.fixture
def scene(thread: JobThread) -> Iterator[Scene]:
    scene = Scene(thread)
    yield scene
    with scene.lock:
        scene.device.close()


def kinds(lines: list[TraceLine]) -> list[str]:
    return [line.kind for line in lines]


def test_an_mdev_that_nobody_traces_performs_the_drivers_own_methods(scene: Scene) -> None:
    assert scene.is_direct()
    scene.tracer.begin(1)
    assert not scene.is_direct()
    scene.tracer.end(1)
    assert scene.is_direct()


def test_accesses_are_told_in_their_order_with_their_data(scene: Scene) -> None:
    scene.tracer.begin(1)
    before = time.time()
    scene.write(2, b"\x01\x02")
    assert scene.read(2, 4) == b"\x01\x02\0\0"
    written, read = scene.lines()
    assert (written.kind, written.region, written.offset, written.size, written.data) == ("write", 0, 2, 2, "0102")
    assert (read.kind, read.size, read.data, read.decoded) == ("read", 4, "01020000", None)
    assert before <= written.time <= read.time <= time.time()
    assert scene.lines() == []


def test_what_was_before_the_trace_is_not_told(scene: Scene) -> None:
    scene.read(0)
    scene.tracer.begin(1)
    assert scene.lines() == []


def test_a_decoder_gives_an_access_its_names(thread: JobThread) -> None:
    scene = Scene(thread, Names())
    scene.tracer.begin(1)
    scene.write(0, b"\x05")
    [line] = scene.lines()
    assert line.decoded == Decoded(registers=(TouchedRegister("only", 5, 1),))


@pytest.mark.parametrize("offset", [0xDEC0DE, 0x5EE])
def test_a_decoder_with_a_mistake_does_the_guest_no_harm(
    thread: JobThread, caplog: pytest.LogCaptureFixture, offset: int
) -> None:
    scene = Scene(thread, Names())
    scene.tracer.begin(1)
    assert scene.read(offset, 4) == bytes(4)
    scene.read(0)
    assert [line.decoded for line in scene.lines()] == [None, None]
    assert "the trace goes on without names" in caplog.text


def test_a_refused_access_is_told_and_refused(scene: Scene) -> None:
    scene.tracer.begin(1)
    with pytest.raises(OutOfRange):
        scene.read(16)
    with pytest.raises(ValueError, match="a bug"):
        scene.read(17)
    assert [line.text for line in scene.lines()] == ["past the end \x1b[31m\n", "a bug"]


def test_a_long_access_keeps_its_first_bytes(scene: Scene) -> None:
    scene.tracer.begin(1)
    scene.write(0, bytes(range(256)) * 4096)
    assert max(len(event.data) for event in scene.tracer._readers[1].waiting) <= 64
    [line] = scene.lines()
    assert (line.size, bytes.fromhex(line.data)) == (1 << 20, bytes(range(16)))


def test_a_job_is_told_after_the_access_that_started_it(scene: Scene) -> None:
    scene.tracer.begin(1)
    scene.read(18)
    read, job = scene.lines()
    assert (read.kind, job.kind, job.text) == ("read", "job", "work")


def test_interrupts_of_a_job_come_before_the_next_access(scene: Scene) -> None:
    scene.tracer.begin(1)
    scene.read(19)
    scene.device.counters.interrupts += 2  # a job's
    scene.read(0)
    lines = scene.lines()
    assert kinds(lines) == ["read", "interrupt", "read"]
    assert [(line.interrupts, line.count) for line in lines] == [(1, 0), (0, 2), (0, 0)]


def test_a_reset_is_told(scene: Scene) -> None:
    scene.tracer.begin(1)
    with scene.lock:
        scene.device.reset()
    assert kinds(scene.lines()) == ["reset"]


def test_a_trace_goes_on_when_the_user_leaves_and_another_comes(scene: Scene) -> None:
    scene.tracer.begin(1)
    with scene.lock:
        scene.device.close()
        scene.device.open(scene.mdev.jobs, RegionMemory())
    scene.read(0)
    assert kinds(scene.lines()) == ["closed", "opened", "read"]
    scene.tracer.end(1)
    assert scene.is_direct()


def test_a_trace_can_begin_before_the_first_user(scene: Scene) -> None:
    with scene.lock:
        scene.device.close()
    scene.tracer.begin(1)
    with pytest.raises(NoDevice):
        scene.read(0)
    with scene.lock:
        scene.device.open(scene.mdev.jobs, RegionMemory())
    scene.read(0)
    assert kinds(scene.lines()) == ["opened", "read"]


def test_a_trace_that_ended_while_closed_leaves_nothing(scene: Scene) -> None:
    scene.tracer.begin(1)
    with scene.lock:
        scene.device.close()
    scene.tracer.end(1)
    with scene.lock:
        scene.device.open(scene.mdev.jobs, RegionMemory())
    assert scene.is_direct()


def test_other_operations_of_a_replaced_driver_are_the_ones_that_are_watched(scene: Scene) -> None:
    old, new = scene.driver, Driver(Names())
    new.open_device(scene.device)
    scene.tracer.begin(1)
    with scene.lock:
        scene.device.replace(new)
    scene.write(0, b"\x09")
    reloaded, written = scene.lines()
    assert (reloaded.kind, written.decoded is not None) == ("reloaded", True)
    assert (old.bytes[0], new.bytes[0]) == (0, 9)


def test_a_trace_keeps_no_driver_that_was_replaced(scene: Scene) -> None:
    gone = ref(scene.driver)
    scene.tracer.begin(1)
    scene.write(0, b"\x09")
    with scene.lock:
        scene.device.replace(Driver())
    scene.driver = scene.device.ops  # type: ignore[assignment]  # just made
    gc.collect()
    assert gone() is None
    scene.tracer.end(1)
    assert scene.is_direct()


# --- readers ----------------------------------------------------------------------------------------------------


def test_a_slow_reader_loses_the_oldest_lines_and_is_told_how_many(scene: Scene) -> None:
    scene.tracer.begin(1)
    for _ in range(MOST_WAITING + 5):
        scene.read(0)
    lines = scene.lines()
    assert (lines[0].kind, lines[0].count) == ("lost", 5)
    assert kinds(lines[1:]) == ["read"] * MOST_WAITING
    scene.read(0)
    assert kinds(scene.lines()) == ["read"]


def test_with_a_queue_that_has_no_end_nothing_would_be_lost(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(trace, "MOST_WAITING", None)
    scene.tracer.begin(1)
    for _ in range(MOST_WAITING + 5):
        scene.read(0)
    assert len(scene.lines()) == MOST_WAITING + 5


def test_a_reader_gets_as_many_lines_as_it_takes(scene: Scene) -> None:
    scene.tracer.begin(1)
    for offset in range(5):
        scene.read(offset)
    assert [line.offset for line in scene.tracer.read(1, 0, 2)] == [0, 1]
    assert [line.offset for line in scene.tracer.read(1, 0, MOST)] == [2, 3, 4]


def test_a_reader_that_waits_is_given_a_line_when_there_is_one(scene: Scene) -> None:
    scene.tracer.begin(1)
    Timer(0.1, scene.read, (3,)).start()
    began = time.monotonic()
    assert [line.offset for line in scene.tracer.read(1, SECONDS, MOST)] == [3]
    assert time.monotonic() - began < SECONDS / 2


def test_several_readers_see_the_same(scene: Scene) -> None:
    scene.tracer.begin(1)
    scene.read(1)
    scene.tracer.begin(2)
    scene.read(2)
    assert [line.offset for line in scene.lines(2)] == [2]
    scene.tracer.end(2)
    scene.read(3)
    assert [line.offset for line in scene.lines(1)] == [1, 2, 3]
    assert not scene.is_direct()
    scene.tracer.end(1)
    assert scene.is_direct()


def test_one_reader_too_many_is_refused(scene: Scene) -> None:
    for reader in range(MOST_READERS):
        scene.tracer.begin(reader)
    with pytest.raises(Busy, match="traced 8 times, which is the most"):
        scene.tracer.begin(99)
    scene.tracer.end(3)
    scene.tracer.begin(99)


def test_a_reader_that_did_not_begin_is_refused(scene: Scene) -> None:
    with pytest.raises(NoDevice, match="this trace has ended"):
        scene.lines()
    scene.tracer.end(1)


def test_a_reader_that_does_not_come_back_is_forgotten(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.tracer.begin(1)
    scene.read(0)
    monkeypatch.setattr(trace, "_ABANDONED", -1.0)
    scene.read(0)
    assert scene.is_direct()
    with pytest.raises(NoDevice):
        scene.lines()


# --- a driver that is stuck -------------------------------------------------------------------------------------


@pytest.fixture
def stuck(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """An access that does not return until the end of the test."""
    monkeypatch.setattr(steps, "PATIENCE", 0.05)
    scene.tracer.begin(1)
    scene.driver.blocked = Event()
    accessing = Thread(target=scene.read, args=(0,))
    accessing.start()
    assert scene.driver.blocking.wait(SECONDS)
    yield scene
    scene.driver.blocked.set()
    accessing.join(SECONDS)
    assert scene.is_direct()


def test_nobody_waits_for_a_driver_that_is_stuck(stuck: Scene) -> None:
    with pytest.raises(Busy, match="its driver is stuck"):
        stuck.tracer.begin(2)
    assert stuck.lines() == []
    stuck.tracer.end(1)  # and when it goes on, nobody watches: see the fixture


def test_readers_that_come_and_go_disturb_no_access(scene: Scene) -> None:
    stop, failures = Event(), []

    def access() -> None:
        while not stop.is_set():
            scene.write(0, b"\x2a")
            if scene.read(0) != b"\x2a":
                failures.append("a wrong byte")

    user = Thread(target=access)
    user.start()
    for reader in range(50):
        scene.tracer.begin(reader)
        assert scene.tracer.read(reader, SECONDS, MOST)
        scene.tracer.end(reader)
    stop.set()
    user.join(SECONDS)
    assert failures == []
    scene.read(0)
    assert scene.is_direct()


def test_a_lock_that_is_free_is_given_back() -> None:
    lock = TokenLock()
    with pytest.raises(ValueError, match="inside"), steps.step_within(lock, Counters(), "look"):
        raise ValueError("inside")
    assert not lock.locked()
