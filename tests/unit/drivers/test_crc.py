"""crc in a whole host, as a client of vfio-user sees it."""

import errno
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from zlib import crc32

import pytest

from mdev_user.driver import Device
from mdev_user.driver.levels import Levels
from mdev_user.driver.pools import Accounts
from mdev_user.drivers import crc
from mdev_user.drivers.crc import Card, Crc, Regs
from mdev_user.errors import NoSpace, errno_of
from mdev_user.mdev.parent import MdevParent
from mdev_user.testing.local import LocalHost
from mdev_user.units import MiB
from mdev_user.vfio.counters import Counters
from mdev_user.vfio.requests import Irq, Region
from mdev_user.vfio_user.client import Client

IDENT, STATUS, ENABLE, SOURCE, LENGTH, RESULT, DOORBELL = 0x00, 0x04, 0x08, 0x10, 0x18, 0x1C, 0x20
DONE, FAULT, BUSY = 1, 2, 0x80
COMMAND, MEMORY_AND_MASTER = 0x04, b"\x06\x00"
IOVA = 0x1000_0000
SECONDS = 60.0


class Guest:
    """A client with a megabyte of memory that the device can reach."""

    def __init__(self, client: Client, counters: Counters) -> None:
        self.client = client
        self.counters = counters
        self.memory = os.memfd_create("guest")
        os.ftruncate(self.memory, MiB)
        client.region_write(Region.CONFIG, COMMAND, MEMORY_AND_MASTER)
        client.dma_map(IOVA, MiB, self.memory)

    def read(self, offset: int, count: int = 4) -> int:
        return int.from_bytes(self.client.region_read(0, offset, count), "little")

    def write(self, offset: int, value: int, count: int = 4) -> None:
        self.client.region_write(0, offset, value.to_bytes(count, "little"))

    def place(self, data: bytes) -> None:
        os.pwrite(self.memory, data, 0)
        self.write(SOURCE, IOVA, 8)
        self.write(LENGTH, len(data))

    def finished(self) -> int:
        """The status when the engine is not busy any more."""
        until(lambda: not self.read(STATUS) & BUSY)
        return self.read(STATUS)


def until(happened: Callable[[], object]) -> None:
    deadline = monotonic() + SECONDS
    while not happened():
        assert monotonic() < deadline
        sleep(0.001)


def signalled(eventfd: int, seconds: float = SECONDS) -> bool:
    ready, _, _ = select.select([eventfd], [], [], seconds)
    if ready:
        os.eventfd_read(eventfd)
    return bool(ready)


@pytest.fixture
def host() -> Iterator[LocalHost]:
    with LocalHost() as local:
        yield local


@pytest.fixture
def parent(host: LocalHost) -> MdevParent:
    return host.bus.register_parent("crc", Card())


@contextmanager
def guest_of(host: LocalHost, parent: MdevParent, type_id: str = "crc-small") -> Iterator[Guest]:
    mdev = host.create(parent, type_id)
    with host.client(mdev) as client:
        guest = Guest(client, host.endpoint(mdev).device.counters)
        yield guest
        os.close(guest.memory)


@pytest.fixture
def guest(host: LocalHost, parent: MdevParent) -> Iterator[Guest]:
    with guest_of(host, parent) as made:
        yield made


@pytest.fixture
def eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def test_doorbell_gives_the_checksum_of_the_guests_memory(guest: Guest) -> None:
    guest.place(b"mediated" * 1000)
    guest.write(DOORBELL, 1)
    assert guest.finished() == DONE
    assert guest.read(RESULT) == crc32(b"mediated" * 1000)
    assert guest.counters.guest_errors == 0


def test_status_is_cleared_by_writing_one(guest: Guest) -> None:
    guest.place(b"x")
    guest.write(DOORBELL, 1)
    assert guest.finished() == DONE
    guest.write(STATUS, FAULT)
    assert guest.read(STATUS) == DONE
    guest.write(STATUS, DONE)
    assert guest.read(STATUS) == 0


def test_identity_cannot_be_written(guest: Guest) -> None:
    guest.write(IDENT, 0)
    assert guest.read(IDENT) == 0x43524331
    assert guest.client.region_read(Region.CONFIG, 0, 4) == bytes.fromhex("e51d3c0c")


def test_pin_is_raised_when_enabled_and_again_when_unmasked_unserved(guest: Guest, eventfd: int) -> None:
    guest.client.arm(Irq.INTX, [eventfd])
    guest.place(b"x")
    guest.write(DOORBELL, 1)
    assert guest.finished() == DONE
    assert not signalled(eventfd, 0)  # done is pending, and not enabled
    guest.write(ENABLE, DONE)
    assert signalled(eventfd)
    guest.client.unmask()
    assert signalled(eventfd)
    guest.write(STATUS, DONE)
    guest.client.unmask()
    assert not signalled(eventfd, 0.05)


def test_each_condition_has_its_own_message(guest: Guest) -> None:
    done, fault = os.eventfd(0), os.eventfd(0)
    capability = guest.client.region_read(Region.CONFIG, 0x34, 1)[0]
    guest.client.region_write(Region.CONFIG, capability + 2, b"\x11\x00")  # MSI enabled, two messages
    guest.client.arm(Irq.MSI, [done, fault])
    guest.write(ENABLE, DONE | FAULT)
    guest.place(b"x")
    guest.write(DOORBELL, 1)
    assert signalled(done)
    assert guest.read(STATUS) == DONE  # the state that the message announces is there, and busy is over
    guest.write(SOURCE, 0xDEAD_0000, 8)
    guest.write(DOORBELL, 1)
    assert signalled(fault)
    assert guest.read(STATUS) == DONE | FAULT
    assert not signalled(done, 0)
    os.close(done)
    os.close(fault)


def test_address_that_is_not_mapped_is_a_fault_and_counted_once(guest: Guest) -> None:
    guest.write(SOURCE, IOVA + MiB - 1, 8)
    guest.write(LENGTH, 2)
    guest.write(DOORBELL, 1)
    assert guest.finished() == FAULT
    assert guest.counters.guest_errors == 1


def test_dma_needs_bus_mastering(guest: Guest) -> None:
    guest.client.region_write(Region.CONFIG, COMMAND, b"\x02\x00")
    guest.place(b"x")
    guest.write(DOORBELL, 1)
    assert guest.finished() == FAULT
    assert guest.counters.guest_errors == 1
    assert "bus mastering" in guest.counters.last_guest_error


def test_length_is_bounded_by_what_the_type_gives(guest: Guest) -> None:
    guest.write(SOURCE, IOVA, 8)
    guest.write(LENGTH, 0xFFFF_FFFF)
    guest.write(DOORBELL, 1)
    assert guest.finished() == FAULT  # 16 MiB, of which one is mapped
    assert guest.counters.dma_read_bytes == 0


def test_reset_is_power_on_for_the_registers(guest: Guest) -> None:
    guest.place(b"x")
    guest.write(DOORBELL, 1)
    guest.finished()
    guest.client.reset()
    assert [guest.read(at) for at in (STATUS, LENGTH, RESULT)] == [0, 0, 0]
    guest.place(b"y")
    guest.write(DOORBELL, 1)
    assert guest.finished() == DONE


def test_next_user_sees_nothing_of_the_last(host: LocalHost, parent: MdevParent) -> None:
    mdev = host.create(parent, "crc-small")
    for _ in range(2):
        with host.client(mdev) as client:
            assert client.region_read(0, LENGTH, 4) == bytes(4)
            client.region_write(0, LENGTH, b"1234")


def test_access_to_what_is_not_declared_is_counted(host: LocalHost, parent: MdevParent) -> None:
    mdev = host.create(parent, "crc-small")
    with host.client(mdev) as client:
        assert client.region_read(0, 0x800, 4) == bytes(4)
        client.region_write(0, 0x0C, bytes(4))
        client.region_write(0, 0x0C, bytes(4))
    assert isinstance(mdev.drvdata, Device)
    assert mdev.drvdata.unmodelled == {(0, 0x800, 4, False): 1, (0, 0x0C, 4, True): 2}


def test_large_lowers_small_from_eight_to_four(host: LocalHost, parent: MdevParent) -> None:
    def available() -> dict[str, int]:
        return {type_id: parent.ops.get_available(each) for type_id, each in parent.types.items()}

    assert available() == {"crc-small": 8, "crc-large": 2}
    large = host.create(parent, "crc-large")
    assert available() == {"crc-small": 4, "crc-large": 1}
    smalls = [host.create(parent, "crc-small") for _ in range(4)]
    assert available() == {"crc-small": 0, "crc-large": 0}
    with pytest.raises(NoSpace, match="small takes 1 of lanes, 0 are free") as raised:
        host.create(parent, "crc-small")
    assert errno_of(raised.value) == errno.ENOSPC
    for mdev in [large, *smalls]:
        host.bus.remove(mdev.uuid)
    assert available() == {"crc-small": 8, "crc-large": 2}


def test_parents_total_is_an_option() -> None:
    card = Card(lanes=2)
    assert [card.get_available(each) for each in card.mdev_types if each.name == "small"] == [2]


def test_work_counts_what_was_read(host: LocalHost, parent: MdevParent) -> None:
    mdev = host.create(parent, "crc-small")
    with host.client(mdev) as client:
        guest = Guest(client, host.endpoint(mdev).device.counters)
        for data in (b"abc", b"defgh"):
            guest.place(data)
            guest.write(DOORBELL, 1)
            assert guest.finished() & DONE
        assert isinstance(mdev.drvdata, Device)
        function = mdev.drvdata.function
        assert isinstance(function, Crc)
        assert function.total == 8
        assert isinstance(function.regs, Regs)
        os.close(guest.memory)


# --- negative controls: without the one line, the proofs above fail ---------------------------------------------


def test_without_settling_nothing_is_signalled(
    host: LocalHost, parent: MdevParent, eventfd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Levels, "settle", lambda _levels: None)
    with guest_of(host, parent) as guest:
        guest.client.arm(Irq.INTX, [eventfd])
        guest.write(ENABLE, DONE)
        guest.place(b"x")
        guest.write(DOORBELL, 1)
        assert guest.finished() == DONE
        assert not signalled(eventfd, 0.05)


def test_without_taking_from_the_pools_a_ninth_is_created(
    host: LocalHost, parent: MdevParent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accounts, "take", lambda _accounts, _type: None)
    for _ in range(9):
        host.create(parent, "crc-small")


def test_driver_is_as_short_as_promised() -> None:
    lines = Path(crc.__file__).read_text().count("\n")
    assert lines <= 60
