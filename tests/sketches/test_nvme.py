"""The NVMe disk of the sketches: a guest's driver in memory uses it, and abuses it."""

from collections.abc import Callable, Iterator
from struct import pack, unpack

import pytest

from mdev_user.testing import Guest
from sketches.nvme import BLOCK, ENTRIES, QUEUES, Card, Disk, Regs

ADMIN_SIZE = 8
LIST = 0x8000


class Queue:
    """One pair of rings; the guest's side of it."""

    def __init__(self, guest: Guest, number: int, size: int) -> None:
        self.guest, self.number, self.size = guest, number, size
        self.submissions, self.completions = 0x10000 * (number + 1), 0x10000 * (number + 1) + 0x8000
        self.tail = self.head = 0
        self.phase = 1
        guest.memory[self.submissions : self.submissions + 0x10000] = bytes(0x10000)

    def put(self, opcode: int, cid: int, *words: int, prp1: int = 0, prp2: int = 0, namespace: int = 1) -> None:
        at = self.submissions + 64 * self.tail
        cdw = (*words, 0, 0, 0, 0, 0, 0)[:6]
        self.guest.memory[at : at + 64] = pack("<BBHI16xQQ6I", opcode, 0, cid, namespace, prp1, prp2, *cdw)
        self.tail = (self.tail + 1) % self.size

    def ring(self) -> None:
        self.guest.write(Regs.doorbell.tail, self.tail, self.number)

    def take(self) -> dict[int, tuple[int, int]]:
        """Completed commands by their number: status and result."""
        found: dict[int, tuple[int, int]] = {}
        while True:
            at = self.completions + 16 * self.head
            result, _head, _queue, cid, status = unpack("<I4xHHHH", self.guest.memory[at : at + 16])
            if status & 1 != self.phase:
                break
            assert cid not in found
            found[cid] = status >> 1, result
            self.head = (self.head + 1) % self.size
            self.phase ^= self.head == 0
        if found:
            self.guest.write(Regs.doorbell.head, self.head, self.number)
        return found

    def do(self, opcode: int, *words: int, prp1: int = 0, prp2: int = 0, namespace: int = 1) -> tuple[int, int]:
        """One command: its status and result."""
        self.put(opcode, 77, *words, prp1=prp1, prp2=prp2, namespace=namespace)
        self.ring()
        self.guest.run()
        return self.take()[77]


def enable(guest: Guest) -> Queue:
    admin = Queue(guest, 0, ADMIN_SIZE)
    guest.write(Regs.config.enable, False)
    assert not guest.read(Regs.status.ready)
    guest.write(Regs.admin_sizes, (ADMIN_SIZE - 1) << 16 | ADMIN_SIZE - 1)
    for register, address in ((0x28, admin.submissions), (0x30, admin.completions)):  # as Linux: two halves
        guest.write_bytes(0, register, pack("<I", address))
        guest.write_bytes(0, register + 4, bytes(4))
    guest.write(Regs.config, 0x0046_0001)
    assert guest.read(Regs.status.ready)
    return admin


def create(admin: Queue, number: int, size: int = 16, completions: int = 0) -> Queue:
    queue = Queue(admin.guest, number, size)
    if not completions:
        interrupts = 3 | (number % QUEUES) << 16
        assert admin.do(0x05, number | (size - 1) << 16, interrupts, prp1=queue.completions) == (0, 0)
    assert admin.do(0x01, number | (size - 1) << 16, 1 | (completions or number) << 16, prp1=queue.submissions) == (
        0,
        0,
    )
    return queue


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(Card, "1m") as made:
        made.map(0x100_0000, 0x10_0000)
        yield made


@pytest.fixture
def admin(guest: Guest) -> Queue:
    return enable(guest)


DATA = 0x100_0000


def test_controller_and_namespace_are_identified(guest: Guest, admin: Queue) -> None:
    assert admin.do(0x06, 1, prp1=DATA) == (0, 0)
    assert guest.memory[DATA + 24 : DATA + 40] == b"mdev-user sketch"
    assert admin.do(0x06, 0, prp1=DATA) == (0, 0)
    assert guest.memory[DATA : DATA + 8] == pack("<Q", 2048)
    assert admin.do(0x06, 2, prp1=DATA, namespace=0) == (0, 0)
    assert guest.memory[DATA : DATA + 8] == pack("<II", 1, 0)
    assert admin.do(0x06, 0, prp1=DATA, namespace=2) == (0x0B, 0)
    assert admin.do(0x09, 7, 0xFFFF_FFFF) == (0, (QUEUES - 1) * 0x10001)
    assert admin.do(0x7F) == (0x01, 0)


def test_blocks_are_written_and_read_by_every_form_of_page_list(guest: Guest, admin: Queue) -> None:
    queue = create(admin, 1)
    text = bytes(each % 251 for each in range(0x8000))
    guest.memory[DATA : DATA + 0x8000] = text
    guest.memory[LIST : LIST + 64] = pack("<8Q", *(DATA + 0x20000 + 0x2000 * each for each in range(8)))
    cases = ((0, 1, 0), (1, 8, 0), (4, 8, DATA + 0x9000), (0, 64, LIST))
    for skip, count, prp2 in cases:
        length = BLOCK * count
        first = DATA + 0x10000 + BLOCK * skip
        write_list = pack("<7Q", *(DATA + 0x1000 * each for each in range(1, 8)))
        guest.memory[LIST + 0x100 : LIST + 0x100 + 56] = write_list
        assert queue.do(0x01, 100, 0, count - 1, prp1=DATA, prp2=LIST + 0x100) == (0, 0)
        assert queue.do(0x02, 100, 0, count - 1, prp1=first, prp2=prp2) == (0, 0)
        found = guest.memory[first : first + min(length, 0x1000 - first % 0x1000)]
        rest = length - len(found)
        if prp2 == LIST:
            for each in range(7):
                page = DATA + 0x20000 + 0x2000 * each
                found += guest.memory[page : page + 0x1000]
        else:
            found += guest.memory[prp2 : prp2 + rest]
        assert found == text[:length]
    assert guest.errors == 0


def test_many_commands_wrap_the_rings_in_order_of_each_queue(guest: Guest, admin: Queue) -> None:
    queues = [create(admin, number, size=4 + number) for number in range(1, QUEUES + 1)]
    for turn in range(60):
        for queue in queues:
            block = 10 * queue.number + turn % 3
            at = DATA + 0x1000 * queue.number
            guest.memory[at : at + 2] = pack("<BB", turn, queue.number)
            queue.put(0x01, 1, block, 0, 0, prp1=at)
            queue.put(0x02, 2, block, 0, 0, prp1=at + 0x800)
            queue.put(0x00, 3)
            queue.ring()
        guest.run()
        for queue in queues:
            assert queue.take() == {1: (0, 0), 2: (0, 0), 3: (0, 0)}
            at = DATA + 0x1000 * queue.number + 0x800
            assert guest.memory[at : at + 2] == pack("<BB", turn, queue.number)
    assert guest.errors == 0


def test_full_completion_queue_waits_for_the_guest(guest: Guest, admin: Queue) -> None:
    large = create(admin, 1, size=64)
    small = Queue(guest, 2, 4)
    assert admin.do(0x05, 2 | 3 << 16, 3, prp1=small.completions) == (0, 0)
    assert admin.do(0x01, 3 | 63 << 16, 1 | 2 << 16, prp1=large.submissions) == (0, 0)
    large.number = 3
    for cid in range(50):
        large.put(0x00, cid)
    large.ring()
    found: list[int] = []
    for _ in range(50):
        guest.run()
        taken = small.take()
        assert len(taken) <= 3
        found += taken
    assert found == list(range(50))


def test_pin_is_up_until_completions_are_taken(guest: Guest, admin: Queue) -> None:
    queue = create(admin, 1)
    queue.put(0x00, 5)
    queue.ring()
    guest.run()
    assert guest.pin
    seen = []
    for mask in (Regs.mask_set, Regs.mask_clear):
        guest.write(mask, 1)
        seen.append(guest.pin)
    queue.take()
    assert [*seen, guest.pin] == [False, True, False]


def test_messages_are_those_of_the_completion_queue(guest: Guest) -> None:
    guest.enable_msi()
    admin = enable(guest)
    queue = create(admin, 3)
    guest.take_messages()
    queue.do(0x00)
    assert (guest.take_messages(), guest.pin) == ([3], False)


def test_reset_ends_commands_and_keeps_the_disk(guest: Guest, admin: Queue) -> None:
    queue = create(admin, 1)
    for steps in range(12):
        guest.memory[DATA : DATA + 4] = pack("<I", steps)
        assert queue.do(0x01, 9, prp1=DATA) == (0, 0)
        queue.put(0x02, 1, 9, prp1=DATA + 0x1000)
        queue.ring()
        for _ in range(steps):
            guest.step()
        guest.write(Regs.config.enable, False)
        assert (guest.device.jobs, guest.pin, guest.read(Regs.status.ready)) == ([], False, False)
        guest.memory[DATA : DATA + 0x2000] = bytes(0x2000)
        guest.run()
        assert guest.memory[DATA : DATA + 0x2000] == bytes(0x2000)
        assert guest.read(Regs.admin_submissions) == admin.submissions
        admin = enable(guest)
        queue = create(admin, 1)
        assert queue.do(0x02, 9, prp1=DATA) == (0, 0)
        assert guest.memory[DATA : DATA + 4] == pack("<I", steps)
    assert disk(guest).blocks
    guest.close()
    guest.open()
    assert not disk(guest).blocks


def disk(guest: Guest) -> Disk:
    function = guest.device.function
    assert isinstance(function, Disk)
    return function


def test_queue_that_is_deleted_under_way_completes_nothing_more(guest: Guest, admin: Queue) -> None:
    for steps in range(12):
        queue = create(admin, 1)
        for cid in range(3):
            queue.put(0x02, cid, 9, prp1=DATA)
        queue.ring()
        for _ in range(steps):
            guest.step()
        assert admin.do(0x00, 1) == (0, 0)
        assert admin.do(0x04, 1) == (0, 0)
        guest.run()
        done = [guest.memory[at + 14][0] & 1 for at in range(queue.completions, queue.completions + 64, 16)]
        assert done in ([0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0])
    assert guest.errors == 0
    assert create(admin, 1).do(0x00) == (0, 0)


def test_command_is_completed_once_wherever_the_device_is_migrated(guest: Guest) -> None:
    for steps in range(60):
        admin = enable(guest)
        queue = create(admin, 1, size=4)
        guest.memory[DATA : DATA + 4] = pack("<I", steps)
        queue.put(0x01, 1, 5, prp1=DATA)
        queue.put(0x02, 2, 5, prp1=DATA + 0x1000)
        queue.put(0x02, 3, 6, prp1=DATA + 0x2000)
        queue.ring()
        for _ in range(steps):
            guest.step()
        taken = list(queue.take())
        guest.memory[DATA : DATA + 0x1000] = bytes(0x1000)  # the guest uses what it has back for something else
        if 1 not in taken:
            guest.memory[DATA : DATA + 4] = pack("<I", steps)
        if 2 in taken:
            assert guest.memory[DATA + 0x1000 : DATA + 0x1004] == pack("<I", steps)
            guest.memory[DATA + 0x1000 : DATA + 0x2000] = bytes(0x1000)
        guest.device.load(guest.device.save())
        guest.run()
        assert [*taken, *queue.take()] == [1, 2, 3]
        assert guest.memory[DATA + 0x1000 : DATA + 0x1004] == (bytes(4) if 2 in taken else pack("<I", steps))
        assert disk(guest).blocks[5][:4] == pack("<I", steps)
        guest.write(Regs.config.enable, False)
    assert guest.errors == 0


HOSTILE: dict[str, Callable[[Guest, Queue], None]] = {
    "tail out of range": lambda guest, queue: guest.write(Regs.doorbell.tail, 16, 1),
    "head out of range": lambda guest, queue: guest.write(Regs.doorbell.head, 0xFFFF_FFFF, 1),
    "doorbell of no queue": lambda guest, queue: guest.write(Regs.doorbell.tail, 1, 2),
    "unmapped submissions": lambda guest, queue: queue.ring(),
}


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE)
def test_hostile_doorbell_is_counted_and_the_device_lives_on(
    guest: Guest, admin: Queue, spoil: Callable[[Guest, Queue], None]
) -> None:
    queue = create(admin, 1)
    unmapped = Queue(guest, 3, 16)
    assert admin.do(0x01, 3 | 15 << 16, 1 | 1 << 16, prp1=0x200_0000) == (0, 0)
    unmapped.tail = 1
    spoil(guest, unmapped)
    guest.run()
    assert guest.errors == 1
    assert queue.do(0x00) == (0, 0)
    assert enable(guest).do(0x08) == (0, 1)


@pytest.mark.parametrize(
    ("opcode", "words", "prp1", "status"),
    [
        (0x01, (2047, 0, 1), DATA, 0x80),
        (0x02, (0, 1, 0), DATA, 0x80),
        (0x02, (0xFFFF_FFFF, 0xFFFF_FFFF, 0xFFFF), DATA, 0x80),
        (0x02, (0, 0, 0), 0xFFFF_FFFF_FFFF_F000, 0x04),
        (0x01, (0, 0, 7), 0xDEAD_0000, 0x04),
        (0x02, (0, 0, 63), DATA, 0x04),
        (0xEE, (), DATA, 0x01),
    ],
)
def test_hostile_command_is_answered(
    guest: Guest, admin: Queue, opcode: int, words: tuple[int, ...], prp1: int, status: int
) -> None:
    queue = create(admin, 1)
    assert queue.do(opcode, *words, prp1=prp1, prp2=0xFFFF_FFFF_FFFF_FFF8) == (status, 0)
    assert queue.do(0x00) == (0, 0)


@pytest.mark.parametrize(
    ("opcode", "words", "status"),
    [
        (0x05, (0 | 15 << 16, 3), 0x101),
        (0x05, (QUEUES + 1 | 15 << 16, 3), 0x101),
        (0x05, (2 | ENTRIES << 16, 3), 0x102),
        (0x05, (2, 3), 0x102),
        (0x05, (2 | 15 << 16, 3 | QUEUES << 16), 0x108),
        (0x01, (2 | 15 << 16, 1 | 2 << 16), 0x100),
        (0x01, (2 | 15 << 16, 1), 0x100),
        (0x00, (0,), 0x101),
        (0x04, (0,), 0x101),
        (0x06, (0x99,), 0x02),
    ],
)
def test_hostile_admin_command_is_answered(admin: Queue, opcode: int, words: tuple[int, ...], status: int) -> None:
    assert admin.do(opcode, *words, prp1=DATA) == (status, 0)
