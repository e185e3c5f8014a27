"""`check` is tested by breaking the engine: each of `faults` must be found, and nothing when nothing is broken.

With ``-s`` the list is printed, with what was found; ``python -m drivers.faults`` prints it without a run.
"""

import pytest

from drivers.everything import Card
from drivers.faults import FAULTS
from mdev_user.testing import CheckFailed, check
from mdev_user.testing.conformance.checks import Checks
from mdev_user.testing.conformance.fresh import FreshInterpreters
from mdev_user.testing.conformance.search import Search

SEARCH = Search(examples=300, seed=0, seconds=0)


def test_there_are_at_least_twenty() -> None:
    assert len(FAULTS) >= 20


def test_engine_as_it_is_passes() -> None:
    check(Card)


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(name: str) -> None:
    fault = FAULTS[name]
    preamble = f"from drivers.faults import seed; seed({name!r})"
    with FreshInterpreters(Card, 0, preamble) as staying, FreshInterpreters(Card, 1, preamble) as moved:
        checks = Checks(Card, staying, moved, SEARCH)
        with pytest.raises(CheckFailed) as found:
            getattr(checks, fault.check)()
    print(f"{fault.what}: {str(found.value).splitlines()[0]}")
