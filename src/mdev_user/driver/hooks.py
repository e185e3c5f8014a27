# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Hooks: the methods of a driver that are called when a guest reads or writes a register.

A hook is a `def`: the guest's processor waits for it. Work that takes time, or DMA, is a `job` that it starts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeVar, overload

from mdev_user.driver.arity import check_arity
from mdev_user.errors import DriverError
from mdev_user.regs.dispatch import ReadHook, WriteHook
from mdev_user.regs.refs import INTEGER, Ref
from mdev_user.regs.registers import Register
from mdev_user.regs.slots import Slot

if TYPE_CHECKING:
    from mdev_user.driver.unit import AnyUnit

F = TypeVar("F", bound="AnyUnit")
T = TypeVar("T")
R = TypeVar("R", bound=Register)

_PASSED: Mapping[str, tuple[str, ...]] = {
    "on_write": ("value",),
    "on_write_each": ("index", "value"),
    "on_read": (),
    "on_read_each": ("index",),
}
"""What a method is called with, by its decorator."""


@dataclass(frozen=True)
class Mark:
    """What a decorator leaves on a method: its own name, and the register it is for."""

    decorator: str
    target: Ref[Any] | type[Register]  # Any: of whatever type; the decorator's signature has checked it

    @property
    def place(self) -> Ref[Any]:  # Any: as above
        """The bits; of a whole register with fields, all of it."""
        if isinstance(self.target, Ref):
            return self.target
        return Ref(self.target._place, 0, 8 * self.target._size, INTEGER)


@overload
def on_write(place: Ref[T]) -> Callable[[Callable[[F, T], None]], Callable[[F, T], None]]: ...
@overload
def on_write(place: type[R]) -> Callable[[Callable[[F, R], None]], Callable[[F, R], None]]: ...
def on_write(place: Ref[T] | type[R]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Call the method when the guest has written any byte of these bits, with their value as it was written.

    Called after the access rules have stored what they let through, and whatever they let through: on an RO register it
    is a command. Of a register with fields the method gets the register as it was written. Bytes of a register that
    the access did not write have their stored value, zero where writing stores nothing. Methods of one register are
    called in the order of their declaration.
    """
    return _marked(Mark("on_write", place))


@overload
def on_write_each(place: Ref[T]) -> Callable[[Callable[[F, int, T], None]], Callable[[F, int, T], None]]: ...
@overload
def on_write_each(place: type[R]) -> Callable[[Callable[[F, int, R], None]], Callable[[F, int, R], None]]: ...
def on_write_each(place: Ref[T] | type[R]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`on_write` for a register of an array: the method gets the number of the element first."""
    return _marked(Mark("on_write_each", place))


def on_read(place: Ref[T]) -> Callable[[Callable[[F], T]], Callable[[F], T]]:
    """Let the method compute these bits whenever the guest reads any byte of them. Nothing is stored."""
    return _marked(Mark("on_read", place))


def on_read_each(place: Ref[T]) -> Callable[[Callable[[F, int], T]], Callable[[F, int], T]]:
    """`on_read` for a register of an array: the method gets the number of the element."""
    return _marked(Mark("on_read_each", place))


_Method = TypeVar("_Method", bound=Callable[..., object])


def _marked(mark: Mark) -> Callable[[_Method], _Method]:
    if not isinstance(mark.target, Ref) and not (isinstance(mark.target, type) and issubclass(mark.target, Register)):
        raise DriverError(
            f"@{mark.decorator}: expected a register of a bar, such as Regs.doorbell, given {mark.target!r}"
        )

    def decorate(method: _Method) -> _Method:
        if iscoroutinefunction(method):
            raise DriverError(
                f"{method.__name__}: expected a def for @{mark.decorator}, given an async def; the guest waits for it. "
                f"Start a @job from it"
            )
        check_arity(f"@{mark.decorator}", method, *_PASSED[mark.decorator])
        vars(method).setdefault("_marks", []).append(mark)
        return method

    return decorate


def marks_of(member: object) -> list[Mark]:
    """The marks on a member of a class, in the order of the decorators."""
    marks: list[Mark] = getattr(member, "_marks", [])
    return marks


Hooked = Callable[..., Any]  # Any: called with its owner, of whatever class; its value is of the register's type


def write_hook(mark: Mark, slot: Slot, method: Hooked) -> WriteHook:
    """The hook for one register; the value is decoded for the method."""
    ref, element = mark.place, slot.element
    if ref.codec == INTEGER and ref.mask == slot.full and isinstance(mark.target, Ref) and element is None:
        return WriteHook(ref.mask, method)  # as it is: the quick way
    if element is None and isinstance(mark.target, Ref) and mark.target.wanted is None:
        return WriteHook(ref.mask, _decoded(ref, method))
    value_of = _decoder(mark.target)
    if element is None:
        return WriteHook(ref.mask, lambda owner, written: method(owner, value_of(written)))
    return WriteHook(ref.mask, lambda owner, written: method(owner, element, value_of(written)))


def _decoded(ref: Ref[Any], method: Hooked) -> Callable[[Any, int], None]:  # Any: as above, and the owner
    """The method, given the bits of a register as it was written; nothing is looked up on the way."""
    lsb, bits, decode = ref.lsb, (1 << ref.width) - 1, ref.codec.decode
    return lambda owner, written: method(owner, decode(written >> lsb & bits))


def _decoder(target: Ref[Any] | type[Register]) -> Callable[[int], object]:  # Any: of whatever type
    """What a method gets of a register as it was written."""
    if not isinstance(target, Ref):
        return lambda written: target._on([written], 0)
    lsb, bits, decode = target.lsb, (1 << target.width) - 1, target.decode
    return lambda written: decode(written >> lsb & bits)


def read_hook(mark: Mark, slot: Slot, method: Hooked) -> ReadHook:
    """The hook for one register; what the method answers is encoded."""
    ref, element = mark.place, slot.element
    encode = ref.encode if ref.wanted is not None else ref.codec.encode
    if ref.codec == INTEGER and element is None:
        return ReadHook(ref.lsb, ref.mask, method)  # as it is: the quick way
    if element is None:
        return ReadHook(ref.lsb, ref.mask, lambda owner: encode(method(owner)))
    return ReadHook(ref.lsb, ref.mask, lambda owner: encode(method(owner, element)))
