# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Function: one mediated PCI function, as one guest sees it; the class that an author subclasses."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from uuid import UUID

from typing_extensions import override

from mdev_user.driver.backend import B
from mdev_user.driver.interrupts import INTX, MSI, MSIX
from mdev_user.driver.pools import Profile
from mdev_user.driver.process import live_processes
from mdev_user.driver.saving.snapshot import Snapshot
from mdev_user.driver.screens import picture_of_planes
from mdev_user.driver.unit import Unit
from mdev_user.errors import DriverError, NotSupported
from mdev_user.pci.capabilities import Capability
from mdev_user.pci.identity import PciId
from mdev_user.vfio.damage import Rect
from mdev_user.vfio.planes import Plane, PlaneType
from mdev_user.vfio.screens import Picture

if TYPE_CHECKING:
    from mdev_user.driver.device import Device

P = TypeVar("P", bound=Profile)


class ResetKind(Enum):
    """Why a device is reset."""

    POWER_ON = "it was opened: nothing of an earlier user is left"
    FUNCTION = "its user asked for it (VFIO_DEVICE_RESET): config space, what is sticky, and memory stay"
    SOFTWARE = "its guest wrote a register, and the driver called `reset_device`: the same stay"


class Function(Unit[P, B]):
    """Subclass it and declare what the device consists of; the rest is derived.

    ``identity`` must be there; ``vectors`` is `MSI` with one vector for each `Interrupt` unless said otherwise, and
    none, nor a pin, without an `Interrupt` or a `Message`; ``capabilities`` are further PCI capabilities, each
    one or a function of the profile that gives one. A bar, a `Memory`, `Saved`, `Table`, `Session`, `Attribute`,
    `Interrupt`, `Message`, `Parts`, a `job` and the methods decorated with `on_write` and `on_read` are its members.
    """

    __slots__ = ("uuid",)

    _overridable = Unit._overridable | {
        "reset", "identity", "vectors", "capabilities", "state_version", "upgrades", "plane", "heads", "unmigratable",
        "tells_damage", "picture",
    }  # fmt: skip

    identity: ClassVar[PciId]
    vectors: ClassVar[INTX | MSI | MSIX | None] = None
    # Any: the profile is the driver's own class; a Parent tries the function with each of its types.
    capabilities: ClassVar[Sequence[Capability | Callable[[Any], Capability]]] = ()

    state_version: ClassVar[int] = 1
    """Of what is saved of a device. One more when a declaration changes so that an older state means something else."""
    upgrades: ClassVar[Mapping[int, Callable[[Snapshot], Snapshot]]] = {}
    """``{1: from_first}`` makes a state of version 1 one of version 2: a function of the `Snapshot` alone."""

    tells_damage: ClassVar[bool] = False
    """Whether `damaged` is called for all that changes on the heads. It cannot be where a guest draws into memory that
    it maps: whoever watches is told then that anything may have changed, whenever it asks.
    """

    uuid: UUID
    """The mdev's."""

    def __init__(self, name: str, profile: P, device: "Device") -> None:
        super().__init__(name, profile, device)
        self.uuid = device.uuid

    @classmethod
    @override
    def _check_class(cls) -> None:
        name = cls.__name__
        if not isinstance(getattr(cls, "identity", None), PciId):
            raise DriverError(
                f"{name}: say what it is: identity = PciId(vendor=..., device=..., class_code=...), "
                f"given {getattr(cls, 'identity', None)!r}"
            )
        if not isinstance(cls.vectors, INTX | MSI | MSIX | None):
            raise DriverError(f"{name}.vectors: expected MSI(n), MSIX(n) or INTX(), given {cls.vectors!r}")
        for each in cls.capabilities:
            if not callable(each) and not hasattr(each, "image"):
                raise DriverError(
                    f"{name}.capabilities: expected some such as PowerManagement(), or functions of the profile, "
                    f"given {each!r}"
                )
        _check_versions(cls)

    def reset_device(self) -> None:
        """The guest asks for a reset by a register: jobs end, and everything declared has its reset value again.

        Config space, memory, and registers and state that are sticky stay; `reset` is called with ResetKind.SOFTWARE.
        In a method of a register all that has happened when this returns, to the register that was written too, and
        what the method stores from there on stays. A job that calls this ends at its next await.
        """
        self._device.reset_by_software()

    def reset(self, kind: ResetKind) -> None:
        """Everything declared has its reset value again, and no job is under way: what else a reset does."""

    def unmigratable(self) -> str | None:
        """Why the device cannot be saved at the moment; None when it can. Changes nothing.

        It is shown, and whoever wants to save or migrate the device is refused for this reason: EOPNOTSUPP. Unless
        overridden it is that a `Process` is alive, whose state nobody else has. A driver that keeps all that it needs
        to make it anew answers None, and begins a new one in `loaded`.
        """
        live = live_processes(self._device)
        return f"{', '.join(live)}: what its process keeps cannot be saved" if live else None

    def plane(self, kind: PlaneType) -> Plane | None:
        """What is on the device's screen, for one that has a screen: override it.

        Asked when a VMM that shows the screen draws it, up to 60 times a second; changes nothing. None for nothing
        (a mode that was not set, a pointer that is not there). A picture begins where a mappable region does.
        """
        raise NotSupported(f"{type(self).__name__} has no screen: {kind.name}")

    @property
    def heads(self) -> int:
        """How many heads the device has, for screenshots and viewers: 1 with a `picture` or a `plane`, else 0.

        Override it as a number in the class, or as a property that looks at the profile.
        """
        kind = type(self)
        return int(kind.picture is not Function.picture or kind.plane is not Function.plane)

    def picture(self, head: int) -> Picture | None:  # noqa: ARG002 - for those who override it
        """What is on one of the `heads`, of which the first is 0; None for nothing (no mode, blanked). Changes nothing.

        Asked while the device is open. Unless overridden it is what `plane` says, the pointer included. Its sizes are
        checked, and a picture of more than 64 MiB is refused, to whoever asked.
        """
        return picture_of_planes(self)

    def damaged(self, head: int, rect: Rect | None = None) -> None:
        """Something has changed on a head: in ``rect``, or anywhere, its mode and blanking included.

        Costs nothing while nobody watches. Who watches is told in rectangles that cover these, up to 64 at a time. An
        open, a reset and a state that is loaded are known anyhow.
        """
        user = self._device._vfio
        if user is not None and user.damage.watched:
            user.damage.add(head, rect)


def _check_versions(cls: type[Function[Any, Any]]) -> None:  # Any: of whatever profile and backend
    version = cls.state_version
    if type(version) is not int or version < 1:
        raise DriverError(f"{cls.__name__}.state_version: expected a number from 1, given {version!r}")
    for number, upgrade in cls.upgrades.items():
        if type(number) is not int or not 1 <= number < version or not callable(upgrade):
            raise DriverError(
                f"{cls.__name__}.upgrades[{number!r}]: expected a function by an older version than {version}, the "
                f"state's, given {upgrade!r}"
            )
