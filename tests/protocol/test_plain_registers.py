"""Plain registers: answered from the table, they mean what the device means by them, and stop being so at once."""

import random
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from errno import EINVAL

import pytest
from typing_extensions import override

from mdev_user.driver import (
    MSI,
    RC,
    RO,
    RSVD,
    RW1C,
    RW1S,
    U8,
    U16,
    U32,
    U64,
    UNIMPL,
    WO,
    Bar,
    Field,
    Flag,
    Function,
    Interrupt,
    PciId,
    Profile,
    Register,
    on_read,
    on_write,
)  # fmt: skip
from mdev_user.driver.device import Device
from mdev_user.vfio.migration_states import MigrationState
from mdev_user.vfio.plain import PlainRead
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.framing import Command, command_message
from protocol.served import Served, Wire
from protocol.test_region_access import access, transcript
from protocol.test_sending import until
from unit.driver.bench import UUID1

BAR, SIZE = 0, 0x100


class Mode(Register, size=1):
    bank = Flag(0)
    kind = Field(4, 2)


class Status(Register):
    seen, kept, low, high = Flag(0, RW1C), Flag(1, RW1S), Field(4, 4), Field(16, 8, RO)


class Regs(Bar, index=BAR, size=SIZE):
    mode = Mode.at(0x00)
    a, b = U8(0x04, bank=Mode.bank), U8(0x04, WO)
    byte, half, word, double = U8(0x08), U16(0x0A), U32(0x0C), U64(0x10)
    fixed, written = U32(0x18, RO, reset=0x12345678), U32(0x1C, WO)
    gone, dirty = U32(0x20, RC), U64(0x28, RW1C, reset=-1 % 2**64)
    status = Status.at(0x30, reset=0x0055_0001)
    missing, nothing = U32(0x34, UNIMPL), U32(0x38, RSVD)
    heard, told, pending = U32(0x40), U32(0x44), U32(0x48)
    odd = U64(0x50, RW1S)


class Every(Function[Profile]):
    """A register of every kind."""

    identity = PciId(vendor=0x1234, device=0x11E8, class_code=0xFF0000)
    regs, vectors = Regs(), MSI(1)
    interrupt = Interrupt(Regs.pending.any)

    @on_write(Regs.heard)
    def hear(self, value: int) -> None:
        self.regs.told = value ^ 0xFFFF
        self.regs.gone = value

    @on_read(Regs.told)
    def tell(self) -> int:
        return self.regs.told + 1


def every() -> Device:
    return Device(Every, Profile(), UUID1)


def small_accesses(seed: int, count: int) -> Iterator[bytes]:
    """Accesses of which most are to whole registers."""
    chance = random.Random(seed)
    whole = [(slot.offset, slot.size) for slot in Regs._layout.slots]
    for identity in range(count):
        offset, size = chance.choice(whole)
        if chance.random() < 0.2:
            offset, size = chance.randrange(SIZE + 4), chance.choice([1, 2, 4, 8, 3])
        if chance.random() < 0.5:
            yield command_message(identity, Command.REGION_READ, access(offset, BAR, size))
        else:
            yield command_message(identity, Command.REGION_WRITE, access(offset, BAR, size, chance.randbytes(size)))


def test_the_table_means_what_the_device_means() -> None:
    messages = list(small_accesses(seed=5, count=1500))
    by_table = transcript(messages, pieces=1, ops=every())
    assert by_table == transcript(messages, pieces=2, ops=every())
    assert int(by_table[1]["reads"]) > 500


def test_a_row_that_is_wrong_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: one bit of one register."""
    rows = Device.plain_reads

    def wrong(self: Device) -> Iterable[PlainRead]:
        for row in rows(self):
            yield row._replace(mask=row.mask & ~0x80) if row.offset == 0x0C else row

    messages = list(small_accesses(seed=5, count=1500))
    by_device = transcript(messages, pieces=2, ops=every())
    monkeypatch.setattr(Device, "plain_reads", wrong)
    assert transcript(messages, pieces=1, ops=every()) != by_device


def test_what_is_plain_does_not_reach_the_device_and_all_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    device = every()
    reached: list[int] = []
    read = device.read

    def seen(region: int, offset: int, count: int) -> bytes:
        reached.append(offset)
        return read(region, offset, count)

    monkeypatch.setattr(device, "read", seen)
    with Served(device) as served:
        client = Client.over(served.socket)
        for offset, size in ((0x08, 1), (0x0A, 2), (0x0C, 4), (0x10, 8), (0x18, 4), (0x1C, 4), (0x30, 4), (0x38, 4)):
            client.region_read(BAR, offset, size)
        assert reached == []
        for offset, size in ((0x04, 1), (0x20, 4), (0x34, 4), (0x44, 4), (0x0C, 3), (0x08, 4)):
            client.region_read(BAR, offset, size)
        assert reached == [0x04, 0x20, 0x34, 0x44, 0x0C, 0x08]
        assert (served.device.plain.reads, served.device.counters.reads) == (8, 14)


class Watching:
    """A watcher that notes where it was asked to look, and asks the device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.offsets: list[int] = []
        self.ioctl = device.ioctl

    def read(self, region: int, offset: int, count: int) -> bytes:
        self.offsets.append(offset)
        return self.device.read(region, offset, count)

    def write(self, region: int, offset: int, data: bytes) -> None:
        self.offsets.append(offset)
        self.device.write(region, offset, data)

    def opened(self) -> None: ...

    def closed(self) -> None: ...

    def replaced(self) -> None: ...

    def spawned(self, name: str) -> None: ...


def test_a_watcher_sees_plain_accesses_too_while_it_watches() -> None:
    device = every()
    with Served(device) as served:
        client = Client.over(served.socket)
        client.region_write(BAR, 0x0C, b"abcd")
        watching = Watching(device)
        with served.step_lock:
            served.device.watch(watching)
        assert client.region_read(BAR, 0x0C, 4) == b"abcd"
        client.region_write(BAR, 0x08, b"x")
        with served.step_lock:
            served.device.watch(None)
        assert client.region_read(BAR, 0x08, 1) == b"x"
        assert watching.offsets == [0x0C, 0x08]
        assert (served.device.plain.reads, served.device.plain.writes) == (1, 1)


def test_a_stopped_device_refuses_plain_accesses() -> None:
    with Served(every()) as served:
        client = Client.over(served.socket)
        client.region_read(BAR, 0x0C, 4)
        with served.step_lock:
            served.device.migration.set_state(MigrationState.STOP)
        with pytest.raises(RemoteError) as refused:
            client.region_read(BAR, 0x0C, 4)
        assert refused.value.errno == EINVAL
        with served.step_lock:
            served.device.migration.set_state(MigrationState.RUNNING)
        assert client.region_read(BAR, 0x0C, 4) == bytes(4)


def test_a_device_that_is_replaced_answers_with_its_own_registers() -> None:
    with Served(every()) as served:
        client = Client.over(served.socket)
        client.region_write(BAR, 0x0C, b"abcd")
        other = every()
        with served.step_lock:
            served.device.replace(other)
        assert client.region_read(BAR, 0x0C, 4) == bytes(4)
        other.function.regs.word = 0x64636261  # type: ignore[attr-defined]  # Every's
        assert client.region_read(BAR, 0x0C, 4) == b"abcd"


def test_a_plain_access_waits_for_the_step_that_is_under_way() -> None:
    """It never sees what a step has half done."""
    device = every()
    with Served(device) as served:
        client = Client.over(served.socket)
        seen: list[bytes] = []
        with served.step_lock:
            device.function.regs.word = 1  # type: ignore[attr-defined]  # Every's
            reader = threading.Thread(target=lambda: seen.append(client.region_read(BAR, 0x0C, 4)))
            reader.start()
            reader.join(0.05)
            assert not seen
            device.function.regs.word = 2  # type: ignore[attr-defined]  # Every's
        reader.join(10)
        assert seen == [struct.pack("<I", 2)]


class Small(Served):
    """Its socket holds few replies."""

    @override
    def _socketpair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = super()._socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's least
        return ours, theirs


def test_replies_that_nobody_reads_wait_in_their_order() -> None:
    with Small(every()) as served:
        wire = Wire(served.socket)
        wire.hello()
        table, sent = served.device.plain, 0
        while not served.session._outgoing.waiting:
            wire.send(command_message(sent, Command.REGION_READ, access(0x18, BAR, 4)))
            sent += 1
            until(lambda: table.reads == sent)  # noqa: B023 - waited for at once
            assert served.step_lock.acquire(timeout=10)  # nobody waits for the peer with it
            served.step_lock.release()
        answers = [wire.receive() for _ in range(sent)]
        assert [each.header.id for each in answers] == list(range(sent))
        assert {each.payload for each in answers} == {access(0x18, BAR, 4, b"\x78\x56\x34\x12")}
        until(lambda: not served.session._outgoing.waiting)
        wire.send(command_message(sent, Command.REGION_READ, access(0x18, BAR, 4)))
        assert wire.receive().header.id == sent


def test_a_peer_that_goes_while_it_is_sent_to_ends_the_session() -> None:
    with Served(every()) as served:
        wire = Wire(served.socket)
        wire.hello()
        with served.step_lock:
            wire.send(command_message(1, Command.REGION_READ, access(0x18, BAR, 4)))
            served.socket.close()
        assert served.ended()


class Polling(Served):
    """It looks for messages for a while before it sleeps."""

    busy_poll = 3_000_000


@pytest.mark.parametrize("pause", [0.0, 0.02], ids=["while it looks", "while it sleeps"])
def test_a_session_that_polls_answers_the_same(pause: float) -> None:
    with Polling(every()) as served:
        client = Client.over(served.socket)
        for value in range(5):
            time.sleep(pause)
            client.region_write(BAR, 0x0C, struct.pack("<I", value))
            client.region_write(BAR, 0x40, struct.pack("<I", value))
            assert client.region_read(BAR, 0x0C, 4) == struct.pack("<I", value)
        client.reset()
        assert client.region_read(BAR, 0x0C, 4) == bytes(4)
        served.socket.close()
        assert served.ended() == "the client went away"


def test_a_session_that_polls_uses_its_core_and_one_that_does_not_sleeps() -> None:
    """Of 5 ms between two accesses it looks for the first 3."""

    def used(kind: type[Served]) -> float:
        with kind(every()) as served:
            client = Client.over(served.socket)
            before = time.process_time()
            for _ in range(10):
                client.region_read(BAR, 0x0C, 4)
                time.sleep(0.005)
            return time.process_time() - before

    assert used(Polling) > 0.015 > used(Served)
