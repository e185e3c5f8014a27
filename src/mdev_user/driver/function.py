"""Function: one mediated PCI function, as one guest sees it; the class that an author subclasses."""

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar
from uuid import UUID

from typing_extensions import override

from mdev_user.driver.dma import Dma
from mdev_user.driver.interrupts import MSI, MSIX
from mdev_user.driver.plan import Plan
from mdev_user.driver.pools import Profile
from mdev_user.driver.undeclared import is_shared_state, stores_to_self
from mdev_user.errors import DriverError
from mdev_user.pci.capabilities import Capability
from mdev_user.pci.identity import PciId
from mdev_user.regs.bar import Bar
from mdev_user.regs.mistakes import likeliest

if TYPE_CHECKING:
    from mdev_user.driver.device import Device

P = TypeVar("P", bound=Profile)


class ResetKind(Enum):
    """Why a device is reset."""

    POWER_ON = "it was opened: nothing of an earlier user is left"
    FUNCTION = "its user asked for it (VFIO_DEVICE_RESET): config space, sticky registers and memory stay"


class Sealed(type):
    """Gives a class no instance dictionary, so that a device has the state that was declared and no other."""

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, object]) -> "Sealed":
        if "__slots__" in body and bases and body.get("__module__") != __name__:
            raise DriverError(f"{name}: __slots__: state is declared: Saved, Table, Session or a register")
        body.setdefault("__slots__", ())
        return super().__new__(mcs, name, bases, body)


class Function(Generic[P], metaclass=Sealed):
    """Subclass it and declare what the device consists of; the rest is derived.

    ``identity`` must be there; ``vectors`` is `MSI` with one vector for each `Interrupt` unless said otherwise;
    ``capabilities`` are further PCI capabilities. A bar, a `Memory`, `Saved`, `Table`, `Session`, `Attribute`,
    `Interrupt`, `Message`, a `job` and the methods decorated with `on_write` and `on_read` are its members.
    """

    __slots__ = ("_bars", "_device", "_settings", "_state", "dma", "profile", "uuid")

    identity: ClassVar[PciId]
    vectors: ClassVar[MSI | MSIX | None] = None
    capabilities: ClassVar[Sequence[Capability]] = ()
    _plan: ClassVar[Plan]

    profile: P
    """What the mdev's type gives it."""
    uuid: UUID
    """The mdev's."""
    dma: Dma
    """The guest's memory, for jobs."""

    @override
    def __init_subclass__(cls) -> None:
        _check_class(cls)
        cls._plan = Plan(cls)
        _check_state(cls, cls._plan.members)

    def __init__(self, profile: P, uuid: UUID, device: "Device") -> None:
        """Made by its parent. A driver's own beginning is `opened`."""
        self.profile, self.uuid, self.dma = profile, uuid, Dma(device)
        self._device = device
        self._bars: list[Bar] = device.views
        # Any: values of all declared types, by the name of the member.
        self._state: dict[str, Any] = {}  # Any: as above
        self._settings: dict[str, Any] = {}  # Any: as above

    def opened(self) -> None:
        """A user opened the device; it was reset, and its memory is zero."""

    def reset(self, kind: ResetKind) -> None:
        """Everything declared has its reset value again, and no job is under way: what else a reset does."""

    def closed(self) -> None:
        """The user is gone, and with it its memory and interrupts. The device will be reset before the next one."""

    if not TYPE_CHECKING:  # a checker that saw these would take any name

        def __setattr__(self, name: str, value: object) -> None:
            try:
                object.__setattr__(self, name, value)
            except AttributeError:
                if hasattr(type(self), name):
                    raise
                raise AttributeError(_undeclared(type(self).__name__, name, self._plan.members)) from None

        def __getattr__(self, name: str) -> object:
            if name in self._plan.members:  # it is there, and its own code raised: let that be seen
                return object.__getattribute__(self, name)
            names = [each for each in dir(type(self)) if not each.startswith("_")]
            raise AttributeError(f"{type(self).__name__} has no {name}{likeliest(name, names)}")


AnyFunction: TypeAlias = Function[Any]  # Any: of whatever profile

_OWN = frozenset(name for name in vars(Function) if not name.startswith("__")) | frozenset(Function.__slots__)
_HOOKS = {"opened", "reset", "closed", "identity", "vectors", "capabilities"}


def _check_class(cls: type[AnyFunction]) -> None:
    name = cls.__name__
    if not isinstance(getattr(cls, "identity", None), PciId):
        raise DriverError(
            f"{name}: say what it is: identity = PciId(vendor=..., device=..., class_code=...), "
            f"given {getattr(cls, 'identity', None)!r}"
        )
    if "__init__" in vars(cls):
        raise DriverError(f"{name}.__init__: a device is made by its parent: declare its state, and begin in opened()")
    for taken in vars(cls).keys() & (_OWN - _HOOKS) - {"_plan"}:
        raise DriverError(f"{name}.{taken}: the name is Function's own; choose another")
    if not isinstance(cls.vectors, MSI | MSIX | None):
        raise DriverError(f"{name}.vectors: expected MSI(n) or MSIX(n), given {cls.vectors!r}")


def _check_state(cls: type, members: dict[str, object]) -> None:
    """DriverError for state that is not declared: set in a method, or shared by all devices."""
    known = members.keys() | _OWN
    for name, member in members.items():
        if is_shared_state(member):
            raise DriverError(
                f"{cls.__name__}.{name}: a {type(member).__name__} in the class would be one for all mdevs, and not "
                f"saved; use Saved, Table or Session, or a tuple for a constant"
            )
        for stored in stores_to_self(member):
            if stored not in known:
                raise DriverError(f"in {cls.__name__}.{name}: " + _undeclared(cls.__name__, stored, members))


def _undeclared(cls: str, name: str, members: dict[str, object]) -> str:
    names = [each for each in members if not each.startswith("_")]
    meant = likeliest(name, names)
    hint = meant if "did you mean" in meant else ""
    return f"{cls} has no {name}: declare it ({name} = Saved(...)), or it is lost when the device is saved{hint}"
