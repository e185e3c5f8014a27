"""edu in a whole host, as a guest driver written for QEMU's device uses it."""

import os
import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic

import pytest

from mdev_user.driver.levels import Causes, Levels
from mdev_user.drivers import edu
from mdev_user.drivers.edu import BUFFER, SIZE, Card, Edu
from mdev_user.errors import DmaFault, NoSpace
from mdev_user.host.endpoint import Endpoint
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.parent import MdevParent
from mdev_user.mdev.types import MdevAttribute
from mdev_user.testing.local import LocalHost
from mdev_user.units import MiB
from mdev_user.vfio.requests import Irq, Region
from mdev_user.vfio_user.client import Client
from unit.host.parts import SECONDS, eventually

IDENT, LIVENESS, NUMBER, STATUS, IRQ, RAISE, ACKNOWLEDGE = 0x00, 0x04, 0x08, 0x20, 0x24, 0x60, 0x64
SOURCE, TARGET, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
COMPUTING, IRQ_WHEN_DONE = 0x01, 0x80
START, TO_RAM, DMA_IRQ = 1, 2, 4
CONFIG_COMMAND, CONFIG_STATUS, INTERRUPT_PENDING = 0x04, 0x06, 0x08
IOVA = 0x0800_0000
"""Below 256 MiB: the device has 28 address lines unless its operator gives it more."""
DATA = bytes(range(256)) * 16


class Memory:
    """A guest's memory: mapped by its fd, or served to the device's messages."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, MiB)
        self.messages = 0
        self.asked: Callable[[], object] = lambda: None
        """Called before a message is answered."""

    def read(self, address: int, count: int) -> bytes:
        return os.pread(self.fd, count, self._offset(address, count))

    def write(self, address: int, data: bytes) -> None:
        os.pwrite(self.fd, data, self._offset(address, len(data)))

    def _offset(self, address: int, count: int) -> int:
        self.messages += 1
        self.asked()
        if not 0 <= address - IOVA <= MiB - count:
            raise DmaFault(f"{count} bytes at {address:#x}")
        return address - IOVA


class Guest:
    """A client with memory and an eventfd, and the words of a driver of the device."""

    def __init__(self, client: Client, memory: Memory, eventfd: int, endpoint: Endpoint) -> None:
        self.client, self.memory, self.eventfd, self.endpoint = client, memory, eventfd, endpoint
        self.counters = endpoint.device.counters

    def read(self, offset: int, count: int = 4) -> int:
        return int.from_bytes(self.client.region_read(0, offset, count), "little")

    def write(self, offset: int, value: int, count: int = 4) -> None:
        self.client.region_write(0, offset, value.to_bytes(count, "little"))

    def factorial(self, number: int) -> int:
        """By polling."""
        self.write(NUMBER, number)
        eventually(lambda: not self.read(STATUS) & COMPUTING)
        return self.read(NUMBER)

    def start(self, source: int, target: int, count: int, command: int) -> None:
        for register, value in ((SOURCE, source), (TARGET, target), (COUNT, count), (COMMAND, START | command)):
            self.write(register, value, 8)

    def copy(self, source: int, target: int, count: int, command: int) -> None:
        """A whole transfer, by polling."""
        self.start(source, target, count, command)
        eventually(lambda: not self.read(COMMAND) & START)

    def fill(self, data: bytes) -> None:
        """Put data at the start of the device's buffer."""
        os.pwrite(self.memory.fd, data, 0)
        self.copy(IOVA, BUFFER, len(data), 0)

    def buffer(self) -> bytes:
        """All of the device's buffer, by way of the last page of memory."""
        self.copy(BUFFER, IOVA + MiB - SIZE, SIZE, TO_RAM)
        return os.pread(self.memory.fd, SIZE, MiB - SIZE)

    def interrupts(self, seconds: float = SECONDS) -> int:
        """How many came; the device's messages are served until the first one does."""
        poll = select.poll()
        poll.register(self.eventfd, select.POLLIN)
        poll.register(self.client.socket, select.POLLIN)
        deadline = monotonic() + seconds
        while True:
            while not self.client.connection.idle:  # what came along with a reply
                self.client.serve()
            ready = {fd for fd, _events in poll.poll(10 if seconds else 0)}
            if self.eventfd in ready:
                return os.eventfd_read(self.eventfd)
            if ready:
                self.client.serve()
            elif monotonic() >= deadline:
                return 0

    def pin(self) -> bool:
        """The pin's level, as the config space shows it."""
        return bool(self.client.region_read(Region.CONFIG, CONFIG_STATUS, 1)[0] & INTERRUPT_PENDING)


@contextmanager
def guest_of(host: LocalHost, mdev: Mdev, *, shared: bool = True, irq: Irq = Irq.INTX) -> Iterator[Guest]:
    memory, eventfd = Memory(), os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with Client(host.socket(mdev), memory, SECONDS) as client:
            client.region_write(Region.CONFIG, CONFIG_COMMAND, b"\x06\x00")  # memory and bus master
            client.dma_map(IOVA, MiB, memory.fd if shared else -1)
            client.arm(irq, [eventfd])
            yield Guest(client, memory, eventfd, host.endpoint(mdev))
    finally:
        os.close(memory.fd)
        os.close(eventfd)


@pytest.fixture
def host() -> Iterator[LocalHost]:
    with LocalHost() as local:
        yield local


@pytest.fixture
def parent(host: LocalHost) -> MdevParent:
    return host.bus.register_parent("edu", Card())


@pytest.fixture
def mdev(host: LocalHost, parent: MdevParent) -> Mdev:
    return host.create(parent, "edu-1")


@pytest.fixture
def guest(host: LocalHost, mdev: Mdev) -> Iterator[Guest]:
    with guest_of(host, mdev) as made:
        yield made


both_ways = pytest.mark.parametrize("shared", [True, False], ids=["by fd", "by messages"])


# --- registers --------------------------------------------------------------------------------------------------


def test_a_driver_finds_the_device_it_knows(guest: Guest) -> None:
    assert guest.client.region_read(Region.CONFIG, 0, 4) == bytes.fromhex("3412e811")
    assert guest.client.region_read(Region.CONFIG, 8, 4) == bytes.fromhex("1000ff00")
    assert guest.client.region_info(0).size == MiB
    assert guest.client.irq_info(Irq.INTX).count == guest.client.irq_info(Irq.MSI).count == 1
    guest.write(IDENT, 0)
    assert guest.read(IDENT) == 0x010000ED


@pytest.mark.parametrize("value", [0, 1, 0x12345678, 0xFFFFFFFF])
def test_liveness_check_answers_with_the_inverse(guest: Guest, value: int) -> None:
    guest.write(LIVENESS, value)
    assert guest.read(LIVENESS) == value ^ 0xFFFFFFFF


FACTORIALS = {0: 1, 1: 1, 5: 120, 12: 479001600, 13: 6227020800 - (1 << 32), 33: 1 << 31, 34: 0, 0xFFFFFFFF: 0}


@pytest.mark.parametrize(("number", "result"), FACTORIALS.items())
def test_factorial_is_that_of_32_bit_arithmetic(guest: Guest, number: int, result: int) -> None:
    assert guest.factorial(number) == result
    assert guest.interrupts(0) == guest.read(IRQ) == guest.counters.guest_errors == 0


def test_only_one_factorial_is_computed_at_a_time(guest: Guest) -> None:
    with guest.endpoint.lock:  # so that the first is under way when the second is asked for
        for number in (5, 6):
            guest.endpoint.device.write(0, NUMBER, number.to_bytes(4, "little"))
        assert guest.endpoint.device.read(0, STATUS, 4) == bytes([COMPUTING, 0, 0, 0])
        assert guest.endpoint.device.read(0, NUMBER, 4) == bytes([5, 0, 0, 0])
    eventually(lambda: not guest.read(STATUS) & COMPUTING)
    assert guest.read(NUMBER) == 120
    assert guest.counters.guest_errors == 1


def test_computing_cannot_be_written(guest: Guest) -> None:
    guest.write(STATUS, 0xFFFFFFFF)
    assert guest.read(STATUS) == IRQ_WHEN_DONE


# --- interrupts -------------------------------------------------------------------------------------------------


def check_factorial_interrupts(guest: Guest, seconds: float = SECONDS) -> None:
    guest.write(STATUS, IRQ_WHEN_DONE)
    guest.write(NUMBER, 6)
    assert guest.interrupts(seconds) == 1
    assert guest.read(STATUS) == IRQ_WHEN_DONE  # it is not computing any more when it says so
    assert (guest.read(NUMBER), guest.read(IRQ)) == (720, 0x001)


@pytest.mark.parametrize("irq", [Irq.INTX, Irq.MSI])
def test_factorial_interrupts_when_asked_to(host: LocalHost, mdev: Mdev, irq: Irq) -> None:
    with guest_of(host, mdev, irq=irq) as guest:
        check_factorial_interrupts(guest)
        assert guest.pin() is (irq is Irq.INTX)


def test_pin_is_up_until_every_cause_is_acknowledged(guest: Guest) -> None:
    guest.write(RAISE, 0x51)
    assert guest.interrupts() == 1
    assert guest.pin()
    guest.write(ACKNOWLEDGE, 0x41)
    assert (guest.read(IRQ), guest.pin()) == (0x10, True)
    guest.client.unmask()
    assert guest.interrupts() == 1  # one cause is not served
    guest.write(ACKNOWLEDGE, 0xFFFFFFFF)
    assert (guest.read(IRQ), guest.pin()) == (0, False)
    guest.client.unmask()
    assert guest.interrupts(0) == 0


def test_causes_can_only_be_raised_and_acknowledged(guest: Guest) -> None:
    guest.write(IRQ, 0xFF)
    assert guest.read(IRQ) == 0
    guest.write(RAISE, 0x100)
    guest.write(RAISE, 0x200)
    assert [guest.read(at) for at in (IRQ, RAISE, ACKNOWLEDGE)] == [0x300, 0, 0]


def check_each_new_cause_sends_a_message(guest: Guest, seconds: float = SECONDS) -> None:
    for cause in (0x01, 0x02, 0x08):  # none of them is acknowledged
        guest.write(RAISE, cause)
        assert guest.interrupts(seconds) == 1
    guest.write(RAISE, 0x08)
    assert guest.interrupts(0) == 0  # nothing new
    guest.write(ACKNOWLEDGE, 0x01)
    assert guest.interrupts(0) == 0
    guest.write(ACKNOWLEDGE, 0x0A)
    guest.write(RAISE, 0x04)
    assert guest.interrupts(seconds) == 1
    guest.write(ACKNOWLEDGE, 0x04)
    guest.write(RAISE, 0)
    assert guest.interrupts(0) == 0


def test_each_new_cause_sends_a_message(host: LocalHost, mdev: Mdev) -> None:
    with guest_of(host, mdev, irq=Irq.MSI) as guest:
        check_each_new_cause_sends_a_message(guest)
        assert not guest.pin()


# --- DMA --------------------------------------------------------------------------------------------------------


def check_copies_both_ways(guest: Guest) -> None:
    """The transfers of the specification's example, with interrupts."""
    os.pwrite(guest.memory.fd, DATA, 0)
    guest.start(IOVA, BUFFER, 100, DMA_IRQ)
    assert guest.interrupts() == 1
    assert guest.read(COMMAND) == DMA_IRQ  # the transfer is over when it says so
    assert guest.read(IRQ) == 0x100
    guest.write(ACKNOWLEDGE, 0x100)
    guest.client.unmask()
    guest.start(BUFFER, IOVA + 0x2000, 100, TO_RAM | DMA_IRQ)
    assert guest.interrupts() == 1
    assert os.pread(guest.memory.fd, 200, 0x2000) == DATA[:100] + bytes(100)
    assert (guest.counters.dma_read_bytes, guest.counters.dma_write_bytes) == (100, 100)


@both_ways
def test_dma_copies_both_ways_and_interrupts(host: LocalHost, mdev: Mdev, shared: bool) -> None:
    with guest_of(host, mdev, shared=shared) as guest:
        check_copies_both_ways(guest)
        assert guest.memory.messages == (0 if shared else 2)
        assert guest.counters.guest_errors == 0


@both_ways
def test_dma_is_polled_for_without_an_interrupt(host: LocalHost, mdev: Mdev, shared: bool) -> None:
    with guest_of(host, mdev, shared=shared) as guest:
        guest.fill(DATA)
        guest.copy(IOVA + 7, BUFFER + 1000, 96, 0)
        assert guest.buffer() == DATA[:1000] + DATA[7:103] + DATA[1096:]
        guest.copy(BUFFER + SIZE, IOVA, 0, TO_RAM)  # nothing at its end is still within
        assert guest.interrupts(0) == guest.read(IRQ) == guest.counters.guest_errors == 0


def test_registers_of_eight_bytes_are_written_by_halves(guest: Guest) -> None:
    os.pwrite(guest.memory.fd, DATA, 0)
    for register, value in ((SOURCE, IOVA), (TARGET, BUFFER), (COUNT, SIZE), (COMMAND, START)):
        guest.write(register, value)
    eventually(lambda: not guest.read(COMMAND) & START)
    assert guest.buffer() == DATA
    guest.write(SOURCE + 4, 1)
    assert guest.read(SOURCE, 8) == 1 << 32 | BUFFER


def test_command_without_start_does_nothing(guest: Guest) -> None:
    guest.write(COUNT, SIZE, 8)
    guest.write(COMMAND, TO_RAM | DMA_IRQ, 8)
    assert guest.read(COMMAND, 8) == 0
    assert guest.interrupts(0.02) == guest.counters.guest_errors == 0


def test_transfer_under_way_is_not_disturbed(host: LocalHost, mdev: Mdev) -> None:
    endpoint, seen = host.endpoint(mdev), list[bytes]()
    other = (SOURCE, IOVA + 64), (TARGET, 0), (COUNT, 1), (COMMAND, START | TO_RAM | DMA_IRQ), (COMMAND, 0)

    def meddle() -> None:
        device = endpoint.device
        with endpoint.lock:  # as another processor of the guest
            for register, value in other:
                device.write(0, register, value.to_bytes(8, "little"))
            seen.append(device.read(0, COMMAND, 8))

    with guest_of(host, mdev, shared=False) as guest:
        guest.memory.asked = meddle
        guest.fill(DATA)
        guest.memory.asked = lambda: None
        assert seen == [START.to_bytes(8, "little")]
        assert guest.buffer() == DATA
        assert guest.counters.guest_errors == 1
        assert "transfer: 1 under way" in guest.counters.last_guest_error
        assert guest.interrupts(0) == 0


OUTSIDE = {
    "before": (IOVA, BUFFER - 1, 2, 0),
    "across the end": (IOVA, BUFFER + SIZE - 1, 2, 0),
    "after": (BUFFER + SIZE, IOVA, 1, TO_RAM),
    "too long": (BUFFER, IOVA, SIZE + 1, TO_RAM),
    "as long as can be": (IOVA, BUFFER, (1 << 64) - 1, 0),
    "around the end": ((1 << 64) - 1, IOVA, 2, TO_RAM),
    "memory to memory": (IOVA, IOVA, 4, 0),
}


def check_refused(guest: Guest, source: int, target: int, count: int, direction: int, says: str) -> None:
    """The transfer is a counted error of the guest, without effect, and the device goes on."""
    guest.fill(DATA)
    os.pwrite(guest.memory.fd, bytes(MiB), 0)
    guest.copy(source, target, count, direction | DMA_IRQ)
    assert guest.counters.guest_errors == 1
    assert says in guest.counters.last_guest_error
    assert guest.interrupts(0) == guest.read(IRQ) == 0
    assert os.pread(guest.memory.fd, MiB, 0) == bytes(MiB)
    assert guest.buffer() == DATA
    assert guest.counters.guest_errors == 1
    assert guest.factorial(5) == 120


@pytest.mark.parametrize(("source", "target", "count", "direction"), OUTSIDE.values(), ids=OUTSIDE)
def test_dma_out_of_the_buffer_is_a_counted_error(
    guest: Guest, source: int, target: int, count: int, direction: int
) -> None:
    check_refused(guest, source, target, count, direction, "the buffer is 4096 bytes at 0x40000")


@both_ways
def test_memory_that_is_not_there_is_a_counted_error(host: LocalHost, mdev: Mdev, shared: bool) -> None:
    with guest_of(host, mdev, shared=shared) as guest:
        check_refused(guest, IOVA + MiB - 1, BUFFER, 2, 0, f"has not mapped {IOVA + MiB:#x}")


def test_dma_needs_bus_mastering(guest: Guest) -> None:
    guest.client.region_write(Region.CONFIG, CONFIG_COMMAND, b"\x02\x00")
    guest.copy(IOVA, BUFFER, 4, 0)
    assert guest.counters.guest_errors == 1
    assert "bus mastering" in guest.counters.last_guest_error


def test_dma_reaches_28_bits_unless_the_operator_gives_more(parent: MdevParent, mdev: Mdev, guest: Guest) -> None:
    guest.client.dma_map((1 << 28) - 4096, 8192, guest.memory.fd)
    mask = MdevAttribute("", "dma_mask", writable=True)
    assert parent.ops.show(mdev, mask) == f"{0x0FFF_FFFF}\n"
    guest.copy((1 << 28) - 4, BUFFER, 4, 0)
    assert guest.counters.guest_errors == 0
    check_refused(guest, (1 << 28) - 3, BUFFER, 4, 0, "expected at most 0xfffffff")
    parent.ops.store(mdev, mask, b"0xffffffff\n")
    guest.copy((1 << 28) - 2, BUFFER, 4, 0)
    assert guest.counters.guest_errors == 1


# --- resets, and other guests -----------------------------------------------------------------------------------


def test_reset_leaves_nothing(guest: Guest) -> None:
    guest.fill(DATA)
    guest.write(STATUS, IRQ_WHEN_DONE)
    guest.write(LIVENESS, 1)
    guest.write(RAISE, 0x7)
    assert guest.factorial(5) == 120
    assert guest.pin()
    guest.client.reset()
    assert not guest.pin()
    assert [guest.read(at) for at in (LIVENESS, NUMBER, STATUS, IRQ)] == [0, 0, 0, 0]
    assert [guest.read(at, 8) for at in (SOURCE, TARGET, COUNT, COMMAND)] == [0, 0, 0, 0]
    assert guest.read(IDENT) == 0x010000ED
    assert guest.buffer() == bytes(SIZE)


def test_reset_cancels_a_transfer(host: LocalHost, mdev: Mdev) -> None:
    endpoint = host.endpoint(mdev)

    def reset() -> None:
        with endpoint.lock:
            endpoint.device.reset()

    with guest_of(host, mdev, shared=False) as guest:
        guest.memory.asked = reset
        os.pwrite(guest.memory.fd, DATA, 0)
        guest.copy(IOVA, BUFFER, SIZE, DMA_IRQ)
        guest.memory.asked = lambda: None
        assert guest.read(IRQ) == guest.counters.guest_errors == 0
        assert guest.buffer() == bytes(SIZE)


def test_next_user_sees_nothing_of_the_last(host: LocalHost, mdev: Mdev) -> None:
    for _ in range(2):
        with guest_of(host, mdev) as guest:
            assert guest.buffer() == bytes(SIZE)
            assert (guest.read(IRQ), guest.read(LIVENESS)) == (0, 0)
            guest.fill(DATA)
            guest.write(RAISE, 1)
            guest.write(LIVENESS, 1)


def test_two_guests_are_isolated(host: LocalHost, parent: MdevParent) -> None:
    with ExitStack() as stack:
        one, other = (stack.enter_context(guest_of(host, host.create(parent, "edu-1"))) for _ in range(2))
        one.fill(DATA)
        one.write(LIVENESS, 1)
        one.write(RAISE, 1)
        assert one.interrupts() == 1
        assert other.interrupts(0) == other.read(IRQ) == other.read(LIVENESS) == 0
        assert other.buffer() == bytes(SIZE)
        other.fill(DATA[::-1])
        other.write(ACKNOWLEDGE, 1)
        assert (one.buffer(), one.read(IRQ)) == (DATA, 1)


def test_there_are_sixteen_slices(host: LocalHost, parent: MdevParent) -> None:
    for _ in range(16):
        host.create(parent, "edu-1")
    with pytest.raises(NoSpace, match="1 takes 1 of instances, 0 are free"):
        host.create(parent, "edu-1")


# --- negative controls: without the one line, the proofs above fail ---------------------------------------------


def test_without_settling_nothing_interrupts(
    host: LocalHost, parent: MdevParent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Levels, "settle", lambda _levels: None)
    with guest_of(host, host.create(parent, "edu-1")) as guest, pytest.raises(AssertionError):
        check_factorial_interrupts(guest, 0.1)


def test_pin_that_only_ever_rises_would_be_noticed(
    host: LocalHost, parent: MdevParent, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = Levels._drive
    monkeypatch.setattr(Levels, "_drive", lambda levels, up: drive(levels, up) if up else None)
    with (
        guest_of(host, host.create(parent, "edu-1")) as guest,
        pytest.raises(AssertionError, match=r"0, True\) == \(0, False"),
    ):
        test_pin_is_up_until_every_cause_is_acknowledged(guest)


def test_a_level_alone_would_not_send_a_message_for_each_cause(
    host: LocalHost, mdev: Mdev, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Causes, "new", lambda _causes: False)
    with guest_of(host, mdev, irq=Irq.MSI) as guest, pytest.raises(AssertionError):
        check_each_new_cause_sends_a_message(guest, 0.1)


def test_without_its_bounds_dma_leaves_the_buffer(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Edu, "begin", lambda _edu, own, _bus, _count: own - BUFFER)
    with pytest.raises(AssertionError):
        check_refused(guest, IOVA, BUFFER + SIZE - 1, 2, 0, "the buffer")


def test_with_one_buffer_for_all_guests_are_not_isolated(
    host: LocalHost, parent: MdevParent, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [bytes(SIZE)]
    monkeypatch.setattr(Edu, "buffer", property(lambda _edu: common[0], lambda _edu, data: common.__setitem__(0, data)))
    with pytest.raises(AssertionError):
        test_two_guests_are_isolated(host, parent)


def test_driver_is_as_short_as_promised() -> None:
    assert Path(edu.__file__).read_text().count("\n") <= 110
