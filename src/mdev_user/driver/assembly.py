# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Assembly: of which units a device of one type consists, and the BARs and vectors that they get."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mdev_user.driver.function import Function
from mdev_user.driver.interrupts import INTX, MSI, MSIX, Message
from mdev_user.driver.parts import Part, Parts
from mdev_user.driver.plan import Plan
from mdev_user.driver.pools import told_of_profile
from mdev_user.driver.unit import AnyUnit
from mdev_user.errors import DriverError
from mdev_user.pci.bars import MemoryBar
from mdev_user.pci.capabilities import Capability, Msi, Msix
from mdev_user.pci.config import ConfigSpace
from mdev_user.units import PAGE
from mdev_user.vfio.pci_function import BarRegion

if TYPE_CHECKING:
    from mdev_user.driver.device import Device

AnyFunction: TypeAlias = Function[Any, Any]  # Any: of whatever profile and backend

_BARS = 6
_MOST_MSI = 32


@dataclass(frozen=True)
class Place:
    """One unit of a device."""

    name: str
    """``port[1]`` for a part; the function has none."""
    kind: type[AnyUnit]
    index: int
    """Which of its kind it is, from 0."""
    bar: int
    """Added to the indexes of its bars."""
    vector: int
    """The first of its interrupts."""
    family: str = ""
    """The name of the `Parts` that it is one of."""

    @property
    def plan(self) -> Plan:
        return self.kind._plan

    def make(self, profile: object, device: "Device") -> AnyUnit:
        if issubclass(self.kind, Part):
            return self.kind(self.name, profile, device, self.index)
        return self.kind(self.name, profile, device)


def places(function: type[AnyFunction], profile: object) -> list[Place]:
    """The function, and then its parts in the order of their declaration."""
    found = [Place("", function, 0, 0, 0)]
    vector = len(function._plan.interrupts)
    for parts in function._plan.of_kind(Parts):
        plan = parts._kind._plan
        for index in range(parts._number(profile)):
            name = f"{parts._name}[{index}]"
            bar = parts._bar + index * plan.bar_slots
            found.append(Place(name, parts._kind, index, bar, vector, parts._name))
            vector += len(plan.interrupts)
    return found


def regions(function: type[AnyFunction], profile: object) -> dict[int, BarRegion]:
    """The BARs of one type of mdev, without that of an MSI-X table."""
    taken: dict[int, str] = {}
    found: dict[int, BarRegion] = {}
    for place in places(function, profile):
        for index, region in place.plan.regions(profile).items():
            name = f"{function.__name__}.{place.name}" if place.name else function.__name__
            _take(taken, name, range(place.bar + index, place.bar + index + region.bar.slots))
            found[place.bar + index] = region
    return found


def _take(taken: dict[int, str], name: str, bars: Iterable[int]) -> None:
    for bar in bars:
        if bar >= _BARS:
            raise DriverError(f"{name}: bar {bar}: a function has the bars 0 to {_BARS - 1}; place fewer, or lower")
        if bar in taken:
            raise DriverError(f"{name}: bar {bar} is {taken[bar]}'s already; place one elsewhere (bar=...)")
        taken[bar] = name


def config_space(
    function: type[AnyFunction], profile: object, bars: dict[int, BarRegion], messages: Sequence[Capability]
) -> ConfigSpace:
    """Of one type of mdev."""
    windows = {index: each.bar for index, each in bars.items()}
    capabilities = (*messages, *_capabilities(function, profile))
    return ConfigSpace(function.identity, windows, capabilities, interrupt_pin=interrupt_pin(function, profile))


def _capabilities(function: type[AnyFunction], profile: object) -> list[Capability]:
    """What the author adds, for one type of mdev."""
    try:
        return [each(profile) if callable(each) else each for each in function.capabilities]
    except AttributeError as error:  # of a profile, whose type no checker knows there
        raise DriverError(f"{function.__name__}.capabilities: {told_of_profile(error, profile)}") from error


def interrupt_pin(function: type[AnyFunction], profile: object) -> int:
    """INTA where the device can interrupt, or its author says so; otherwise 0."""
    plans = [place.plan for place in places(function, profile)]
    return int(function.vectors is not None or any(plan.interrupts or plan.of_kind(Message) for plan in plans))


def with_vectors(
    function: type[AnyFunction], profile: object, without: dict[int, BarRegion]
) -> tuple[Sequence[Capability], dict[int, BarRegion]]:
    """The capability for messages, if any, and the BARs with that of the MSI-X table."""
    name, vectors = function.__name__, function.vectors
    interrupts = sum(len(place.plan.interrupts) for place in places(function, profile))
    if isinstance(vectors, MSIX):
        return _msix(name, vectors, interrupts, without)
    if isinstance(vectors, INTX) or not interrupt_pin(function, profile):
        return (), without
    wanted = vectors.vectors if isinstance(vectors, MSI) else max(1, interrupts)
    if wanted > _MOST_MSI:
        raise DriverError(f"{name}: {wanted} interrupts: MSI has at most 32 vectors; say vectors = MSIX({wanted})")
    return (Msi(1 << (wanted - 1).bit_length()),), without


def _msix(
    function: str, vectors: MSIX, interrupts: int, without: dict[int, BarRegion]
) -> tuple[Sequence[Capability], dict[int, BarRegion]]:
    if vectors.vectors < interrupts:
        raise DriverError(
            f"{function}: vectors: {interrupts} interrupts need MSIX({interrupts}), given {vectors.vectors}"
        )
    taken = set(_slots(without))
    free = [index for index in range(_BARS) if index not in taken]
    if vectors.bar is not None and vectors.bar not in free:
        raise DriverError(f"{function}: MSIX(bar={vectors.bar}): expected a free one, of {free}")
    if not free:
        raise DriverError(f"{function}: MSIX: the table needs a BAR of its own, and all six are taken")
    index = free[0] if vectors.bar is None else vectors.bar
    capability = Msix(vectors.vectors, table_bar=index)
    _bar, pba_offset, pba_size = capability.pba
    size = 1 << (max(PAGE, pba_offset + pba_size) - 1).bit_length()
    return (capability,), {**without, index: BarRegion(MemoryBar(size))}


def _slots(regions: dict[int, BarRegion]) -> Iterator[int]:
    for index, each in regions.items():
        yield from range(index, index + each.bar.slots)
