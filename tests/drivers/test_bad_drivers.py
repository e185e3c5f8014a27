"""Drivers with a mistake that no declaration shows: `check` finds each, well within a minute, and shows how."""

import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from drivers.bad import early, hidden, raising, unbounded, unordered
from mdev_user.driver import Parent
from mdev_user.testing import CheckFailed, check

TESTS = Path(__file__).parents[1]
SECONDS = 60.0


def found(parent: type[Parent[Any]], seconds: float = 5) -> str:  # Any: of whatever profile
    began = monotonic()
    with pytest.raises(CheckFailed) as failed:
        check(parent, seconds=seconds)
    assert monotonic() - began < SECONDS
    return str(failed.value)


def run(message: str) -> subprocess.CompletedProcess[str]:
    """The script in a message."""
    _what, _blank, script = message.partition("\n\n")
    environment = {"PYTHONPATH": str(TESTS), "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_state_in_a_global_is_found() -> None:
    message = found(hidden.Card)
    assert "in the device that was saved and loaded, at Read(region=0, offset=4, count=4), answer is" in message
    shown = run(message)
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "2, pin 0, messages []  |  loaded: 1, pin 0, messages []" in shown.stdout


def test_effect_before_the_last_await_is_found() -> None:
    message = found(early.Card)
    assert "in the device that was saved and loaded" in message
    assert "guest.step()" in message
    shown = run(message)
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "1, pin 0, messages []  |  loaded: 2, pin 0, messages []" in shown.stdout


def test_unbounded_dma_length_is_found() -> None:
    message = found(unbounded.Card)
    assert "bound the length that a guest gives" in message
    assert "guest.write(Regs.length, 0x" in message
    assert run(message).returncode == 0  # the device lives; what was asked for is what is wrong


def test_dependence_on_the_order_of_a_set_is_found() -> None:
    assert "in the device that was saved and loaded" in found(unordered.Card)


def test_exception_of_the_drivers_code_is_found() -> None:
    message = found(raising.Card)
    assert "ZeroDivisionError came out of the driver's code" in message
    assert "self.regs.quotient = 1000 // value" in message  # the traceback
    shown = run(message[message.index("from mdev_user.testing") - 2 :])
    assert "ZeroDivisionError" in shown.stderr


def test_job_without_an_end_is_found() -> None:
    message = found(raising.EndlessCard, seconds=1)
    assert "without waiting for time to pass" in message or "has not ended" in message
