"""Faults: what goes wrong on a host, how often, and where; plain values.

Each is what a driver, a driver's process or the kernel's socket really does, so what is seen of it follows the kernel:
a create that its driver refuses has the uevents ``add`` and ``remove`` and leaves nothing behind.
"""

import errno as numbers
from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Any

from msgspec import Struct
from msgspec.structs import fields
from typing_extensions import override

MOST_SECONDS = 3600.0
"""That something may take; a test that waits longer has another problem."""

_FRAMEWORKS = {
    numbers.EEXIST: "create an mdev of that UUID first",
    numbers.EUSERS: "use up the parent's instances, or lower them: faults.capacity(...)",
}
"""What the framework answers before the driver is asked, and without a uevent; so it is no fault of a driver."""
_ACTIONS = ("add", "remove", "change", "move", "online", "offline", "bind", "unbind")
"""Linux: lib/kobject_uevent.c."""
_EFFECTS = {"errno", "seconds", "times"}


class Fault(Struct, frozen=True, kw_only=True, tag_field="fault"):
    """``times`` is how often it happens; None is always. Every other None fits anything."""

    times: int | None = 1

    def __post_init__(self) -> None:
        if self.times is not None and (type(self.times) is not int or self.times < 1):
            raise ValueError(f"times: expected a number of at least 1, or None for always, given {self.times!r}")
        for problem in self._problems():
            raise ValueError(f"{type(self).__name__}: {problem}")

    def _problems(self) -> Iterator[str]:
        """What is wrong with the effect."""
        for name in self.__struct_fields__:
            yield from _CHECKS[name](getattr(self, name)) if name in _CHECKS else ()


class CreateFails(Fault, frozen=True, kw_only=True, tag="create-fails"):
    """The driver refuses a create with ``errno``, after the event `add`; `remove` follows, and nothing is left."""

    errno: int
    parent: str | None = None
    type_id: str | None = None

    @override
    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.errno in _FRAMEWORKS:
            name = numbers.errorcode[self.errno]
            yield f"{name} is the framework's own answer, which comes without an event: {_FRAMEWORKS[self.errno]}"


class CreateTakes(Fault, frozen=True, kw_only=True, tag="create-takes"):
    """The driver needs ``seconds`` to create an mdev. Its directory is there meanwhile, without `mdev_type`."""

    seconds: float
    parent: str | None = None
    type_id: str | None = None


class RemoveTakes(Fault, frozen=True, kw_only=True, tag="remove-takes"):
    """An mdev needs ``seconds`` to go, as one that a program has open: only its iommu_group is seen meanwhile.

    Its UUID and its share of the parent stay taken. A remove cannot be refused, so there is no fault for that.
    """

    seconds: float
    parent: str | None = None
    type_id: str | None = None


class AttributeFails(Fault, frozen=True, kw_only=True, tag="attribute-fails"):
    """The driver answers ``errno`` to a read or write of one of its own attributes, ``GROUP/NAME`` or ``NAME``.

    Of mdevs and of parents; those of the framework (``create``, ``name``, ``available_instances``) cannot fail so.
    """

    errno: int
    attribute: str | None = None
    parent: str | None = None


class LoseEvent(Fault, frozen=True, kw_only=True, tag="lose-event"):
    """A uevent reaches nobody. Its number is used up, so who counts SEQNUM can tell, as where a socket overflowed.

    ``name`` is the last part of DEVPATH: an mdev's UUID, a parent's name.
    """

    action: str | None = None
    subsystem: str | None = None
    name: str | None = None

    @override
    def _problems(self) -> Iterator[str]:
        if self.action is not None and self.action not in _ACTIONS:
            yield f"action: expected one of {', '.join(_ACTIONS)}, given {self.action!r}"


AnyFault = CreateFails | CreateTakes | RemoveTakes | AttributeFails | LoseEvent


def conditions(fault: AnyFault) -> dict[str, str]:
    """What must be so for the fault to happen, by the name of the field."""
    values = {each.name: getattr(fault, each.name) for each in fields(fault) if each.name not in _EFFECTS}
    return {name: value for name, value in values.items() if value is not None}


def _wrong_errno(number: int) -> Iterator[str]:
    if type(number) is not int or number not in numbers.errorcode:
        yield f"errno: expected a number such as errno.ENOSPC, given {number!r}"


def _wrong_seconds(seconds: float) -> Iterator[str]:
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not 0 <= (seconds if is_number else inf) <= MOST_SECONDS:
        yield f"seconds: expected a number from 0 to {MOST_SECONDS:.0f}, given {seconds!r}"


# Any: an effect is a value of any kind, and the check is what says which.
_CHECKS: Mapping[str, Callable[[Any], Iterator[str]]] = {"errno": _wrong_errno, "seconds": _wrong_seconds}
