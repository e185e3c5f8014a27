"""`check` is tested by breaking the engine: each of `faults` must be found, and nothing when nothing is broken.

With ``-s`` the list is printed, with what was found; ``python -m drivers.faults`` prints it without a run.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from drivers.everything import Card
from drivers.faults import FAULTS
from mdev_user.testing import CheckFailed, check
from mdev_user.testing.conformance.checks import Checks
from mdev_user.testing.conformance.fresh import FreshInterpreters
from mdev_user.testing.conformance.search import Search
from unit.host.test_dirty_writes import Card as Writer

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


def test_script_of_a_finding_moves_the_device_as_the_check_did() -> None:
    """A page that is not sent again is lost only where it was written between two passes."""
    fault = "from drivers.faults import seed; seed('dirty_page_not_sent')"
    with pytest.raises(CheckFailed) as found:
        check(Card, seconds=2, preamble=fault)
    _what, _blank, script = str(found.value).partition("\n\n")
    assert "guest.copy(" in script
    broken = run(f"{fault}\n{script}")
    assert broken.returncode == 1, broken.stdout + broken.stderr
    assert "the state, in the device that was loaded: the saved memory differs" in broken.stdout
    sound = run(script)
    assert (sound.returncode, sound.stdout.splitlines()[-1]) == (0, "no difference")


def test_device_write_that_is_not_in_the_dirty_log_is_found() -> None:
    fault = "from mdev_user.vfio.dirty import DirtyLog; DirtyLog.mark = lambda *_: None"
    with (
        FreshInterpreters(Writer, 0, fault) as staying,
        FreshInterpreters(Writer, 1, fault) as moved,
        pytest.raises(CheckFailed, match="memory is"),
    ):
        Checks(Writer, staying, moved, SEARCH).behaviour()


def run(script: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
