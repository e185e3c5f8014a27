"""Interrupts of a device that is saved and loaded: no edge is lost, and none is invented."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from mdev_user.driver import (
    MSI,
    MSIX,
    RO,
    U32,
    WO,
    Bar,
    Flag,
    Function,
    Interrupt,
    Message,
    PciId,
    Profile,
    Register,
    Saved,
    StateError,
    on_write,
    pending,
)  # fmt: skip
from mdev_user.driver.saving import transfer
from mdev_user.driver.saving.snapshot import decoded_snapshot, encoded_stream, from_bytes, to_bytes
from mdev_user.vfio.requests import Irq, Region
from unit.driver.bench import Bench, Wire

ID = PciId(vendor=0x1DE5, device=9, class_code=0x120000)


class Status(Register):
    first, second = Flag(0), Flag(1)


class Regs(Bar, index=0, size=64):
    status, causes = Status.at(0), U32(4)
    send, count = U32(8, WO), U32(12, RO)


class Messages(Function[Profile]):
    """Levels of every sort: a bit, one of several causes, and a computed one; and messages."""

    identity = ID
    vectors = MSI(4)
    regs, full = Regs(), Saved(0)

    @pending
    def crowded(self) -> bool:
        return self.full > 2

    first, any_cause = Interrupt(Regs.status.first), Interrupt(Regs.causes.any)
    crowd, other = Interrupt(crowded), Message()

    @on_write(Regs.send)
    def told(self, value: int) -> None:
        self.other.send(value)


class Table(Messages):
    """The same with MSI-X."""

    vectors = MSIX(4)  # type: ignore[assignment]  # of another kind than its base's


def messages(bench: Bench) -> Messages:
    made = bench.device.function
    assert isinstance(made, Messages)
    return made


def taken(wires: list[Wire]) -> list[int]:
    return [wire.take() for wire in wires]


@pytest.fixture(params=[(Messages, Irq.MSI), (Table, Irq.MSIX)], ids=["msi", "msix"])
def pair(request: pytest.FixtureRequest) -> tuple[Bench, list[Wire], Bench, list[Wire]]:
    kind, index = request.param
    source, target = Bench(kind), Bench(kind)
    return source, source.arm(index, 4), target, target.arm(index, 4)


def raise_all(bench: Bench) -> None:
    made = messages(bench)
    made.regs.status.first, made.regs.causes, made.full = True, 0b01, 3
    bench.device.settle()


Pair = tuple[Bench, list[Wire], Bench, list[Wire]]


def test_levels_that_were_told_are_not_told_again(pair: Pair) -> None:
    source, sent, target, arrived = pair
    raise_all(source)
    assert taken(sent) == [1, 1, 1, 0]
    target.device.load(source.device.save())
    target.device.settle()
    assert taken(arrived) == [0, 0, 0, 0]


def test_levels_that_were_not_saved_would_be_told_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above."""
    source, _sent, target, arrived = pair
    raise_all(source)
    monkeypatch.setattr(transfer, "_packed", lambda _bits: b"")
    target.device.load(source.device.save())
    assert taken(arrived) == [1, 1, 1, 0]


def test_level_that_was_up_before_the_load_is_told_when_it_rises_in_what_was_loaded(pair: Pair) -> None:
    """The levels of the device that is overwritten are forgotten; without that its own would stand for them."""
    _source, _sent, target, arrived = pair
    idle = target.device.save()
    raise_all(target)
    taken(arrived)
    target.device.load(idle)
    raise_all(target)
    assert taken(arrived) == [1, 1, 1, 0]


def test_both_tell_what_comes_next(pair: Pair) -> None:
    source, sent, target, arrived = pair
    raise_all(source)
    target.device.load(source.device.save())
    taken(sent)
    steps: list[Callable[[Messages], None]] = [
        lambda made: setattr(made.regs, "causes", 0b11),  # one more cause of a level that is up
        lambda made: setattr(made.regs.status, "first", False),
        lambda made: setattr(made.regs.status, "first", True),
        lambda made: setattr(made, "full", 0),
        lambda made: setattr(made, "full", 9),
    ]
    for step in steps:
        for bench in (source, target):
            step(messages(bench))
            bench.device.settle()
        told = taken(sent)
        assert told == taken(arrived)
    assert source.device.save() == target.device.save()


def test_held_back_message_goes_when_it_can(pair: Pair) -> None:
    source, sent, target, arrived = pair
    source.write(4, b"\x03\x00", Region.CONFIG)  # a message is a memory write, and it is not bus master
    raise_all(source)
    source.write(8, 3)
    target.device.load(source.device.save())
    assert (taken(sent), taken(arrived)) == ([0] * 4, [0] * 4)
    for bench in (source, target):
        bench.write(4, b"\x07\x00", Region.CONFIG)
    assert (taken(sent), taken(arrived)) == ([1] * 4, [1] * 4)


def test_message_that_was_sent_goes_though_the_level_that_shares_it_was_served(pair: Pair) -> None:
    source, sent, target, arrived = pair
    source.write(4, b"\x03\x00", Region.CONFIG)
    source.write(8, 0)
    source.write(0, 1)
    target.device.load(source.device.save())
    for bench in (source, target):
        bench.write(0, 0)
        bench.write(4, b"\x07\x00", Region.CONFIG)
    assert (taken(sent), taken(arrived)) == ([1, 0, 0, 0], [1, 0, 0, 0])


def test_level_that_was_served_before_it_was_told_is_not_told(pair: Pair) -> None:
    source, sent, target, arrived = pair
    source.write(4, b"\x03\x00", Region.CONFIG)
    source.write(4, 0b01)
    source.write(4, 0b11)  # one more cause, which is no event
    target.device.load(source.device.save())
    for bench in (source, target):
        bench.write(4, 0)
        bench.write(4, b"\x07\x00", Region.CONFIG)
    assert (taken(sent), taken(arrived)) == ([0] * 4, [0] * 4)


def test_message_that_nobody_took_goes_where_somebody_listens() -> None:
    source, target = Bench(Messages), Bench(Messages)
    (*_, last) = source.arm(Irq.MSI, 4)
    assert last.take() == 0
    source.device._pci.irqs.disarm_all()
    source.write(8, 2)
    arrived = target.arm(Irq.MSI, 4)
    target.device.load(source.device.save())
    assert taken(arrived) == [0, 0, 1, 0]


def test_pin_is_up_when_the_level_is(pair: Pair) -> None:
    source, target = Bench(type(messages(pair[0]))), Bench(type(messages(pair[0])))
    raise_all(source)
    (wire,) = target.arm(Irq.INTX)
    target.device.load(source.device.save())
    assert wire.take() == 1
    for bench in (source, target):
        assert bench.read(6, 2, Region.CONFIG) & 8
        made = messages(bench)
        made.regs.status.first, made.regs.causes, made.full = False, 0, 0
        bench.device.settle()
        assert not bench.read(6, 2, Region.CONFIG) & 8


def test_loading_the_same_again_tells_nothing(pair: Pair) -> None:
    source, sent, _target, _arrived = pair
    raise_all(source)
    taken(sent)
    data = source.device.save()
    source.device.load(data)
    assert (taken(sent), source.device.save()) == ([0] * 4, data)


def test_refused_interrupts_leave_the_config_space_as_it_was(pair: Pair) -> None:
    source, _sent, target, _arrived = pair
    before = target.device.save()
    source.write(4, b"\x00\x00", Region.CONFIG)
    stream = decoded_snapshot(from_bytes(source.device.save(), 0))
    with pytest.raises(StateError, match=r"saved MSI-X table|saved bytes: expected"):
        target.device.load(to_bytes(encoded_stream(replace(stream, vectors=b"x"))))
    assert target.device.save() == before
