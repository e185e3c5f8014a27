"""Unit: a class of declarations whose instances have the state that was declared and no other.

There are two kinds: a `Function`, and a `Part` that a function has several of.
"""

from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

from typing_extensions import override

from mdev_user.driver.backend import B
from mdev_user.driver.dma import Dma
from mdev_user.driver.hooks import marks_of
from mdev_user.driver.members import Member
from mdev_user.driver.plan import Plan
from mdev_user.driver.pools import Profile
from mdev_user.driver.saving.kinds import LEAST_INT, MOST_INT
from mdev_user.driver.state import Saved, Value, exact_kinds
from mdev_user.driver.undeclared import is_constant, is_shared_state, stores_to_self
from mdev_user.errors import DriverError
from mdev_user.regs.mistakes import likeliest

if TYPE_CHECKING:
    from mdev_user.driver.device import Device

P = TypeVar("P", bound=Profile)

_OURS = "mdev_user.driver."


class Unit(Generic[P, B]):
    """What `Function` and `Part` have in common: bars, state, methods, jobs and interrupts, declared in the class.

    The dictionary of an instance has the values of what is declared, bars, parts and jobs among them, and no others: a
    driver reads them as plain attributes, which costs least, and `__setattr__` lets nothing in that was not declared.
    """

    __slots__ = ("__dict__", "_bars", "_device", "_name", "_settings", "_settle", "_state", "backend", "dma", "profile")

    _overridable: ClassVar[frozenset[str]] = frozenset({"opened", "closed", "loaded"})
    """What a driver's class may define of what we define."""
    _plan: ClassVar[Plan]
    _exact: ClassVar[Mapping[str, type]] = {}
    """The saved values of which the type says whether they can be saved, an int's size apart: these are set at once."""

    profile: P
    """What the mdev's type gives it."""
    dma: Dma
    """The guest's memory, for jobs."""
    backend: B
    """What all mdevs of the parent share: what `Parent.open` gave. It is used by steps of several mdevs at once."""

    @override
    def __init_subclass__(cls) -> None:
        if _is_ours(cls):
            return
        own = _own_names(cls)
        if "__slots__" in vars(cls):
            raise DriverError(f"{cls.__name__}: __slots__: state is declared: Saved, Table, Session or a register")
        _check_names(cls, own)
        _check_overrides(cls)
        cls._check_class()
        cls._plan = Plan(cls)
        cls._exact = exact_kinds(cls._plan.of_kind(Saved))
        _check_state(cls, own, cls._plan.members)

    def __init__(self, name: str, profile: P, device: "Device") -> None:
        """Made by its device. A driver's own beginning is `opened`."""
        self._name, self.profile, self.dma = name, profile, Dma(device)
        self._device, self.backend = device, device.backend
        # Any: the bars' own classes, by their index in the unit; the descriptor of each knows which.
        self._bars: dict[int, Any] = {}  # Any: as above
        # Any: values of all declared types, by the name of the member.
        self._state: dict[str, Any] = self.__dict__  # Any: as above
        self._settings: dict[str, Any] = {}  # Any: as above
        self._settle: Callable[[], None] = device.settle

    @classmethod
    def _check_class(cls) -> None:
        """DriverError for what is wrong in a class of this kind."""

    def _check_state(self, state: Mapping[str, object]) -> None:
        """StateError for values by name, each of its own type, that this device cannot have; changes nothing."""

    def opened(self) -> None:
        """A user opened the device; it was reset, and its memory is zero."""

    def loaded(self) -> None:
        """A saved state was loaded into the device: everything declared has the saved value, and jobs are under way.

        What a `Session` holds was made anew. Nothing that the guest can see may change here.
        """

    def closed(self) -> None:
        """The user is gone, and with it its memory and interrupts. The device will be reset before the next one."""

    if not TYPE_CHECKING:  # a checker that saw it would take any name

        def __setattr__(self, name: str, value: object) -> None:
            kind = self._exact.get(name)
            if kind is type(value) and (kind is not int or LEAST_INT <= value <= MOST_INT):
                self._state[name] = value
                return
            member = getattr(type(self), name, None)
            if isinstance(member, Value):
                self._state[name] = member._taken(value)  # noqa: SLF001 - our own
            elif hasattr(member, "__set__"):
                object.__setattr__(self, name, value)
            else:
                raise AttributeError(_unsettable(type(self), name))


AnyUnit: TypeAlias = Unit[Any, Any]  # Any: of whatever profile and backend


def _own_names(cls: type[AnyUnit]) -> set[str]:
    """The names that are the API's, and not the author's, in a class."""
    ours = [base for base in cls.__mro__ if _is_ours(base)]
    names = {name for base in ours for name in (*vars(base), *vars(base).get("__slots__", ()))}
    return {name for name in names if not name.startswith("__")}


def _check_names(cls: type[AnyUnit], own: set[str]) -> None:
    name = cls.__name__
    if "__init__" in vars(cls):
        raise DriverError(f"{name}.__init__: a device is made by its parent: declare its state, and begin in opened()")
    for taken in vars(cls).keys() & (own - cls._overridable) - {"_plan"}:
        raise DriverError(f"{name}.{taken}: the name is the API's own; choose another")


def _check_overrides(cls: type[AnyUnit]) -> None:
    """DriverError for a declaration, or anything else that is no method, by a name that we call or look at."""
    for name in vars(cls).keys() & cls._overridable:
        given = vars(cls)[name]
        ours = next((vars(base)[name] for base in cls.__mro__ if _is_ours(base) and name in vars(base)), None)
        expected = next((told for kind, told in _EXPECTED if isinstance(ours, kind)), "a value")
        if isinstance(given, Member) or marks_of(given) or (expected != "a value" and not _FITS[expected](given)):
            raise DriverError(
                f"{cls.__name__}.{name}: the API asks a device for it: expected {expected}, given {_told(given)}; "
                f"choose another name for that"
            )


_EXPECTED = ((FunctionType, "a method"), (property, "a number or a property"), (bool, "True or False"))
_FITS: Mapping[str, Callable[[object], bool]] = {
    "a method": lambda given: callable(given) and not iscoroutinefunction(given),
    "a number or a property": lambda given: type(given) is int or isinstance(given, property),
    "True or False": lambda given: isinstance(given, bool | property),
}


def _told(given: object) -> str:
    if marks := marks_of(given):
        return f"a method for @{marks[0].decorator}"
    if iscoroutinefunction(given):
        return "an async def"
    return repr(given) if isinstance(given, int | str | None) else f"a {type(given).__name__}"


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith(_OURS)


def _check_state(cls: type, own: set[str], members: dict[str, object]) -> None:
    """DriverError for state that is not declared: set in a method, or shared by all devices."""
    known = members.keys() | own
    for name, member in members.items():
        if is_shared_state(member) and name not in own:
            raise DriverError(
                f"{cls.__name__}.{name}: a {type(member).__name__} in the class would be one for all mdevs, and not "
                f"saved; use Saved, Table or Session, or a tuple for a constant"
            )
        for stored in stores_to_self(member):
            if stored not in known:
                raise DriverError(f"in {cls.__name__}.{name}: " + _undeclared(cls.__name__, stored, members))
            if stored not in own and is_constant(members[stored]) and not isinstance(member, _OF_NO_DEVICE):
                raise DriverError(f"in {cls.__name__}.{name}: {_constant(cls.__name__, stored, members[stored])}")


_OF_NO_DEVICE = (classmethod, staticmethod, type)
"""What these store to is something else, so a name of the class may be set there."""


def _constant(cls: str, name: str, value: object) -> str:
    declared = f"Saved({value!r})" if isinstance(value, int | float | str | bytes | tuple) else "Saved(...)"
    return f"{cls}.{name} is a constant of the class: it cannot be set on a device; use {name} = {declared}"


def _unsettable(cls: type[AnyUnit], name: str) -> str:
    if hasattr(cls, name):
        return f"{cls.__name__}.{name} is declared in the class: it cannot be set on a device"
    return _undeclared(cls.__name__, name, cls._plan.members)


def _undeclared(cls: str, name: str, members: dict[str, object]) -> str:
    names = [each for each in members if not each.startswith("_")]
    meant = likeliest(name, names)
    hint = meant if "did you mean" in meant else ""
    return f"{cls} has no {name}: declare it ({name} = Saved(...)), or it is lost when the device is saved{hint}"
