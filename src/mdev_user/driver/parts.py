# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Parts: a unit with bars, state, methods and interrupts of its own, of which a function has several."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from typing_extensions import override

from mdev_user.driver.backend import B
from mdev_user.driver.members import Member
from mdev_user.driver.pools import Profile, told_of_profile
from mdev_user.driver.shares import Share
from mdev_user.driver.unit import Unit
from mdev_user.errors import DriverError
from mdev_user.regs.mistakes import number

if TYPE_CHECKING:
    from mdev_user.driver.device import Device
    from mdev_user.driver.function import Function

P = TypeVar("P", bound=Profile)

MOST_PARTS = 64


class Part(Unit[P, B]):
    """Subclass it as a `Function`, and let a function have some with `Parts`.

    The indexes of its bars count from that of the first bar of the part. A part neither sees its function nor the other
    parts; the function sees them all. Attributes are the function's.
    """

    __slots__ = ("index",)

    index: int
    """Which of them it is, from 0."""

    def __init__(self, name: str, profile: P, device: "Device", index: int) -> None:
        super().__init__(name, profile, device)
        self.index = index

    @classmethod
    @override
    def _check_class(cls) -> None:
        for name, member in vars(cls).items():
            if isinstance(member, Parts | Share):
                what = "parts" if isinstance(member, Parts) else "shares"
                raise DriverError(f"{cls.__name__}.{name}: a part has no {what}; give them to the function")


U = TypeVar("U", bound=Part[Any, Any])  # Any: of whatever profile and backend


class Parts(Member, Generic[U]):
    """``ports = Parts(Port, count=2)``; in use, ``self.ports[1]`` is a Port.

    ``count`` may depend on the mdev's type: ``count=lambda profile: profile.ports``. The first part's bars begin at
    ``bar``, those of the next one behind them. Interrupts take the vectors behind those of the function, part by part.
    """

    # Any: the profile is the driver's own class; a Parent tries the function with each of its types.
    def __init__(self, kind: type[U], *, count: int | Callable[[Any], int], bar: int = 0) -> None:
        if not (isinstance(kind, type) and issubclass(kind, Part)):
            raise DriverError(f"Parts: expected a Part class, given {kind!r}")
        if kind._plan.attributes:
            raise DriverError(f"{kind.__name__}.{kind._plan.attributes[0]._name}: attributes are the function's")
        for name, _index, _shown in kind._plan.device_region_members:
            raise DriverError(f"{kind.__name__}.{name}: regions beside the BARs are the function's")
        for memory in kind._plan.private:
            raise DriverError(f"{kind.__name__}.{memory._name}: private memory is the function's")
        self._kind, self._count = kind, count
        self._bar = number("Parts: bar", bar, 0, 5)

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: "Function[Any, Any]", owner: object) -> tuple[U, ...]: ...  # Any: of whatever profile
    def __get__(self, obj: "Function[Any, Any] | None", owner: object) -> Self | tuple[U, ...]:  # Any: as above
        return self  # of a device in use, the dictionary has the parts

    def _number(self, profile: object) -> int:
        """How many one type of mdev has."""
        try:
            count = self._count if isinstance(self._count, int) else self._count(profile)
        except AttributeError as error:  # of a profile, whose type no checker knows there
            raise DriverError(f"{self._name}: count: {told_of_profile(error, profile)}") from error
        return number(f"{self._name}: count", count, 0, MOST_PARTS)
