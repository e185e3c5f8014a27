"""What the machine must have for the core areas: a skip that counts as a failure where it must not happen."""

import os
from typing import NoReturn

import pytest


def core_skip(reason: str) -> NoReturn:
    """Skip a test of a core area; under ``make test``, which sets up all that it needs, fail it instead."""
    if os.environ.get("MDEV_USER_REQUIRE_CORE") == "1":
        pytest.fail(f"a core area cannot be tested here: {reason}", pytrace=False)
    pytest.skip(reason)
