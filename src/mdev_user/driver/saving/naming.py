"""The names that a saved state has for the parts of a device: ``total``, ``ports[1].regs.lcr``."""

from collections.abc import Collection, Iterator, Mapping

from mdev_user.driver.unit import AnyUnit
from mdev_user.regs.mistakes import likeliest

Units = Mapping[str, AnyUnit]

MOST_LOOKED_AT = 1024


def prefixed(units: Units) -> Iterator[tuple[str, AnyUnit]]:
    return ((prefix_of(name), unit) for name, unit in units.items())


def prefix_of(unit: str) -> str:
    return f"{unit}." if unit else ""


def meant(name: str, names: Collection[str]) -> str:
    """The likeliest meant name, where there are not so many that a stranger could keep us looking for it."""
    hint = likeliest(name[:80], names) if len(names) <= MOST_LOOKED_AT else ""
    return hint if "did you mean" in hint else ""
