"""What is said of a wrong declaration: what was expected, what was given, and the likeliest meant name."""

from collections.abc import Iterable
from difflib import get_close_matches

from mdev_user.errors import DriverError


def likeliest(given: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the one that was probably meant, or those there are."""
    known = sorted(names)
    if close := get_close_matches(given, known, 1):
        return f"; did you mean {close[0]}?"
    return f"; there are: {', '.join(known)}" if known else "; there are none"


def number(what: str, value: object, least: int, most: int) -> int:
    """``value``, or a DriverError when it is not an int from ``least`` to ``most``."""
    if isinstance(value, int) and least <= value <= most:
        return value
    given = f"{value:#x}" if isinstance(value, int) else repr(value)
    raise DriverError(f"{what}: expected a number from {least:#x} to {most:#x}, given {given}")
