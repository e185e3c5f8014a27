"""What a device writes into its guest's memory is in the dirty log, whatever way the bytes take."""

from collections.abc import Iterator

import pytest
from typing_extensions import override

from mdev_user.driver import U32, WO, Bar, Function, Instances, Parent, PciId, Profile, job, on_write
from mdev_user.errors import DmaFault
from mdev_user.testing.guest import Guest
from mdev_user.units import PAGE
from mdev_user.vfio.dirty import DirtyLog
from mdev_user.vfio.dma import Backing, DmaFlags, Mapping
from unit.vfio.test_dirty import pages

SHARED = 0x200_0000
"""Where memory lies that is copied to and not asked for."""


class Regs(Bar, index=0, size=16):
    target, length, read_only = U32(0), U32(4), U32(8, WO)


class Writer(Function[Profile]):
    identity = PciId(vendor=0x1DE5, device=0x0EEF, class_code=0x120000)
    regs = Regs()

    @on_write(Regs.length)
    def begin(self, length: int) -> None:
        self.store(self.regs.target, length % (16 * PAGE))

    @on_write(Regs.read_only)
    def look(self, length: int) -> None:
        self.load(self.regs.target, length % PAGE)

    @job()
    async def store(self, target: int, length: int) -> None:
        await self.dma.write(target, b"x" * length)

    @job()
    async def load(self, target: int, length: int) -> None:
        await self.dma.read(target, length)


class Card(Parent[Profile]):
    function = Writer
    types, instances = {"card": Profile()}, Instances(4)


class Shared(Backing):
    """Memory that the VMM shared."""

    def __init__(self) -> None:
        self.data = bytearray(4 * PAGE)

    @override
    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    @override
    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data

    @override
    def close(self) -> None: ...


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(Card) as guest:
        both = DmaFlags.READ | DmaFlags.WRITE
        guest._vfio.dma.map(Mapping(SHARED, 4 * PAGE, both, Shared()))
        guest.map(SHARED + 4 * PAGE, 4 * PAGE)
        guest._vfio.dma.log.start(PAGE, ())
        yield guest


def written(guest: Guest, target: int, length: int) -> list[int]:
    """The pages of 64, from a page before the target on, that a write makes dirty."""
    guest.write(Regs.target, target)
    guest.write(Regs.length, length)
    guest.run()
    base = target - target % PAGE - PAGE
    return pages(guest._vfio.dma.log.report(base, 64 * PAGE, PAGE))


def test_written_by_messages(guest: Guest) -> None:
    assert written(guest, 0x5010, 2 * PAGE) == [1, 2, 3]
    assert guest.memory[0x5010:0x5012] == b"xx"


def test_written_to_shared_memory(guest: Guest) -> None:
    assert written(guest, SHARED + 0x1010, PAGE) == [1, 2]


def test_written_partly_by_messages(guest: Guest) -> None:
    assert written(guest, SHARED + 3 * PAGE, 2 * PAGE) == [1, 2]


def test_a_message_is_dirty_when_it_is_sent_and_when_it_is_answered(guest: Guest) -> None:
    """A client may ask before it has written, or before it has answered; neither may forget the page."""
    guest.write(Regs.target, 0x5000)
    guest.write(Regs.length, 4)
    guest.step()
    for _ in range(2):  # a device that is stopped now has perhaps written since
        assert pages(guest._vfio.dma.log.report(0x5000, PAGE, PAGE)) == [0]
    guest.run()
    assert pages(guest._vfio.dma.log.report(0x5000, PAGE, PAGE)) == [0]
    assert pages(guest._vfio.dma.log.report(0x5000, PAGE, PAGE)) == []


def test_a_write_that_fails_half_way_is_dirty(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file of memory that has no room for all of it, or huge pages of which one is missing."""

    def write(self: Shared, offset: int, data: bytes) -> None:
        self.data[offset : offset + 4] = data[:4]
        raise DmaFault("no room for more")

    monkeypatch.setattr(Shared, "write", write)
    assert written(guest, SHARED + 0x1010, 8) == [1]
    assert written(guest, SHARED + 3 * PAGE, 2 * PAGE) == [1, 2]


def test_reading_and_a_fault_are_not_dirty(guest: Guest) -> None:
    guest.write(Regs.target, 0x5000)
    guest.write(Regs.read_only, 64)
    guest.run()
    assert written(guest, 0x900_0000, 4) == []
    assert guest.errors == 1
    assert pages(guest._vfio.dma.log.report(0, 64 * PAGE, PAGE)) == []


def test_it_is_the_log_that_knows(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(DirtyLog, "mark", lambda *_arguments: None)
    assert written(guest, 0x5010, PAGE) == []
    assert written(guest, SHARED, PAGE) == []
