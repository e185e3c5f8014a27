# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Interrupts: levels that follow bits of the device, and messages that are sent.

An author never raises or lowers anything: a level is up while its pending bit and its enable bit are set, and that is
looked at when a step ends, so that a guest never sees an interrupt before the state that it announces.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar, overload

from mdev_user.driver.arity import check_arity
from mdev_user.driver.members import Member
from mdev_user.errors import DriverError
from mdev_user.regs.mistakes import number
from mdev_user.regs.refs import BIT, Ref

if TYPE_CHECKING:
    from mdev_user.driver.unit import AnyUnit

F = TypeVar("F", bound="AnyUnit")

_MOST_VECTORS = 2048
"""Of an MSI-X table. That MSI has fewer is told when it is known which interrupts there are."""


@dataclass(frozen=True, slots=True)
class INTX:
    """``vectors = INTX()``: the pin, and no messages."""


@dataclass(frozen=True, slots=True)
class MSI:
    """``vectors = MSI(4)``: up to 32 vectors by MSI, beside INTx."""

    vectors: int

    def __post_init__(self) -> None:
        number("MSI: vectors", self.vectors, 1, _MOST_VECTORS)


@dataclass(frozen=True, slots=True)
class MSIX:
    """``vectors = MSIX(64)``: up to 2048 vectors by MSI-X, beside INTx.

    Their table lies in a BAR of its own: ``bar``, by default the first that is free.
    """

    vectors: int
    bar: int | None = None

    def __post_init__(self) -> None:
        number("MSIX: vectors", self.vectors, 1, _MOST_VECTORS)


class Pending(Member):
    """A computed pending bit; on a device in use it is its value now."""

    def __init__(self, compute: Callable[..., bool]) -> None:
        self._compute = compute

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: "AnyUnit", owner: object) -> bool: ...
    def __get__(self, obj: "AnyUnit | None", owner: object) -> Self | bool:
        return self if obj is None else bool(self._compute(obj))


def pending(compute: Callable[[F], bool]) -> Pending:
    """Make a method a computed pending bit for an `Interrupt`. It is looked at when a step ends: it must be quick."""
    check_arity("@pending", compute)
    return Pending(compute)


class Interrupt(Member):
    """A level: ``done = Interrupt(Regs.status.done, enable=Regs.enable.done)``.

    Interrupts take the vectors from 0 in the order of their declaration. With INTx the levels together drive the pin;
    with MSI or MSI-X a rising level sends its vector's message.
    """

    def __init__(self, pending: Ref[bool] | Pending, enable: Ref[bool] | None = None) -> None:
        if not isinstance(pending, Pending):
            _check_bit("Interrupt", pending)
        if enable is not None:
            _check_bit("Interrupt: enable", enable)
        self._pending, self._enable = pending, enable


class Message(Member):
    """Messages for queue devices: ``completion = Message(pin=Regs.isr.any)``, then ``self.completion.send(vector)``.

    With INTx a message is not sent: there the pin is up while ``pin`` and ``enable`` are, which are those of an
    `Interrupt`. They concern the pin only, and take no vector.
    """

    def __init__(self, *, pin: Ref[bool] | Pending | None = None, enable: Ref[bool] | None = None) -> None:
        if pin is not None and not isinstance(pin, Pending):
            _check_bit("Message: pin", pin)
        if enable is not None:
            _check_bit("Message: enable", enable)
            if pin is None:
                raise DriverError("Message: enable is that of the pin: say which condition is, pin=...")
        self._pending, self._enable = pin, enable

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: "AnyUnit", owner: object) -> "Sender": ...
    def __get__(self, obj: "AnyUnit | None", owner: object) -> "Self | Sender":
        return self if obj is None else Sender(obj)


class Sender:
    """A `Message` of a device in use."""

    __slots__ = ("_unit",)

    def __init__(self, unit: "AnyUnit") -> None:
        self._unit = unit

    def send(self, vector: int) -> None:
        """Send the message of ``vector``, from 0. GuestError for a vector that the function does not have."""
        self._unit._device.send(vector)


def _check_bit(what: str, ref: object) -> None:
    if not (isinstance(ref, Ref) and ref.codec == BIT):
        given = f"{ref}, which is not a bool" if isinstance(ref, Ref) else repr(ref)
        raise DriverError(
            f"{what}: expected a Flag of a register, a condition (.any, .equals()) or @pending, given {given}"
        )
    if ref.place.bar is None:
        raise DriverError(f"{what}: {ref} is not placed; name it by its bar, such as Regs.status.{ref.field}")
    if ref.place.repeated:
        raise DriverError(f"{what}: {ref} is in an array: an interrupt follows one bit; compute it with @pending")
