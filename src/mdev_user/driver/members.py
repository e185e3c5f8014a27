"""Members: what a Function class declares, whatever kind it is, and the walk over them."""

from collections.abc import Iterator
from typing import TypeVar

M = TypeVar("M")


class Member:
    """A declaration in the body of a Function class by its name."""

    _name: str = ""

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = self._name or name

    def _settle_types(self, owner: str) -> None:
        """Find the types of what is saved of it, once its class ``owner`` is complete.

        Not earlier: what stands in brackets after a class is set by Python when the member has been made. DriverError
        for a type that cannot be saved.
        """


def declarations(function: type) -> dict[str, object]:
    """Everything that a Function class and its bases declare, by name, in the order of declaration.

    What a device consists of is derived from this walk and from nothing else.
    """
    found: dict[str, object] = {}
    for base in reversed(function.__mro__):
        for name, member in vars(base).items():
            if not name.startswith("__"):
                found.pop(name, None)  # an override takes its own place in the order
                found[name] = member
    return found


def of_kind(members: dict[str, object], kind: type[M]) -> Iterator[tuple[str, M]]:
    """The members of one kind, in the order of declaration."""
    return ((name, member) for name, member in members.items() if isinstance(member, kind))
