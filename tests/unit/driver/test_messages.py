"""Messages with a pin: queue devices that send messages of their own, and move the pin where there are none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest

from mdev_user.driver import (
    MSI,
    MSIX,
    RC,
    U8,
    U32,
    WO,
    Bar,
    DriverError,
    Flag,
    Function,
    Message,
    Parent,
    PciId,
    Pool,
    Profile,
    Register,
    on_write,
    pending,
)
from mdev_user.testing import Guest


class Isr(Register, size=1):
    used, changed = Flag(0, RC), Flag(1, RC)


class Regs(Bar, index=0, size=4096):
    isr, mask = Isr.at(0), Isr.at(1)
    tell, tell_later = U32(4, WO), U32(8, WO)
    waits, gate = U8(12), U8(13)


@dataclass(frozen=True)
class Slice(Profile):
    instances: int


class Device(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=5, class_code=0x120000)
    vectors: ClassVar[MSI | MSIX] = MSI(4)
    regs = Regs()

    @pending
    def later(self) -> bool:
        return self.regs.waits > 3

    queue = Message(pin=Regs.isr.used)
    delayed = Message(pin=later, enable=Regs.gate.any)

    @on_write(Regs.tell)
    def send(self, vector: int) -> None:
        self.regs.isr.used = True
        self.queue.send(vector)


class Vectored(Device):
    vectors = MSIX(4)


class Card(Parent[Slice]):
    function = Device
    instances = Pool(1)
    types: ClassVar[Mapping[str, Slice]] = {"one": Slice(instances=1)}  # type: ignore[misc]  # as Parent says


class VectoredCard(Card):
    function = Vectored


def pin(guest: Guest) -> bool:
    """A call, since mypy takes an attribute for what it was when it was asked first."""
    return guest.pin


def test_pin_follows_the_condition_and_no_message_is_sent() -> None:
    with Guest(Card) as guest:
        guest.write(Regs.tell, 2)
        assert (guest.pin, guest.signals, guest.messages) == (True, 1, [])
        assert guest.read(Regs.isr.used)  # which clears it
        assert not pin(guest)
        guest.unmask()
        assert guest.signals == 1


@pytest.mark.parametrize("card", [Card, VectoredCard])
def test_messages_are_sent_to_their_vectors_and_no_others(card: type[Card]) -> None:
    with Guest(card) as guest:
        if card is Card:
            guest.enable_msi()
        else:
            guest.enable_msix()
        guest.write(Regs.tell, 2)
        guest.write(Regs.waits, 9)
        guest.write(Regs.gate, 1)
        assert (guest.take_messages(), guest.pin, guest.signals) == ([2], False, 0)


def test_several_conditions_share_the_pin() -> None:
    with Guest(Card) as guest:
        guest.write(Regs.tell, 0)
        guest.write(Regs.waits, 4)
        guest.read(Regs.isr)
        assert not pin(guest)  # not enabled
        guest.write(Regs.gate, 1)
        assert pin(guest)
        guest.write(Regs.tell, 0)
        guest.write(Regs.waits, 0)
        assert pin(guest)
        guest.read(Regs.isr)
        assert not pin(guest)


def test_pin_is_down_after_a_reset_and_an_open() -> None:
    with Guest(Card) as guest:
        guest.write(Regs.tell, 0)
        guest.reset()
        assert not pin(guest)
        guest.write(Regs.tell, 0)
        assert pin(guest)
        guest.close()
        guest.open()
        assert not pin(guest)
        guest.write(Regs.tell, 0)
        guest.read(Regs.isr)
        assert not pin(guest)


def test_conditions_take_no_vector() -> None:
    class Plain(Device):
        vectors = MSIX(1)

    class PlainCard(Card):
        function = Plain

    with Guest(PlainCard) as guest:
        guest.enable_msix()
        guest.write(Regs.tell, 1)
        assert (guest.messages, guest.errors) == ([], 1)


def test_mistakes_are_told() -> None:
    with pytest.raises(DriverError, match="Message: pin: expected a Flag of a register"):
        Message(pin=Regs.waits)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(DriverError, match="Message: enable is that of the pin"):
        Message(enable=Regs.gate.any)
