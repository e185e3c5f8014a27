"""Processes of an mdev's own, as their driver sees them: in the test guest, where everything happens in order."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest
from typing_extensions import override

from mdev_user.driver import (
    RO,
    U32,
    WO,
    Bar,
    DriverError,
    Function,
    GuestError,
    Parent,
    PciId,
    Pending,
    Pool,
    Process,
    ProcessEnded,
    Profile,
    Program,
    Saved,
    job,
    on_write,
)
from mdev_user.errors import Unmigratable
from mdev_user.testing import Guest

READER, WRITER = os.pipe()


class Engine(Program):
    def __init__(self, first: int) -> None:
        self._sum = first
        self._fences: list[Pending[int]] = []
        self.forgotten: list[tuple[int, int]] = []

    def add(self, number: int) -> int:
        if number == 13:
            raise GuestError("thirteen")
        if number == 66:
            raise RuntimeError("a bug")
        self._sum += number
        return self._sum

    def fence(self, number: int) -> Pending[int]:
        pending = Pending[int]()
        if number == 1:
            self.after(2.0, lambda: pending.done(20))
        elif number == 2:
            self.watch(READER, lambda: self._signal(pending))
        else:
            pending.done(number)
        return pending

    def copy(self, source: int, destination: int, length: int) -> None:
        data = b"".join(bytes(each.view) for each in self.memory.pieces(source, length))
        for piece in self.memory.pieces(destination, length, write=True):
            piece.view[:] = data[: len(piece.view)]
            data = data[len(piece.view) :]

    def lie(self) -> int:
        return "text"  # type: ignore[return-value]  # as a driver's bug

    @override
    def unmapped(self, address: int, length: int) -> None:
        self.forgotten.append((address, length))

    def forgotten_ranges(self) -> list[tuple[int, int]]:
        return self.forgotten

    def _signal(self, pending: Pending[int]) -> None:
        os.read(READER, 1)
        pending.done(30)


class Regs(Bar, index=0, size=4096):
    number, fence, copy, lie = U32(0, WO), U32(4, WO), U32(8, WO), U32(12, WO)
    sum, signalled, ended, refused = U32(16, RO), U32(20, RO), U32(24, RO), U32(28, RO)


@dataclass(frozen=True)
class Slice(Profile):
    instances: int


class Card(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=0x29, class_code=0x120000)
    regs = Regs()
    engine = Process(Engine, arguments=lambda profile: (profile.instances * 100,))
    order = Saved("")

    @engine.ended
    def engine_ended(self, _error: ProcessEnded) -> None:
        self.order += "hook "
        self.regs.ended += 1

    @on_write(Regs.number)
    def begin_add(self, value: int) -> None:
        self.add(value)

    @job(limit=10)
    async def add(self, value: int) -> None:
        try:
            self.regs.sum = await self.engine.call(Engine.add, value)
        except GuestError:
            self.order += "job "
            self.regs.refused += 1

    @on_write(Regs.fence)
    def begin_fence(self, value: int) -> None:
        self.wait_for_fence(value)

    @job(limit=10)
    async def wait_for_fence(self, value: int) -> None:
        try:
            self.regs.signalled = await self.engine.call(Engine.fence, value)
        except GuestError:
            self.order += "fence "

    @on_write(Regs.copy)
    def begin_copy(self, value: int) -> None:
        self.copy(value)

    @job()
    async def copy(self, value: int) -> None:
        await self.engine.call(Engine.copy, value, value + 0x10000, 0x1800)

    @on_write(Regs.lie)
    def begin_lie(self, _value: int) -> None:
        self.lie()

    @job()
    async def lie(self) -> None:
        await self.engine.call(Engine.lie)


class Cards(Parent[Slice]):
    function = Card
    instances = Pool(4)
    types: ClassVar[Mapping[str, Slice]] = {"one": Slice(instances=1)}  # type: ignore[misc]  # as Parent says


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(Cards) as made:
        yield made


def card(guest: Guest) -> Card:
    function = guest.device.function
    assert isinstance(function, Card)
    return function


def add(guest: Guest, number: int) -> int:
    guest.write(Regs.number, number)
    guest.run()
    return int(guest.read(Regs.sum))


def test_process_keeps_state_until_a_reset(guest: Guest) -> None:
    assert [add(guest, 1), add(guest, 2)] == [101, 103]
    guest.reset()
    assert add(guest, 1) == 101


def test_fences_come_when_they_come(guest: Guest) -> None:
    guest.write(Regs.fence, 1)
    guest.run()
    guest.write(Regs.fence, 5)
    guest.run()
    assert guest.read(Regs.signalled) == 5
    guest.advance(1.9)
    assert guest.read(Regs.signalled) == 5
    guest.advance(0.1)
    assert guest.read(Regs.signalled) == 20
    guest.write(Regs.fence, 2)
    guest.run()
    os.write(WRITER, b"x")
    guest.run()
    assert guest.read(Regs.signalled) == 30


def test_guest_error_leaves_the_process_alone(guest: Guest) -> None:
    add(guest, 1)
    add(guest, 13)
    assert guest.last_error == "thirteen"
    assert add(guest, 1) == 102
    assert guest.read(Regs.ended) == 0


def test_bug_of_the_program_is_its_end(guest: Guest) -> None:
    """The driver is told first, then all jobs that wait."""
    guest.write(Regs.fence, 1)
    guest.run()
    add(guest, 66)
    assert card(guest).order == "hook fence job "
    assert isinstance(guest.refused[0], ProcessEnded)
    assert guest.last_error == "engine: RuntimeError: a bug"
    assert add(guest, 1) == 101
    guest.advance(10)  # nothing comes of the fence


def test_answer_of_another_type_is_its_end(guest: Guest) -> None:
    guest.write(Regs.lie, 1)
    guest.run()
    assert "ValidationError" in guest.last_error


def test_program_reaches_the_guests_memory(guest: Guest) -> None:
    data = bytes(range(256)) * 24
    guest.memory[0x1400:0x2C00] = data
    guest.write(Regs.copy, 0x1400)
    guest.run()
    assert guest.memory[0x11400:0x12C00] == data
    guest.write(Regs.copy, 0x400_0000)
    guest.run()
    assert "no memory at" in guest.last_error


def test_program_is_told_of_an_unmap(guest: Guest) -> None:
    add(guest, 1)
    guest.map(0x10_0000, 0x1000)
    guest.unmap(0x10_0000, 0x1000)
    program = card(guest).engine._running()._program  # type: ignore[attr-defined]  # an InProcess'
    assert program.forgotten_ranges() == [(0x10_0000, 0x1000)]


def test_device_with_a_process_cannot_be_saved(guest: Guest) -> None:
    guest.save()
    add(guest, 1)
    with pytest.raises(Unmigratable, match="engine: what its process keeps cannot be saved"):
        guest.save()
    assert add(guest, 1) == 102  # it goes on
    guest.reset()
    guest.save()


def test_no_process_is_started_while_the_device_is_copied(guest: Guest) -> None:
    guest.copy()
    add(guest, 1)
    assert "the device is being migrated" in guest.last_error
    assert card(guest).order == "job "
    guest.save()
    assert add(guest, 1) == 101


def test_driver_may_know_how_to_save_it() -> None:
    class Rebuilt(Card):
        @override
        def unmigratable(self) -> str | None:
            return None

    class Parents(Cards):
        function = Rebuilt

    with Guest(Parents) as guest, Guest(Parents) as other:
        add(guest, 1)
        other.load(guest.save())
        assert add(other, 1) == 101


class Untyped(Program):
    def answer(self):  # type: ignore[no-untyped-def]  # noqa: ANN201 - what the test is about
        return 1


def declare(process: Process[Program]) -> None:
    class Wrong(Function[Profile]):
        identity = PciId(vendor=1, device=1, class_code=1)
        member = process


def test_mistakes_are_told_when_the_class_is_declared() -> None:
    class Inner(Program):
        pass

    with pytest.raises(DriverError, match="at the top of a module"):
        Process(Inner)
    with pytest.raises(DriverError, match="at the top of a module"):
        Process(int)  # type: ignore[type-var]  # what the test is about
    with pytest.raises(DriverError, match=r"Untyped.answer: its answer is checked: say of which type it is"):
        declare(Process(Untyped))
    with pytest.raises(DriverError, match="seconds > 0"):
        Process(Engine, seconds=0)


def test_what_is_no_method_of_the_program_cannot_be_called(guest: Guest) -> None:
    calls = card(guest).engine
    for wrong in (len, Engine._signal, Engine.after):
        with pytest.raises(DriverError, match="expected a public method of Engine"):
            calls.call(wrong).send(None)  # type: ignore[call-overload]  # what the test is about
