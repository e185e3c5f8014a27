"""A job reads guest memory that lies here and there into a view, and writes from one: at once, or by messages."""

from collections.abc import Callable, Iterator, Sequence
from mmap import mmap
from struct import pack
from threading import Thread
from uuid import UUID

import pytest
from typing_extensions import override

from mdev_user.driver import Bar, Device, Dma, Function, Instances, Parent, PciId, Profile, ScatterList, Session, job
from mdev_user.driver.dma import LARGEST_TRANSFER, Unbounded
from mdev_user.errors import DmaFault, DriverError
from mdev_user.host.jobs import Jobs
from mdev_user.testing import Guest
from mdev_user.vfio.dma import DmaFlags, Mapping, Pieces
from mdev_user.vfio.requests import Region
from mdev_user.vfio.step_lock import StepLock
from unit.host.parts import Clock, Memory, OpenMdev, eventually

IOVA, SIZE, HOLE = 0x10000, 0x1000, 0x13000
PIECES = ((IOVA + 0x100, 3), (IOVA + SIZE - 2, 4), (0, 0), (IOVA + 1, 1), (IOVA + SIZE + 0x10, 2))
TEXT = b"abcdefghij"
BOTH = DmaFlags.READ | DmaFlags.WRITE
Kind = Callable[[Sequence[tuple[int, int]]], Pieces]


class Regs(Bar, index=0, size=4096):
    """None."""


class Mover(Function[Profile]):
    identity = PciId(vendor=0x1DE5, device=9, class_code=0x120000)
    regs = Regs()
    pieces = Session[Pieces](list)
    data, outcomes = Session(bytearray), Session[list[Exception | None]](list)

    @job()
    async def gather(self) -> None:
        await self.attempt(self.dma.read_into(self.pieces, memoryview(self.data)))

    @job()
    async def scatter(self) -> None:
        await self.attempt(self.dma.write_from(self.pieces, self.data))

    @job()
    async def give_up(self) -> None:
        self.give_up.cancel()
        await self.dma.write_from(self.pieces, self.data)
        self.outcomes.append(None)

    async def attempt(self, access: object) -> None:
        try:
            await access  # type: ignore[misc]  # a coroutine, whose type says nothing here
        except (DmaFault, DriverError) as error:
            self.outcomes.append(error)
        else:
            self.outcomes.append(None)


class Card(Parent[Profile]):
    function = Mover
    types, instances = {"card": Profile()}, Instances(1)


class Torn(Memory):
    """A file that was cut short meanwhile."""

    @override
    def read(self, offset: int, length: int) -> bytes:
        raise DmaFault("gone")

    write = read  # type: ignore[assignment]  # it raises whatever it is given


class Rig:
    """The device in use and two pages of memory, one behind the other; a third is reached by messages, if any."""

    def __init__(self, clock: Clock) -> None:
        device = Device(Mover, Profile(), UUID(int=1))
        assert isinstance(device.function, Mover)
        self.made = device.function
        self.mdev = OpenMdev(clock.thread, device)
        self.pages = [Memory(SIZE), Memory(SIZE)]
        with self.mdev.lock:
            self.mdev.device.write(Region.CONFIG, 4, b"\x06\x00")
            for at, each in enumerate(self.pages):
                self.map(IOVA + at * SIZE, each)

    def map(self, iova: int, backing: Memory | None, flags: DmaFlags = BOTH) -> None:
        self.mdev.device.dma.map(Mapping(iova, SIZE, flags, backing))

    def start(self, pieces: Pieces, data: bytes, job: str) -> None:
        with self.mdev.lock:
            self.made.pieces, self.made.data = pieces, bytearray(data)
            getattr(self.made, job)()

    def run(self, pieces: Pieces, data: bytes, job: str) -> Exception | None:
        """What became of it."""
        self.start(pieces, data, job)
        eventually(lambda: self.made.outcomes)
        assert self.mdev.failures == []
        return self.made.outcomes.pop()

    def fill(self) -> None:
        """So that `PIECES` have `TEXT`."""
        first, second = (each.bytes for each in self.pages)
        first[0x100:0x103], first[SIZE - 2 :], second[:2] = b"abc", b"de", b"fg"
        first[1:2], second[0x10:0x12] = b"h", b"ij"


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


def listed(pieces: Sequence[tuple[int, int]]) -> ScatterList:
    """Within a longer list."""
    entries = b"".join(pack("<QI4x", *each) for each in [(0, 7), *pieces, (0, 7)])
    return ScatterList(entries).cut(7, sum(length for _address, length in pieces))


@pytest.mark.parametrize("kind", [list, listed])
def test_pieces_are_read_one_behind_the_other(rig: Rig, kind: Kind) -> None:
    rig.fill()
    assert rig.run(kind(PIECES), bytes(10), "gather") is None
    assert rig.made.data == TEXT
    assert (rig.mdev.counters["dma_read_bytes"], rig.mdev.counters["guest_errors"]) == (10, 0)


@pytest.mark.parametrize("job", ["gather", "scatter"])
@pytest.mark.parametrize("away", [False, True])
def test_job_goes_on_at_once_unless_a_message_has_to_be_sent(
    rig: Rig, job: str, away: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    awaited: list[object] = []
    real = Jobs._begin

    def begin(self: Jobs, work: object, request: object) -> object:
        awaited.append(request)
        return real(self, work, request)  # type: ignore[arg-type]  # it is the host's own

    monkeypatch.setattr(Jobs, "_begin", begin)
    with rig.mdev.lock:
        rig.map(HOLE, None)
    rig.start([*PIECES, (HOLE, 2)] if away else PIECES, bytes(12 if away else 10), job)
    eventually(lambda: rig.mdev.wire.asked if away else rig.made.outcomes)
    assert len(awaited) == away


@pytest.mark.parametrize("kind", [list, listed])
def test_pieces_are_written_and_logged(rig: Rig, kind: Kind) -> None:
    with rig.mdev.lock:
        rig.mdev.device.dma.log.start(SIZE, ())
    assert rig.run(kind(PIECES[:1]), TEXT[:3], "scatter") is None
    with rig.mdev.lock:
        assert rig.mdev.device.dma.log.report(IOVA, 2 * SIZE, SIZE)[0] == 0b01
    assert rig.run(kind(PIECES), TEXT, "scatter") is None
    with rig.mdev.lock:
        assert rig.mdev.device.dma.log.report(IOVA, 2 * SIZE, SIZE)[0] == 0b11
    written = [bytes(each.bytes) for each in rig.pages]
    for each in rig.pages:
        each.bytes[:] = bytes(SIZE)
    rig.fill()
    assert written == [each.bytes for each in rig.pages]
    assert rig.mdev.counters["dma_write_bytes"] == 13


@pytest.mark.parametrize("job", ["gather", "scatter"])
def test_what_messages_have_to_be_sent_for_comes_together_in_any_order(rig: Rig, job: str) -> None:
    with rig.mdev.lock:
        rig.map(HOLE - SIZE, None)
    rig.fill()
    far = HOLE - SIZE
    rig.start([(far + 8, 2), PIECES[0], (far, 3)], b"..abc---" if job == "scatter" else bytes(8), job)
    eventually(lambda: len(rig.mdev.wire.asked) == 2)
    (_, first, what, first_done), (_, second, more, second_done) = rig.mdev.wire.asked
    assert (first, second) == (far + 8, far)
    assert (what, more) == ((b"..", b"---") if job == "scatter" else (2, 3))
    for done, answer in ((second_done, b"yyy"), (first_done, b"xx")):
        with rig.mdev.lock:
            assert not rig.made.outcomes
            done(answer if job == "gather" else b"")
    eventually(lambda: rig.made.outcomes == [None])
    assert bytes(rig.made.data) == (b"xxabcyyy" if job == "gather" else b"..abc---")


@pytest.mark.parametrize("job", ["gather", "scatter"])
def test_scatter_list_is_reached_by_messages_too(rig: Rig, job: str) -> None:
    with rig.mdev.lock:
        rig.map(HOLE, None)
    rig.start(listed([(IOVA, 2), (HOLE + 8, 3)]), b"abcde", job)
    eventually(lambda: rig.mdev.wire.asked)
    ((_, address, _what, done),) = rig.mdev.wire.asked
    with rig.mdev.lock:
        assert address == HOLE + 8
        done(b"xyz" if job == "gather" else b"")
    eventually(lambda: rig.made.outcomes == [None])
    assert bytes(rig.made.data) == (b"\0\0xyz" if job == "gather" else b"abcde")


class Looked(Memory):
    """Sees whether another thread could unmap it while it is copied."""

    could = True
    lock: StepLock

    @override
    def gather(self, base: int, pieces: Pieces, into: memoryview) -> int:
        other = Thread(target=self.look)
        other.start()
        other.join()
        return super().gather(base, pieces, into)

    def look(self) -> None:
        self.could = self.lock.acquire(blocking=False)


def test_guest_that_unmaps_waits_for_the_copy(rig: Rig) -> None:
    memory = Looked(SIZE)
    memory.lock = rig.mdev.lock
    with rig.mdev.lock:
        rig.map(HOLE, memory)
    assert rig.run(listed([(HOLE, 8)]), bytes(8), "gather") is None
    assert not memory.could


FAULTS = [
    [(IOVA, 4), (HOLE, 4)],
    [(IOVA, 4), (IOVA + 2 * SIZE - 4, 8)],
    [(IOVA, 8), (IOVA + 8, -4)],
    [((1 << 64) - 2, 4)],
]


@pytest.mark.parametrize("pieces", FAULTS, ids=["unmapped", "half of it unmapped", "negative", "behind all memory"])
@pytest.mark.parametrize("job", ["gather", "scatter"])
@pytest.mark.parametrize("kind", [list, listed])
def test_what_is_not_mapped_is_a_fault_and_nothing_is_copied(
    rig: Rig, pieces: list[tuple[int, int]], job: str, kind: Kind
) -> None:
    if kind is listed and pieces[-1][1] < 0:
        return  # a list has no such
    rig.fill()
    before, data = bytes(rig.pages[0].bytes), bytes(sum(length for _address, length in pieces))
    assert isinstance(rig.run(kind(pieces), data, job), DmaFault)
    assert (bytes(rig.pages[0].bytes), bytes(rig.made.data)) == (before, data)
    assert (rig.mdev.counters["guest_errors"], rig.mdev.counters["dma_write_bytes"]) == (1, 0)


@pytest.mark.parametrize(("job", "flags"), [("gather", DmaFlags.WRITE), ("scatter", DmaFlags.READ)])
def test_direction_counts(rig: Rig, job: str, flags: DmaFlags) -> None:
    with rig.mdev.lock:
        rig.map(HOLE, Memory(SIZE), flags)
    assert isinstance(rig.run([(IOVA, 4), (HOLE, 4)], bytes(8), job), DmaFault)


@pytest.mark.parametrize("job", ["gather", "scatter"])
def test_memory_that_is_gone_is_a_fault_counted_once(rig: Rig, job: str) -> None:
    with rig.mdev.lock:
        rig.map(HOLE, Torn(SIZE))
    assert isinstance(rig.run([(IOVA, 4), (HOLE, 4)], bytes(8), job), DmaFault)
    assert rig.mdev.counters["guest_errors"] == 1


@pytest.mark.parametrize("job", ["gather", "scatter"])
def test_device_that_is_no_bus_master_copies_nothing(rig: Rig, job: str) -> None:
    with rig.mdev.lock:
        rig.mdev.device.write(Region.CONFIG, 4, b"\x02\x00")
    assert "bus mastering" in str(rig.run(PIECES, TEXT, job))
    assert rig.pages[0].bytes == bytes(SIZE)


@pytest.mark.parametrize("job", ["gather", "scatter"])
def test_view_of_another_length_is_the_drivers_mistake(rig: Rig, job: str) -> None:
    assert isinstance(rig.run(PIECES, bytes(9), job), DriverError)
    assert rig.mdev.counters["guest_errors"] == 0


def test_view_that_cannot_be_written_is_the_drivers_mistake(rig: Rig) -> None:
    with pytest.raises(DriverError, match="can be written"):
        rig.made.dma.read_into(PIECES, memoryview(TEXT)).send(None)


def test_sum_has_an_end(rig: Rig) -> None:
    half = LARGEST_TRANSFER // 2
    many = memoryview(mmap(-1, LARGEST_TRANSFER + 1))  # nobody touches it
    for access in (Dma.read_into, Dma.write_from):
        with rig.mdev.lock, pytest.raises(Unbounded):
            access(rig.made.dma, [(IOVA, half), (IOVA, half + 1)], many).send(None)
    assert rig.mdev.counters["guest_errors"] == 2


def test_nothing_is_copied_for_a_job_that_was_cancelled(rig: Rig) -> None:
    rig.start(PIECES, TEXT, "give_up")

    def idle() -> bool:
        with rig.mdev.lock:
            return not rig.mdev.jobs._pending

    eventually(idle)
    assert (rig.made.outcomes, bytes(rig.pages[0].bytes)) == ([], bytes(SIZE))
    with rig.mdev.lock:
        assert not rig.mdev.jobs.gather_now(PIECES, memoryview(bytearray(10)))
        assert not rig.mdev.jobs.scatter_now(PIECES, memoryview(TEXT))


def test_guest_of_a_test_is_read_as_late_and_written_as_early_as_can_be() -> None:
    with Guest(Card) as guest:
        made = guest.device.function
        assert isinstance(made, Mover)
        made.pieces, made.data = [(0x100, 4), (0x2000, 4)], bytearray(b"ABCDEFGH")
        made.scatter()
        guest.step()
        assert guest.memory[0x100:0x104] + guest.memory[0x2000:0x2004] == b"ABCDEFGH"
        guest.run()
        made.gather()
        guest.step()
        guest.memory[0x2000:0x2004] = b"late"
        assert guest.step()
        assert (made.outcomes, bytes(made.data), guest.step()) == ([None, None], b"ABCDlate", False)
        made.pieces = [(0x100, 4), (1 << 40, 4)]
        made.gather()
        guest.run()
        assert (guest.errors, type(made.outcomes[-1])) == (1, DmaFault)
