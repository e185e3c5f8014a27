"""`check`: everything that must hold of a parent driver, tried with what nobody thought of.

What a driver declares says what its guest may see; so a machine can try it. It finds the shortest case that it can, and
prints it as a script.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from mdev_user.driver.parent import Parent
from mdev_user.testing.conformance.checks import Checks
from mdev_user.testing.conformance.fresh import FreshInterpreters
from mdev_user.testing.conformance.operations import Report
from mdev_user.testing.conformance.search import Search

EXAMPLES = 80
SECONDS = 10.0


def check(
    parent: type[Parent[Any, Any]],  # Any: of whatever profile
    *,
    examples: int = EXAMPLES,
    seed: int = 0,
    seconds: float = SECONDS,
    preamble: str = "",
    options: Mapping[str, str] | None = None,
) -> Report:
    """Try a parent driver; CheckFailed for the first thing that does not hold.

    Accesses of all sizes follow the declared access rules. Interrupts follow their declared conditions, a busy bit its
    job; a reset leaves what is declared to stay. Copied while it runs, stopped at any await and loaded into a fresh
    device in a fresh interpreter, the device behaves the same ever after. Damaged states and streams are refused, with
    the device as it was. What the mdevs of a parent take and give back adds up. No exception but GuestError comes out
    of the driver.

    ``examples`` cases are tried of each kind, the same at every run with the same ``seed``. A case that fails is made
    shorter for at most ``seconds``. ``preamble`` is Python that is run before the driver is imported. ``options`` are
    the parent's as text, as `serve` takes them: ``{"lanes": "4"}``; types that then have no room are left out.
    """
    with ExitStack() as stack:
        staying, moved = (stack.enter_context(FreshInterpreters(parent, number, preamble)) for number in (0, 1))
        checks = Checks(parent, staying, moved, Search(examples, seed, seconds), options)
        return Report(parent.__name__, tuple(each() for each in checks.all()))
