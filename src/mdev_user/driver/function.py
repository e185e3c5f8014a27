# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Function: one mediated PCI function, as one guest sees it; the class that an author subclasses."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from uuid import UUID

from typing_extensions import override

from mdev_user.driver.interrupts import INTX, MSI, MSIX
from mdev_user.driver.pools import Profile
from mdev_user.driver.saving.snapshot import Snapshot
from mdev_user.driver.unit import Unit
from mdev_user.errors import DriverError
from mdev_user.pci.capabilities import Capability
from mdev_user.pci.identity import PciId

if TYPE_CHECKING:
    from mdev_user.driver.device import Device

P = TypeVar("P", bound=Profile)


class ResetKind(Enum):
    """Why a device is reset."""

    POWER_ON = "it was opened: nothing of an earlier user is left"
    FUNCTION = "its user asked for it (VFIO_DEVICE_RESET): config space, what is sticky, and memory stay"
    SOFTWARE = "its guest wrote a register, and the driver called `reset_device`: the same stay"


class Function(Unit[P]):
    """Subclass it and declare what the device consists of; the rest is derived.

    ``identity`` must be there; ``vectors`` is `MSI` with one vector for each `Interrupt` unless said otherwise, and
    none, nor a pin, without an `Interrupt` or a `Message`; ``capabilities`` are further PCI capabilities, each
    one or a function of the profile that gives one. A bar, a `Memory`, `Saved`, `Table`, `Session`, `Attribute`,
    `Interrupt`, `Message`, `Parts`, a `job` and the methods decorated with `on_write` and `on_read` are its members.
    """

    __slots__ = ("uuid",)

    _overridable = Unit._overridable | {
        "reset", "identity", "vectors", "capabilities", "state_version", "upgrades"
    }  # fmt: skip

    identity: ClassVar[PciId]
    vectors: ClassVar[INTX | MSI | MSIX | None] = None
    # Any: the profile is the driver's own class; a Parent tries the function with each of its types.
    capabilities: ClassVar[Sequence[Capability | Callable[[Any], Capability]]] = ()

    state_version: ClassVar[int] = 1
    """Of what is saved of a device. One more when a declaration changes so that an older state means something else."""
    upgrades: ClassVar[Mapping[int, Callable[[Snapshot], Snapshot]]] = {}
    """``{1: from_first}`` makes a state of version 1 one of version 2: a function of the `Snapshot` alone."""

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


def _check_versions(cls: type[Function[Any]]) -> None:  # Any: of whatever profile
    version = cls.state_version
    if type(version) is not int or version < 1:
        raise DriverError(f"{cls.__name__}.state_version: expected a number from 1, given {version!r}")
    for number, upgrade in cls.upgrades.items():
        if type(number) is not int or not 1 <= number < version or not callable(upgrade):
            raise DriverError(
                f"{cls.__name__}.upgrades[{number!r}]: expected a function by an older version than {version}, the "
                f"state's, given {upgrade!r}"
            )
