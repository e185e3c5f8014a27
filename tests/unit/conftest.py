"""Fixtures of several unit tests: a control API whose daemon is made up."""

from collections.abc import Iterator

import pytest

from mdev_user.daemon.run_dir import RunDir
from unit.daemon.fake_operations import FakeOperations, served


@pytest.fixture
def operations() -> FakeOperations:
    return FakeOperations()


@pytest.fixture
def run_dir(operations: FakeOperations) -> Iterator[RunDir]:
    with served(operations) as run_dir:
        yield run_dir
